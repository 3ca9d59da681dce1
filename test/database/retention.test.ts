import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { Housekeeper } from '../../src/clock/housekeeper.ts'
import { forgetVersions, rememberTouched, turnLog } from '../../src/clock/retention.ts'
import { RangeLost } from '../../src/contract/change.ts'
import { createPool, withClient, type Pool } from '../../src/database/pool.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { foldedBy, readFolded } from '../support/folded.ts'
import { startLeader, startNode, tableIdOf } from '../support/node.ts'
import { Ticker } from '../support/ticker.ts'

interface State {
  readonly slot: number
  readonly floor: number
  readonly lines: readonly [number, number]
  readonly versions: readonly number[]
}

async function stateOf(database: TestDatabase): Promise<State> {
  const [state] = await database.query<{ slot: number; floor: string; zero: string; one: string; versions: string[] }>(`
    select pg_sequence_last_value('freshet.slot')::int as slot, floor, (select count(*) from freshet.changes_0) as zero, (select count(*) from freshet.changes_1) as one,
      array(select number from freshet.versions order by number) as versions from freshet.state`)
  if (state === undefined) throw new Error('no state')
  return { slot: state.slot, floor: Number(state.floor), lines: [Number(state.zero), Number(state.one)], versions: state.versions.map(Number) }
}

describe.skipIf(!hasPostgres)('the turn of the log', () => {
  let database: TestDatabase
  let ticker: Ticker
  let pool: Pool
  let id = 0
  /** The last version that touched the table `quiet`. */
  let lastTouched = 0

  beforeAll(async () => {
    database = await createDatabase()
    await database.query(`create table t (id int primary key); create table quiet (id int primary key); create table long (id int primary key, body text);
      select freshet.watch('t'); select freshet.watch('quiet'); select freshet.watch('long')`)
    ticker = await Ticker.start(database)
    await database.query('insert into quiet values (1)')
    lastTouched = (await ticker.tick())?.number ?? 0
    pool = createPool({ url: database.url, max: 3, onError: () => undefined })
    return () => pool.end()
  })

  // Both tables of the log hold something numbered, and nothing is open.
  beforeEach(async () => {
    await write()
    expect(await turn()).toBe(true)
    await write()
  })

  const turn = (): Promise<boolean> => turnLog({ pool, keepMs: 0, maxBytes: 1e9 })

  async function write(): Promise<number> {
    id += 1
    await database.query('insert into t values ($1)', [id])
    return (await ticker.tick())?.number ?? 0
  }

  it('empties the older table and uses it next; the other one stays', async () => {
    const before = await stateOf(database)
    expect(await turn()).toBe(true)
    const after = await stateOf(database)
    expect(after.slot).toBe(1 - before.slot)
    expect(after.lines[after.slot]).toBe(0)
    expect(after.lines[before.slot]).toBe(before.lines[before.slot])
    await write()
    expect((await stateOf(database)).lines[after.slot]).toBe(1)
  })

  it('comes when the log is old or large enough, or its versions are, and not before', async () => {
    expect(await turnLog({ pool, keepMs: 3_600_000, maxBytes: 1e9 })).toBe(false)
    expect(await turnLog({ pool, keepMs: 3_600_000, maxBytes: 1e3 })).toBe(true)
    await write()
    // Ten thousand versions take more than a megabyte; the log of a single line does not.
    expect(await turnLog({ pool, keepMs: 3_600_000, maxBytes: 1e6 })).toBe(false)
    await database.query(`insert into freshet.versions (number, snapshot) select $1::bigint + i, snapshot from freshet.versions, generate_series(1, 10000) i where number = $1`, [ticker.head])
    expect(await turnLog({ pool, keepMs: 3_600_000, maxBytes: 1e6 })).toBe(true)
    expect(await turnLog({ pool, keepMs: 3_600_000, maxBytes: 1e6 })).toBe(false)
    ticker = await Ticker.start(database)
    // So does one row, though it is too long for the line that tells of it.
    await database.query(`insert into long select 1, string_agg(md5(i::text), '') from generate_series(1, 60000) i`)
    await ticker.tick()
    expect(await turnLog({ pool, keepMs: 3_600_000, maxBytes: 1e6 })).toBe(true)
  })

  it('raises the floor to the first version that sees all that is emptied, and no higher', async () => {
    await turn()
    const needed = [await write(), await write()]
    await turn()
    const kept = [await write(), await write()]
    await turn()
    // The second of them saw all of the table that was emptied; what came since is still there.
    expect((await stateOf(database)).floor).toBe(needed[1])
    await turn()
    expect((await stateOf(database)).floor).toBe(kept[1])
  })

  it('counts a late committer where it was numbered, not where it began', async () => {
    const late = await database.connect()
    await late.query('begin; insert into t values (-1)')
    await turn()
    const early = await write()
    await late.query('commit')
    const version = (await ticker.tick())?.number ?? 0
    expect(version).toBeGreaterThan(early)
    await turn()
    expect((await stateOf(database)).floor).toBe(version)
    await database.query('delete from t where id = -1')
    await ticker.tick()
  })

  it('No loss: waits for a version that has numbered what it would empty', async () => {
    await database.query(`insert into t values (-2)`)
    await turn()
    const before = await stateOf(database)
    // The line is in the older table by now, committed, and no version sees it.
    expect(await turn()).toBe(false)
    expect(await stateOf(database)).toEqual(before)
    await ticker.tick()
    expect(await turn()).toBe(true)
    await database.query('delete from t where id = -2')
    await ticker.tick()
  })

  it('Harmless: waits for an open writer of the table without making anybody wait', async () => {
    const open = await database.connect()
    await open.query('begin; insert into t values (-3)')
    expect(await turn()).toBe(true)
    const turning = turn()
    // As long as the other transaction is open: who waited for it would wait for ever.
    await write()
    expect(await turning).toBe(false)
    await open.query('rollback')
    expect(await turn()).toBe(true)
  })

  it('Bounded: does not wait for a transaction that is open elsewhere', async () => {
    const open = await database.connect()
    await open.query('begin; create table elsewhere (id int)')
    for (let round = 0; round < 3; round += 1) {
      expect(await turn()).toBe(true)
      await write()
    }
    await open.query('rollback')
  })

  it('lets a reader of the table finish first', async () => {
    const reader = await database.connect()
    await reader.query('begin; select count(*) from freshet.changes')
    expect(await turn()).toBe(false)
    await reader.query('commit')
    expect(await turn()).toBe(true)
  })

  it('forgets the versions below the floor, but for the leaps and the newest', async () => {
    const [first] = (await stateOf(database)).versions
    for (let round = 0; round < 3; round += 1) {
      await write()
      await turn()
    }
    await forgetVersions(pool)
    const { floor, versions } = await stateOf(database)
    expect(versions[0], 'a leap').toBe(first)
    expect(versions.at(-1)).toBe(ticker.head)
    const leaps = await database.query<{ number: string }>('select number from freshet.versions where leapt_from is not null')
    expect(versions.filter((number) => number < floor)).toEqual(leaps.map(({ number }) => Number(number)).filter((number) => number < floor))
  })

  it('keeps the cursor of a quiet channel good far below the floor, also on a node that starts later', async () => {
    await withClient(pool, rememberTouched)
    await forgetVersions(pool)
    const { floor } = await stateOf(database)
    expect(floor).toBeGreaterThan(lastTouched)
    const node = startNode(database, { isDeaf: true, neverLeads: true })
    await node.hub.load()
    const window = await node.hub.window('quiet', new Map())
    expect(await node.hub.answer([window], { epoch: node.hub.epoch, number: lastTouched })).toEqual({ kind: 'unchanged' })
    await node.close()
  })
})

describe.skipIf(!hasPostgres)('turning under load', () => {
  it('No loss: twenty turns among writers lose nothing, and every version can be read on from whole, or not at all', { timeout: 60_000 }, async () => {
    const database = await createDatabase()
    await database.query(`create table t (id int primary key, v int); select freshet.watch('t')`)
    const node = await startLeader(database, { safetyMs: 200 })
    const tableId = await tableIdOf(database, 't')
    let isOver = false
    let committed = 0
    const writers = Array.from({ length: 5 }, async (_, writer) => {
      const client = await database.connect()
      for (let round = 0; !isOver; round += 1) {
        await client.query('begin')
        await client.query('insert into t values ($1, $2) on conflict (id) do update set v = excluded.v', [(writer * 1_000) + round % 50, round])
        if (round % 4 === 0) await client.query('select pg_sleep(0.02)')
        await client.query('commit')
        committed += 1
      }
    })
    let turns = 0
    const read = { whole: 0, lost: 0 }
    while (turns < 20) {
      if (await turnLog({ pool: node.pool, keepMs: 0, maxBytes: 1e9 })) turns += 1
      await forgetVersions(node.pool)
      const known = node.versions.map(({ number }) => number)
      for (const since of [known.at(-2), known.at(-20), known.at(-200)]) {
        const version = known.at(-1)
        if (since === undefined || version === undefined) continue
        const range = { since, version, tableId, isFiltered: turns % 2 === 0 }
        try {
          expect(await readFolded(node.source, range)).toEqual(foldedBy(node.versions, range))
          read.whole += 1
        } catch (error) {
          if (!(error instanceof RangeLost)) throw error
          read.lost += 1
        }
      }
    }
    isOver = true
    await Promise.all(writers)
    await expect.poll(() => node.versions.flatMap(({ changes }) => changes ?? []).filter(({ key }) => key !== null).length).toBe(committed)
    expect(read.whole).toBeGreaterThan(10)
    expect(read.lost).toBeGreaterThan(10)
    expect(node.errors).toEqual([])
  })
})

describe.skipIf(!hasPostgres)('the housekeeper', () => {
  it('turns the log though one of its other jobs fails, renews the service and says how writers wake the clock', async () => {
    const database = await createDatabase()
    await database.query(`create table t (id int primary key); select freshet.watch('t'); select freshet.configure('wake', 'poll')`)
    await Ticker.start(database)
    await database.query(`create or replace function freshet.detect_drift() returns table (table_name text, outcome text) language plpgsql as $$ begin raise exception 'no drift today'; end $$`)
    await database.query(`select setval('freshet.abandoned_after', (extract(epoch from clock_timestamp()) * 1000)::bigint + 60000)`)
    const pool = createPool({ url: database.url, max: 3, onError: () => undefined })
    const heard: unknown[] = []
    const errors: string[] = []
    const housekeeper = new Housekeeper({
      pool, keepMs: 0, maxBytes: 1e9, everyMs: 20, isLeading: () => true, onDrift: () => undefined,
      onPolls: (polls) => heard.push(polls), onTurned: () => heard.push('turned'), onLapsed: () => heard.push('lapsed'), onError: ({ message }) => errors.push(message),
    })
    housekeeper.start()
    await expect.poll(() => heard).toContain('turned')
    await housekeeper.close()
    await pool.end()
    expect(heard[0]).toBe(true)
    expect(new Set(errors)).toEqual(new Set(['no drift today']))
    const [service] = await database.query<{ renewed: boolean }>(`select pg_sequence_last_value('freshet.abandoned_after') > extract(epoch from clock_timestamp()) * 1000 + 80000000 as renewed`)
    expect(service?.renewed).toBe(true)
    expect(heard).not.toContain('lapsed')
  })

  it('rests many times as long as it took to compare the tables with the catalog, also after a failure', async () => {
    const database = await createDatabase()
    await database.query(`create sequence compared; create or replace function freshet.detect_drift() returns table (table_name text, outcome text)
      language plpgsql as $$ begin perform nextval('public.compared'), pg_sleep(0.2); raise exception 'and the same after a failure'; end $$`)
    const pool = createPool({ url: database.url, max: 3, onError: () => undefined })
    let rounds = 0
    const housekeeper = new Housekeeper({
      pool, keepMs: 60_000, maxBytes: 1e9, everyMs: 5, isLeading: () => true, onDrift: () => undefined, onPolls: () => { rounds += 1 },
      onTurned: () => undefined, onLapsed: () => undefined, onError: () => undefined,
    })
    housekeeper.start()
    await expect.poll(() => rounds).toBeGreaterThan(10)
    await housekeeper.close()
    await pool.end()
    expect(await database.query('select last_value::int as times from compared')).toEqual([{ times: 1 }])
  })

  it('No loss: never renews a service that had run out, when capture may have stopped, and says so', async () => {
    const database = await createDatabase()
    const pool = createPool({ url: database.url, max: 3, onError: () => undefined })
    await database.query(`select setval('freshet.abandoned_after', (extract(epoch from clock_timestamp()) * 1000)::bigint - 1000)`)
    const before = await database.query(`select pg_sequence_last_value('freshet.abandoned_after') as lease`)
    let lapsed = 0
    const housekeeper = new Housekeeper({
      pool, keepMs: 60_000, maxBytes: 1e9, everyMs: 5, isLeading: () => true, onDrift: () => undefined, onPolls: () => undefined,
      onTurned: () => undefined, onLapsed: () => { lapsed += 1 }, onError: () => undefined,
    })
    housekeeper.start()
    await expect.poll(() => lapsed).toBeGreaterThan(1)
    await housekeeper.close()
    await pool.end()
    expect(await database.query(`select pg_sequence_last_value('freshet.abandoned_after') as lease`)).toEqual(before)
  })

  it('leaves everything to the leader', async () => {
    const database = await createDatabase()
    const pool = createPool({ url: database.url, max: 3, onError: () => undefined })
    await database.query(`select setval('freshet.abandoned_after', 1)`)
    let asked = 0
    const housekeeper = new Housekeeper({
      pool, keepMs: 0, maxBytes: 1e9, everyMs: 5, isLeading: () => { asked += 1; return false }, onDrift: () => undefined, onPolls: () => undefined,
      onTurned: () => undefined, onLapsed: () => undefined, onError: () => undefined,
    })
    housekeeper.start()
    await expect.poll(() => asked).toBeGreaterThan(3)
    await housekeeper.close()
    await pool.end()
    expect(await database.query(`select pg_sequence_last_value('freshet.abandoned_after')::int as lease`)).toEqual([{ lease: 1 }])
  })
})
