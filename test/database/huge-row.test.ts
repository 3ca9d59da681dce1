/** Rows larger than a process may be sent. The limit is a small one here. */
import { beforeAll, describe, expect, it, vi } from 'vitest'
import { DatabaseSource } from '../../src/clock/source.ts'
import { RangeLost, type Window } from '../../src/contract/change.ts'
import { createPool, type Pool } from '../../src/database/pool.ts'
import { Hub } from '../../src/hub/hub.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { Ticker } from '../support/ticker.ts'

const LIMIT = 1_000_000

describe.skipIf(!hasPostgres)('a row that is too large', () => {
  let database: TestDatabase
  let ticker: Ticker
  let pool: Pool
  let source: DatabaseSource
  const parked: string[] = []

  beforeAll(async () => {
    database = await createDatabase()
    await database.query(`
      create table huge (id int primary key, kind text not null, v text);
      create table small (id int primary key); insert into small values (1);
      insert into huge select i, 'small', repeat('x', 10) from generate_series(1, 200) i;
      select freshet.watch('huge', filters => '{kind,v}'), freshet.watch('huge', 'kinds', columns => '{kind}'), freshet.watch('small')`)
    ticker = await Ticker.start(database)
    pool = createPool({ url: database.url, max: 6, onError: () => undefined })
    source = new DatabaseSource(pool, { maxRowBytes: LIMIT, onParked: (channel) => parked.push(channel) })
    return () => pool.end()
  })

  async function windowOf(name: string, filters: Readonly<Record<string, string>> = {}): Promise<Window> {
    const channel = (await source.readCatalog()).channels.find((candidate) => candidate.name === name)
    if (channel === undefined) throw new Error(`no channel ${name}`)
    return { channel, filters: new Map(Object.entries(filters)) }
  }

  async function rowsOf(window: Window): Promise<readonly string[]> {
    const reading = await source.openState([window], ticker.versionAfter)
    try {
      const rows: string[] = []
      for await (const batch of reading.rows(window)) for (const [, row] of batch) rows.push(row)
      return rows
    } finally {
      await reading.close()
    }
  }

  async function selected(condition: string): Promise<readonly string[]> {
    return (await database.query<{ row: string }>(`select row_to_json(huge)::text as row from huge where ${condition} order by ctid`)).map(({ row }) => row)
  }

  async function read(reading: AsyncIterable<unknown>): Promise<number> {
    let count = 0
    for await (const batch of reading) count += Array.isArray(batch) ? batch.length : 1
    return count
  }

  it('Bounded: a large one among small ones comes by itself, whole and in its place', async () => {
    await database.query(`update huge set v = repeat('large ', 100000) where id in (20, 77, 150)`)
    await ticker.tick()
    const rows = await rowsOf(await windowOf('huge'))
    expect(rows.map(({ length }) => length).filter((length) => length > 500_000)).toHaveLength(3)
    expect(rows).toEqual(await selected('true'))
  })

  it('Loud, Up: parks its channel with the cause, which nobody else notices, and nobody makes PostgreSQL write it down again meanwhile', async () => {
    await database.query(`insert into huge values (1000, 'huge', repeat('x', $1))`, [LIMIT])
    await ticker.tick()
    const window = await windowOf('huge')
    const cause = { code: 'channel_parked', message: `Channel "huge" cannot be served: a row of public.huge is larger as JSON than 1 MB.` }
    await expect(rowsOf(window)).rejects.toMatchObject(cause)
    const connecting = vi.spyOn(pool, 'connect')
    await expect(source.openState([window], ticker.versionAfter)).rejects.toMatchObject(cause)
    expect(connecting).not.toHaveBeenCalled()
    connecting.mockRestore()
    expect(parked).toEqual(['huge'])
    // Other channels of the same table, and its filters that the row does not pass.
    expect(await rowsOf(await windowOf('kinds'))).toHaveLength(201)
    expect(await rowsOf(await windowOf('huge', { kind: '"small"' }))).toEqual(await selected(`kind = 'small'`))
    await expect(rowsOf(await windowOf('huge', { kind: '"huge"' }))).rejects.toMatchObject(cause)
    await expect.poll(() => pool.idleCount).toBe(pool.totalCount)
  })

  it('is not read from the log either: its readers start anew, from the table', async () => {
    const { channel: { table: { id } } } = await windowOf('huge')
    const since = ticker.head
    await database.query(`update huge set v = repeat('y', $1) where id = 1000`, [LIMIT])
    await ticker.tick()
    const range = { since, version: ticker.head, tableId: id }
    await expect(read(source.readRuns(range))).rejects.toThrow(RangeLost)
    await expect(read(source.readChanges({ ...range, isFiltered: false }))).rejects.toThrow(RangeLost)
    await database.query(`update huge set v = '' where id = 1000`)
    await ticker.tick()
    const later = { ...range, version: ticker.head }
    expect(await read(source.readRuns(later)), 'the last state of the key is small').toBe(1)
    await expect(read(source.readChanges({ ...later, isFiltered: true })), 'what it was before is not').rejects.toThrow(RangeLost)
    expect(await read(source.readChanges({ ...later, isFiltered: false }))).toBe(1)
  })

  it('Loud: a client whose delta would have it gets a reset where that can be read, else the cause', async () => {
    const hub = new Hub({ source: new DatabaseSource(pool, { maxRowBytes: LIMIT }), onError: (error) => { throw error }, ringBytes: 0 })
    const since = ticker.head
    await database.query(`insert into huge values (1001, 'huge', repeat('z', ${LIMIT})); insert into small values (2)`)
    await ticker.tick()
    await hub.load()
    const cursor = { epoch: hub.epoch, number: since }
    // The rows before it were on their way already: the answer breaks off, and the next says why.
    const broken = await hub.answer([await hub.window('huge', new Map())], cursor)
    if (broken.kind !== 'delta' || !(Symbol.asyncIterator in broken.parts)) throw new Error('it is more than is held')
    await expect(read(broken.parts)).rejects.toMatchObject({ code: 'channel_parked' })
    await expect(hub.answer([await hub.window('huge', new Map())], cursor)).rejects.toMatchObject({ code: 'channel_parked' })
    expect(await hub.answer([await hub.window('kinds', new Map())], cursor)).toMatchObject({ since: null, version: ticker.head })
    expect(await hub.answer([await hub.window('small', new Map())], cursor)).toMatchObject({ since })
  })
})
