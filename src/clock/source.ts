/**
 * Answers what the hub does not remember: changes out of the log, whole states out of the tables, filter values by their type.
 * Promise: a state is one that existed. Its rows are one snapshot; what that snapshot saw and no version numbered yet is waited for,
 * and what the awaited version sees beyond the snapshot is handed along. A range the log no longer holds is `RangeLost`, never short.
 * On a standby as on a primary: what a snapshot sees is told by the log's rows, since there pg_current_snapshot() names no open transaction.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { RangeLost } from '../contract/change.ts'
import type { Catalog, ChangeRange, ChangeSource, ColumnDefinition, FoldedChange, LoggedChange, StateReading, StateRow, Window } from '../contract/change.ts'
import { sqlState, withClient, type Pool, type PoolClient } from '../database/pool.ts'
import { ApiError, quoted } from '../errors.ts'
import { readCatalog } from './catalog.ts'
import { FOLDED_CHANGES, FOLDED_ROWS, FOLDED_RUNS, fromLines, fromRun, LATER_CHANGES, parseSnapshot, RANGE_SNAPSHOTS } from './log.ts'
import { Places } from './places.ts'
import { fetchAll, readRows } from './rows.ts'
import { openRuns } from './runs.ts'
import { isBeyondPostgres, MAX_ROW_BYTES, parkedFor, RowTooLarge } from './size.ts'

/** Large readings at once, at least: each holds a connection, and a state a snapshot. The others wait their turn. */
const LEAST_READINGS = 4
/** Of a larger pool, so many connections are left to small questions. */
const SPARE_CONNECTIONS = 4

/** So often, each time for so long, less than PostgreSQL waits before it looks for deadlocks: it must never be the host that is ended. */
const LOCK_TRIES = 6
const LOCK_TIMEOUT = '500ms'
const MAX_LOCKED_MS = 250

/** The log is too young for statistics: without them the planner may compare every change with every other, or sort where hashing does. Left are joins and groups by hash. */
const BEGIN_FOLD = `begin read only; set local work_mem = '32MB'; set local enable_mergejoin = off; set local enable_nestloop = off; set local enable_sort = off`

/** What a state asks the log is a part of its transaction, which sees no more and no less once that is over; the locks on the log go with it. */
const LOG_READ = 'log_read'
const RELEASE_LOG = `rollback to savepoint ${LOG_READ}; release savepoint ${LOG_READ}`

/** With the names that the tables ($1) have by now, and whether we may run what their owners made: they are locked, and keep their owners. */
const STATE_HEADER = `
select number, versions.snapshot::text as version_snapshot,
  (select json_object_agg(id, freshet.quoted_name(relation)) from freshet.tables where id = any ($1::int[])) as names,
  (select bool_and(freshet.has_trusted_owners(relation)) from freshet.tables where id = any ($1::int[])) as is_trusted
from freshet.versions order by number desc limit 1`

/** Transactions whose changes of these tables ($3) the reader's snapshot sees and the newest version does not: whole ones, never a savepoint of one. */
const UNNUMBERED = `
select array(select distinct xid::text from freshet.changes where (xid >= $1::xid8 or xid = any ($2::xid8[])) and table_id = any ($3::int[])) as transactions`

const FIRST_SEEING = `
select number, snapshot::text as snapshot from freshet.versions
where number > $1::bigint and (select bool_and(pg_visible_in_snapshot(id, snapshot)) from unnest($2::xid8[]) id)
order by number limit 1`

/** How long a window whose rows are too large is not read again. */
const PARKED_MS = 30_000

export interface SourceOptions {
  /** How long a state that waits for the clock keeps its tables locked: the host may be waiting to alter them. Default 250 ms. */
  readonly maxLockedMs?: number
  /** A larger row is never read. Default 64 MB, as JSON. */
  readonly maxRowBytes?: number
  /** A channel cannot be served because of one. */
  readonly onParked?: (channel: string, reason: string) => void
}

const TIMES = new Set(['date', 'time', 'timestamp', 'timestamptz'])
/** What PostgreSQL reads by its clock: a cursor taken under it today would be continued with the rows of tomorrow. */
const RELATIVE_TIME = /now|today|tomorrow|yesterday/i

export class DatabaseSource implements ChangeSource {
  readonly #pool: Pool
  readonly #options: Required<SourceOptions>
  /** By channel and filters, what their readers are told meanwhile. */
  readonly #parked = new Map<string, ApiError>()
  readonly #places: Places

  constructor(pool: Pool, options: SourceOptions = {}) {
    this.#pool = pool
    this.#options = { maxLockedMs: MAX_LOCKED_MS, maxRowBytes: MAX_ROW_BYTES, onParked: () => undefined, ...options }
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
      yield* fetchRuns(client, query, [xmax, inProgress, range.version, tableId, this.#options.maxRowBytes])
      // Checked after reading: the log may have turned in between.
      await readRange(client, since, version)
      failed = false
    } catch (error) {
      throw isBeyondPostgres(error) ? new RangeLost(TOO_LARGE, { cause: error }) : error
    } finally {
      client?.release(failed)
      leave()
    }
  }

  async openState(windows: readonly Window[], versionAfter: (number: number) => Promise<number>): Promise<StateReading> {
    for (const window of windows) {
      const parked = this.#parked.get(parkingKey(window))
      if (parked !== undefined) throw parked
    }
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
    const { comparedAs, isEnum } = column
    if (comparedAs === null) throw new ApiError('channel_parked', `Nothing can be compared with column ${quoted(column.name)} any more.`)
    if (TIMES.has(comparedAs) && RELATIVE_TIME.test(value)) {
      throw new ApiError('invalid_filter', `The value ${quoted(value)} of filter ${quoted(column.name)} is another one at each moment; give a date or time.`, { parameter: column.name })
    }
    try {
      const { rows: [found] } = await this.#pool.query<{ value: string }>(isEnum
        // No cast: the host may have defined one.
        ? { text: 'select to_json(enumlabel::text)::text as value from pg_enum where enumtypid = to_regtype($2) and enumlabel = $1::text', values: [value, comparedAs] }
        : { text: `select to_json($1::text::${comparedAs})::text as value`, values: [value] })
      if (found === undefined) throw new NoSuchLabel()
      return found.value
    } catch (error) {
      // The value is not of the type, or the database has no such characters.
      if (!(error instanceof NoSuchLabel) && !/^22/.test(sqlState(error) ?? '')) throw error
      throw new ApiError('invalid_filter', `The value ${quoted(value)} of filter ${quoted(column.name)} is not of type ${column.type}.`, { parameter: column.name, cause: error })
    }
  }

  /** A number: what the snapshot saw was not numbered soon enough; ask again after that version. */
  async #readState(client: PoolClient, windows: readonly Window[], versionAfter: (number: number) => Promise<number>): Promise<StateReading | number> {
    const tables = [...new Map(windows.map(({ channel }) => [channel.table.id, channel.table])).values()]
    const tableIds = tables.map(({ id }) => id)
    await lockTables(client, tables.map(({ name }) => name))
    // Both are what the rows' own snapshot sees: together they say which changes the rows have.
    const { rows: [header] } = await client.query<StateHeader>(STATE_HEADER, [tableIds])
    if (header === undefined) throw new ApiError('database_unreachable', 'No version has been numbered yet.')
    // Renamed since: another table may bear the name.
    if (tables.some(({ id, name }) => header.names?.[id] !== name)) throw new RangeLost('the table has another name by now')
    if (header.is_trusted !== true) throw new RangeLost('the table belongs to a role that is not trusted')
    const { xmax, inProgress } = parseSnapshot(header.version_snapshot)
    const { rows: [unnumbered] } = await client.query<{ transactions: string[] }>(UNNUMBERED, [xmax, inProgress, tableIds])
    // The log may turn while the rows are read: on a standby, its lock would first hold up all that is replayed, and then end this reading.
    await client.query(RELEASE_LOG)
    const seen = unnumbered?.transactions ?? []
    const version = await this.#numberedVersion(Number(header.number), seen, versionAfter)
    if (version === null) return Number(header.number)
    const later = version.snapshot === null ? new Map<number, ReadonlyMap<string, LoggedChange>>()
      : await this.#readLater({ from: header.version_snapshot, to: version.snapshot, without: seen }, tableIds)
    // Asked after reading: what was emptied in between would have been missed.
    const { rows: [log] } = await this.#pool.query<{ floor: string }>('select floor from freshet.state')
    if (log === undefined || Number(log.floor) > Number(header.number)) throw new RangeLost('the log turned while the table was read')
    return {
      version: version.number,
      later,
      rows: (window) => this.#parking(window, readRows(client, window, this.#options.maxRowBytes)),
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
    const isLate = delay(this.#options.maxLockedMs, null, { ref: false })
    for (let known: number | null = number; known !== null;) {
      const { rows: [first] } = await this.#pool.query<{ number: string; snapshot: string }>(FIRST_SEEING, [number, transactions])
      if (first !== undefined) return { number: Number(first.number), snapshot: first.snapshot }
      known = await Promise.race([versionAfter(known), isLate])
    }
    return null
  }

  /** What the version sees that the rows do not: neither the version before it did, nor is it of the transactions that they have beyond that one. */
  async #readLater({ from, to, without }: { from: string; to: string; without: readonly string[] }, tableIds: readonly number[]): Promise<Map<number, ReadonlyMap<string, LoggedChange>>> {
    const { xmax, inProgress } = parseSnapshot(from)
    const read = await withClient(this.#pool, async (client) => {
      await client.query(BEGIN_FOLD)
      const { rows: [row] } = await client.query<{ carried: boolean; lines: string | null }>(LATER_CHANGES, [xmax, inProgress, to, tableIds, without])
      await client.query('rollback')
      return row
    }).catch((error: unknown) => {
      if (isBeyondPostgres(error)) return undefined
      throw error
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

  /** A row that is too large parks its window: for a while nobody makes PostgreSQL write it down again. */
  async *#parking(window: Window, rows: AsyncIterable<readonly StateRow[]>): AsyncIterable<readonly StateRow[]> {
    try {
      yield* rows
    } catch (error) {
      if (!(error instanceof RowTooLarge) && !isBeyondPostgres(error)) throw error
      const parked = parkedFor(window.channel, this.#options.maxRowBytes, error)
      const key = parkingKey(window)
      this.#parked.set(key, parked)
      setTimeout(() => this.#parked.delete(key), PARKED_MS).unref()
      this.#options.onParked(window.channel.name, parked.message)
      throw parked
    }
  }
}

class NoSuchLabel extends Error {
  override readonly name = 'NoSuchLabel'
}

interface StateHeader {
  readonly number: string
  readonly version_snapshot: string
  readonly names: Readonly<Record<number, string | null>> | null
  readonly is_trusted: boolean | null
}

/** Begins the transaction of a state. The locks come before its snapshot: behind an ALTER one taken first can see an empty table. */
async function lockTables(client: PoolClient, names: readonly string[]): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await client.query(`begin isolation level repeatable read read only; set local lock_timeout = '${LOCK_TIMEOUT}'`)
      await client.query(`lock table ${names.join(', ')} in access share mode; savepoint ${LOG_READ}`)
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

/** Its readers start anew, from the table: the row may be smaller by now, or may not concern them. */
const TOO_LARGE = 'a change in the log is too large to be read'

/** In batches through a cursor: a bulk load is larger than memory. */
async function* fetchRuns(client: PoolClient, query: string, values: readonly unknown[]): AsyncIterable<string> {
  await client.query(BEGIN_FOLD)
  await client.query(`declare folded no scroll cursor for ${query}`, [...values])
  const batches = fetchAll<[run: string | null]>({ first: 1, bytesOf: ([run]) => run?.length ?? 0,
    fetch: async (count) => (await client.query<[string | null]>({ text: `fetch ${count} from folded`, rowMode: 'array' })).rows })
  for await (const runs of batches) {
    for (const [run] of runs) {
      if (run === null) throw new RangeLost(TOO_LARGE)
      yield run
    }
  }
  await client.query('rollback')
}

/** By which a window is known as parked. */
function parkingKey({ channel, filters }: Window): string {
  return JSON.stringify([channel.name, channel.table.id, channel.columns.map(({ name }) => name), ...filters])
}
