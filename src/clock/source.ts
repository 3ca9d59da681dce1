/**
 * Answers what the hub does not remember: changes out of the log, whole states out of the tables, filter values by their type.
 * Promise: a state is one that existed. Its rows are one snapshot; what that snapshot saw and no version numbered yet is waited for,
 * and what the awaited version sees beyond the snapshot is handed along. A range the log no longer holds is `RangeLost`, never short.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { RangeLost } from '../contract/change.ts'
import type { Catalog, ChangeRange, ChangeSource, ColumnDefinition, FoldedChange, LoggedChange, StateReading, StateRow, Window } from '../contract/change.ts'
import { sqlState, withClient, type Pool, type PoolClient } from '../database/pool.ts'
import { ApiError, quoted } from '../errors.ts'
import { ahead, BATCH_BYTES } from './ahead.ts'
import { readCatalog } from './catalog.ts'
import { FOLDED_CHANGES, FOLDED_ROWS, FOLDED_RUNS, fromLines, fromRun, LATER_CHANGES, parseSnapshot, RANGE_SNAPSHOTS } from './log.ts'
import { Places } from './places.ts'
import { openRuns } from './runs.ts'
import { keyOf, publishedColumns, quoteIdentifier, tableOf, toRangeLost } from './table.ts'

/** A batch is at most so many rows, or about BATCH_BYTES. */
const BATCH_ROWS = 1_000
const FIRST_BATCH_ROWS = 50
/** Large readings at once, at least: each holds a connection, and a state a snapshot. The others wait their turn. */
const LEAST_READINGS = 4
/** Of a larger pool, so many connections are left to small questions. */
const SPARE_CONNECTIONS = 4

/** So often, each time for so long, less than PostgreSQL waits before it looks for deadlocks: it must never be the host that is ended. */
const LOCK_TRIES = 6
const LOCK_TIMEOUT = '500ms'
/** How long a state that waits for the clock keeps its tables locked: the host may be waiting to alter them. */
const MAX_LOCKED_MS = 250

/** The log is too young for statistics: without them the planner may compare every change with every other, or sort where hashing does. Left are joins and groups by hash. */
const BEGIN_FOLD = `begin read only; set local work_mem = '32MB'; set local enable_mergejoin = off; set local enable_nestloop = off; set local enable_sort = off`

/** With the names that the tables ($1) have by now. */
const STATE_HEADER = `
select pg_current_snapshot()::text as snapshot, number, versions.snapshot::text as version_snapshot,
  (select json_object_agg(id, freshet.quoted_name(relation)) from freshet.tables where id = any ($1::int[])) as names
from freshet.versions order by number desc limit 1`

/** Transactions whose changes of these tables ($3) the reader's snapshot sees and the newest version does not. */
const UNNUMBERED = `
select array(select distinct xid::text from freshet.changes where (xid >= $1::xid8 or xid = any ($2::xid8[])) and table_id = any ($3::int[])) as transactions`

const FIRST_SEEING = `
select number, snapshot::text as snapshot from freshet.versions
where number > $1::bigint and (select bool_and(pg_visible_in_snapshot(id, snapshot)) from unnest($2::xid8[]) id)
order by number limit 1`

export class DatabaseSource implements ChangeSource {
  readonly #pool: Pool
  readonly #places: Places

  constructor(pool: Pool) {
    this.#pool = pool
    this.#places = new Places(Math.max(LEAST_READINGS, pool.options.max - SPARE_CONNECTIONS))
  }

  readCatalog(): Promise<Catalog> {
    return readCatalog(this.#pool)
  }

  async *readChanges({ isFiltered, ...range }: ChangeRange): AsyncIterable<readonly FoldedChange[]> {
    for await (const run of this.#readFolded(isFiltered ? FOLDED_CHANGES : FOLDED_ROWS, range)) yield fromRun(run)
  }

  readRuns(range: Omit<ChangeRange, 'isFiltered'>): AsyncIterable<string> {
    return this.#readFolded(FOLDED_RUNS, range)
  }

  async *#readFolded(query: string, { since, version, tableId }: Omit<ChangeRange, 'isFiltered'>): AsyncIterable<string> {
    const leave = await this.#places.take({ tableIds: [tableId], of: 'log' })
    let client: PoolClient | undefined
    let failed = true
    try {
      client = await this.#pool.connect()
      const range = await readRange(client, since, version)
      const { xmax, inProgress } = parseSnapshot(range.since)
      yield* fetchRuns(client, query, [xmax, inProgress, range.version, tableId])
      // Checked after reading: the log may have turned in between.
      await readRange(client, since, version)
      failed = false
    } finally {
      client?.release(failed)
      leave()
    }
  }

  async openState(windows: readonly Window[], versionAfter: (number: number) => Promise<number>): Promise<StateReading> {
    const leave = await this.#places.take({ tableIds: [...new Set(windows.map(({ channel }) => channel.table.id))], of: 'state' })
    let client: PoolClient | undefined
    try {
      client = await this.#pool.connect()
      for (;;) {
        const state = await this.#readState(client, windows, versionAfter)
        if (typeof state !== 'number') return { ...state, close: () => state.close().finally(leave) }
        // The clock is late: the host's tables are not kept locked until it comes.
        await client.query('rollback')
        await versionAfter(state)
      }
    } catch (error) {
      client?.release(true)
      leave()
      throw error
    }
  }

  async castFilter(column: ColumnDefinition, value: string): Promise<string> {
    try {
      const { rows } = await this.#pool.query<{ value: string }>(`select to_json($1::text::${column.comparedAs})::text as value`, [value])
      return rows[0]?.value ?? 'null'
    } catch (error) {
      // The value is not of the type (class 22), or not of the domain (23).
      if (!/^2[23]/.test(sqlState(error) ?? '')) throw error
      throw new ApiError('invalid_filter', `The value ${quoted(value)} of filter ${quoted(column.name)} is not of type ${column.type}.`, { parameter: column.name, cause: error })
    }
  }

  /** A number: what the snapshot saw was not numbered soon enough; ask again after that version. */
  async #readState(client: PoolClient, windows: readonly Window[], versionAfter: (number: number) => Promise<number>): Promise<StateReading | number> {
    const tables = [...new Map(windows.map(({ channel }) => [channel.table.id, channel.table])).values()]
    const tableIds = tables.map(({ id }) => id)
    await lockTables(client, tables.map(({ name }) => name))
    const { rows: [header] } = await client.query<StateHeader>(STATE_HEADER, [tableIds])
    if (header === undefined) throw new ApiError('database_unreachable', 'No version has been numbered yet.')
    // Renamed since: another table may bear the name.
    if (tables.some(({ id, name }) => header.names?.[id] !== name)) throw new RangeLost('the table has another name by now')
    const { xmax, inProgress } = parseSnapshot(header.version_snapshot)
    const { rows: [unnumbered] } = await client.query<{ transactions: string[] }>(UNNUMBERED, [xmax, inProgress, tableIds])
    const version = await this.#numberedVersion(Number(header.number), unnumbered?.transactions ?? [], versionAfter)
    if (version === null) return Number(header.number)
    const later = version.snapshot === null ? new Map<number, ReadonlyMap<string, LoggedChange>>()
      : await this.#readLater(header.snapshot, version.snapshot, tableIds)
    // Asked after reading: what was emptied in between would have been missed.
    const { rows: [log] } = await this.#pool.query<{ floor: string }>('select floor from freshet.state')
    if (log === undefined || Number(log.floor) > Number(header.number)) throw new RangeLost('the log turned while the table was read')
    return {
      version: version.number,
      later,
      rows: (window) => readRows(client, window),
      runs: (window) => openRuns(client, this.#pool, window),
      close: async () => {
        try {
          await client.query('rollback')
          client.release()
        } catch {
          client.release(true)
        }
      },
    }
  }

  /** The first version that sees all of the transactions, without a snapshot when that is the version given; null: none soon. */
  async #numberedVersion(number: number, transactions: readonly string[], versionAfter: (number: number) => Promise<number>): Promise<{ number: number; snapshot: string | null } | null> {
    if (transactions.length === 0) return { number, snapshot: null }
    const isLate = delay(MAX_LOCKED_MS, null, { ref: false })
    for (let known: number | null = number; known !== null;) {
      const { rows: [first] } = await this.#pool.query<{ number: string; snapshot: string }>(FIRST_SEEING, [number, transactions])
      if (first !== undefined) return { number: Number(first.number), snapshot: first.snapshot }
      known = await Promise.race([versionAfter(known), isLate])
    }
    return null
  }

  async #readLater(from: string, to: string, tableIds: readonly number[]): Promise<Map<number, ReadonlyMap<string, LoggedChange>>> {
    const { xmax, inProgress } = parseSnapshot(from)
    const read = await withClient(this.#pool, async (client) => {
      await client.query(BEGIN_FOLD)
      const { rows: [row] } = await client.query<{ carried: boolean; lines: string | null }>(LATER_CHANGES, [xmax, inProgress, to, tableIds])
      await client.query('rollback')
      return row
    })
    // The caller tries again, with a snapshot that sees it.
    if (read?.carried !== true) throw new RangeLost('too much changed while the table was read')
    const later = new Map(tableIds.map((id) => [id, new Map<string, LoggedChange>()]))
    for (const change of fromLines(read.lines)) {
      // The table started anew under the reader: its rows are of no version.
      if (change.key === null) throw new RangeLost('the table started anew while it was read')
      later.get(change.tableId)?.set(change.key, change)
    }
    return later
  }
}

interface StateHeader {
  readonly snapshot: string
  readonly number: string
  readonly version_snapshot: string
  readonly names: Readonly<Record<number, string | null>> | null
}

/** Begins the transaction of a state. The locks come before its snapshot: behind an ALTER one taken first can see an empty table. */
async function lockTables(client: PoolClient, names: readonly string[]): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await client.query(`begin isolation level repeatable read read only; set local lock_timeout = '${LOCK_TIMEOUT}'`)
      await client.query(`lock table ${names.join(', ')} in access share mode`)
      return
    } catch (error) {
      await client.query('rollback')
      // Dropped, moved or renamed: what the reader knows of it is out of date.
      if (/^(42P01|3F000)$/.test(sqlState(error) ?? '')) throw new RangeLost('the table is not there any more', { cause: error })
      if (sqlState(error) !== '55P03' || attempt === LOCK_TRIES) throw error
    }
  }
}

async function readRange(client: PoolClient, since: number, version: number): Promise<{ since: string; version: string }> {
  const { rows: [range] } = await client.query<{ since: string | null; version: string | null }>(RANGE_SNAPSHOTS, [since, version])
  if (range?.since == null || range.version === null) throw new RangeLost(`the log no longer holds what changed since ${since}`)
  return { since: range.since, version: range.version }
}

/** In batches through a cursor: a bulk load is larger than memory. */
async function* fetchRuns(client: PoolClient, query: string, values: readonly unknown[]): AsyncIterable<string> {
  await client.query(BEGIN_FOLD)
  await client.query(`declare folded no scroll cursor for ${query}`, [...values])
  const batches = fetchAll<[run: string]>({ first: 1, bytesOf: ([run]) => run.length,
    fetch: async (count) => (await client.query<[string]>({ text: `fetch ${count} from folded`, rowMode: 'array' })).rows })
  for await (const runs of batches) for (const [run] of runs) yield run
  await client.query('rollback')
}

async function* readRows(client: PoolClient, { channel, filters }: Window): AsyncIterable<readonly StateRow[]> {
  const conditions = [...filters.keys()].map((name, index) => {
    const type = channel.table.columns.find((column) => column.name === name)?.comparedAs ?? 'text'
    return `t.${quoteIdentifier(name)}::${type} = $${index + 1}::text::${type}`
  })
  // A cursor cannot take the planner's word for it that few rows are wanted: all of them are.
  await client.query('set local cursor_tuple_fraction = 1; set local enable_seqscan = on')
  await declare(client, `declare state no scroll cursor for select ${keyOf(channel)}, row_to_json(published.*)::text
    from (select ${publishedColumns(channel)} from ${tableOf(channel)} t${conditions.length === 0 ? '' : ` where ${conditions.join(' and ')}`}) as published`,
  [...filters.values()].map((value) => jsonText(value)))
  yield* fetchAll<StateRow>({ first: FIRST_BATCH_ROWS, bytesOf: ([, row]) => row.length,
    fetch: async (count) => (await client.query<[string, string]>({ text: `fetch ${count} from state`, rowMode: 'array' })).rows })
  await client.query('close state')
}

/** All batches of a cursor. */
async function* fetchAll<Row>({ first, fetch, bytesOf }: { first: number; fetch: (count: number) => Promise<readonly Row[]>; bytesOf: (row: Row) => number }): AsyncIterable<readonly Row[]> {
  const ask = (rows: readonly Row[] | null): Promise<readonly Row[]> | null => {
    if (rows === null) return fetch(first)
    if (rows.length === 0) return null
    const bytesARow = rows.reduce((bytes, row) => bytes + bytesOf(row), 0) / rows.length
    return fetch(Math.max(1, Math.min(BATCH_ROWS, Math.floor(BATCH_BYTES / bytesARow))))
  }
  for await (const rows of ahead(ask)) if (rows.length > 0) yield rows
}

async function declare(client: PoolClient, cursor: string, values: readonly string[]): Promise<void> {
  await client.query(cursor, [...values]).catch(toRangeLost)
}

/** A canonical filter value as the text that its type reads. */
function jsonText(value: string): string {
  return value.startsWith('"') ? String(JSON.parse(value)) : value
}
