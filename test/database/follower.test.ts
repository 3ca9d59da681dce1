import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { Follower } from '../../src/clock/follower.ts'
import type { LoggedVersion } from '../../src/contract/change.ts'
import { createPool, type Pool } from '../../src/database/pool.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { Ticker } from '../support/ticker.ts'

describe.skipIf(!hasPostgres)('a follower', () => {
  let database: TestDatabase
  let ticker: Ticker
  let pool: Pool
  let epoch: string
  let delivered: LoggedVersion[]
  let ruptures: number
  let head: number

  beforeAll(async () => {
    database = await createDatabase()
    await database.query(`create table t (id int primary key, v text); select freshet.watch('t', filters => '{v}')`)
    ticker = await Ticker.start(database)
    epoch = (await database.query<{ epoch: string }>('select epoch from freshet.state'))[0]?.epoch ?? ''
    pool = createPool({ url: database.url, max: 3, onError: () => undefined })
    return () => pool.end()
  })

  beforeEach(() => {
    delivered = []
    ruptures = 0
    head = ticker.head
  })

  function follower(known = epoch): Follower {
    return new Follower({
      pool, head: () => head, epoch: () => known,
      onVersion: (version) => { delivered.push(version); head = version.number },
      onContact: () => undefined,
      onRupture: () => { ruptures += 1; return Promise.resolve() },
    })
  }

  it('delivers what the clock has numbered, exactly as the clock had it', async () => {
    const from = ticker.versions.length
    for (let id = 1; id <= 5; id += 1) {
      await database.query(`insert into t values ($1, 'a'), ($1 + 100, null)`, [id])
      await ticker.tick()
    }
    await database.query(`update t set v = 'b'; delete from t where id = 3`)
    await ticker.tick()
    await database.query('truncate t')
    await ticker.tick()
    await database.query(`insert into t select i, 'x' from generate_series(1, 5001) i`)
    await ticker.tick()
    await database.query(`insert into t values (9001, repeat('x', 5000000))`)
    await ticker.tick()
    await follower().catchUp()
    expect(delivered).toHaveLength(9)
    expect(delivered.at(-2)?.changes, 'too many to be carried').toBeNull()
    expect(delivered.at(-1)?.changes, 'too large to be carried').toBeNull()
    expect(delivered).toEqual(ticker.versions.slice(from))
  })

  it('delivers the very first version as well', async () => {
    head = 0
    await follower().catchUp()
    expect(delivered[0]).toEqual(ticker.versions[0])
    expect(ruptures).toBe(0)
  })

  it('delivers more than a page of versions, once each and in order', async () => {
    const from = ticker.versions.length
    for (let id = 1; id <= 120; id += 1) {
      await database.query(`update t set v = $1 where id = 1`, [String(id)])
      await ticker.tick()
    }
    const one = follower()
    await Promise.all([one.catchUp(), one.catchUp(), one.catchUp()])
    expect(delivered).toEqual(ticker.versions.slice(from))
  })

  it('does not lose a call that comes while it reads, or in the very moment that a reading ends', async () => {
    const one = follower()
    for (let id = 1; id <= 10; id += 1) {
      const reading = one.catchUp()
      await database.query(`update t set v = 'during' || $1 where id = 1`, [id])
      const version = await ticker.tick()
      // At once in the end of the first, before anything else can run.
      await Promise.all([reading.then(() => one.catchUp()), one.catchUp()])
      expect(head).toBe(version?.number)
    }
  })

  it('No ghost: reports a head that the table has lost, and a new epoch, and delivers nothing of them', async () => {
    await database.query(`update t set v = 'r' where id = 1`)
    await ticker.tick()
    head = ticker.head - 1
    await follower('another').catchUp()
    expect([ruptures, delivered]).toEqual([1, []])
    head = ticker.head + 7
    await follower().catchUp()
    expect([ruptures, delivered]).toEqual([2, []])
  })

  it('Loud: hands on a version whose changes have left the log as one to be asked for, never as a short one', async () => {
    await database.query(`update t set v = 'gone' where id in (1, 2)`)
    const version = await ticker.tick()
    await database.query(`delete from freshet.changes_0 where key = '{"id":2}' and new_row like '%gone%'`)
    await follower().catchUp()
    expect(delivered).toEqual([{ ...version, changes: null }])
  })

  it('rejects when the database is away, and reads on when it is back', async () => {
    await database.query(`update t set v = 'away' where id = 1`)
    const version = await ticker.tick()
    const one = follower()
    await pool.query('select 1')
    const reading = one.catchUp().catch(() => undefined)
    await database.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'freshet:pool' and datname = current_database()`)
    await reading
    await one.catchUp().catch(() => one.catchUp())
    expect(head).toBe(version?.number)
  })
})
