/**
 * Answers what the hub does not remember: changes out of the log, whole states out of the tables, filter values by their type.
 * Promise: a state is one that existed. Its rows are one snapshot; what that snapshot saw and no version numbered yet is waited for,
 * and what the awaited version sees beyond the snapshot is handed along. A range the log no longer holds is `RangeLost`, never short.
 */
import type { PoolClient } from 'pg'
import { RangeLost } from '../contract/change.ts'
import type { Catalog, ChangeSource, ColumnDefinition, LoggedChange, StateReading, Window } from '../contract/change.ts'
import { sqlState, withClient, type Pool } from '../database/pool.ts'
import { ApiError, quoted } from '../errors.ts'
import { readCatalog } from './catalog.ts'
import { FOLDED_CHANGES, parseSnapshot, RANGE_SNAPSHOTS, toChange, type ChangeRow } from './log.ts'

const ROWS_A_FETCH = 1_000
/** Each open state holds a connection and a snapshot. */
const MAX_OPEN_STATES = 4

const STATE_HEADER = `
select pg_current_snapshot()::text as snapshot, number, versions.snapshot::text as version_snapshot
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
  #openStates = 0
  readonly #waiting: (() => void)[] = []

  constructor(pool: Pool) {
    this.#pool = pool
  }

  readCatalog(): Promise<Catalog> {
    return readCatalog(this.#pool)
  }

  async *readChanges({ since, version, tableId, afterSeq = 0, limit }: Parameters<ChangeSource['readChanges']>[0]): AsyncIterable<readonly LoggedChange[]> {
    const client = await this.#pool.connect()
    let failed = true
    try {
      const range = await readRange(client, since, version)
      const { xmax, inProgress } = parseSnapshot(range.since)
      yield* readFolded(client, [xmax, inProgress, range.version, tableId, afterSeq], limit)
      // Checked after reading: the log may have turned in between.
      await readRange(client, since, version)
      failed = false
    } finally {
      client.release(failed)
    }
  }

  async openState(windows: readonly Window[], versionAfter: (number: number) => Promise<number>): Promise<StateReading> {
    await this.#takePlace()
    let client: PoolClient | undefined
    try {
      client = await this.#pool.connect()
      return await this.#readState(client, windows, versionAfter)
    } catch (error) {
      client?.release(true)
      this.#leavePlace()
      throw error
    }
  }

  async castFilter(column: ColumnDefinition, value: string): Promise<string> {
    try {
      // trim_scale: numeric 1.0 and 1.00 are one value, and must be one text.
      const { rows } = await this.#pool.query<{ value: string }>(
        `select to_json(${column.type === 'numeric' || column.type.startsWith('numeric(') ? `trim_scale($1::${column.type})` : `$1::text::${column.type}`})::text as value`, [value])
      return rows[0]?.value ?? 'null'
    } catch (error) {
      // Class 22: the value is not of the type.
      if (sqlState(error)?.startsWith('22') !== true) throw error
      throw new ApiError('invalid_filter', `The value ${quoted(value)} of filter ${quoted(column.name)} is not of type ${column.type}.`, { parameter: column.name, cause: error })
    }
  }

  async #readState(client: PoolClient, windows: readonly Window[], versionAfter: (number: number) => Promise<number>): Promise<StateReading> {
    const tables = [...new Map(windows.map(({ channel }) => [channel.table.id, channel.table])).values()]
    await client.query('begin isolation level repeatable read read only')
    // The locks come before the snapshot: behind an ALTER a snapshot taken first can see an empty table.
    await client.query(`lock table ${tables.map(({ name }) => name).join(', ')} in access share mode`)
    const { rows: [header] } = await client.query<{ snapshot: string; number: string; version_snapshot: string }>(STATE_HEADER)
    if (header === undefined) throw new ApiError('database_unreachable', 'No version has been numbered yet.')
    const { xmax, inProgress } = parseSnapshot(header.version_snapshot)
    const tableIds = tables.map(({ id }) => id)
    const { rows: [unnumbered] } = await client.query<{ transactions: string[] }>(UNNUMBERED, [xmax, inProgress, tableIds])
    const version = await this.#numberedVersion(Number(header.number), unnumbered?.transactions ?? [], versionAfter)
    const later = version.snapshot === null ? new Map<number, ReadonlyMap<string, LoggedChange>>()
      : await this.#readLater(header.snapshot, version.snapshot, tableIds)
    return {
      version: version.number,
      later,
      rows: (window) => readRows(client, window),
      close: async () => {
        try {
          await client.query('rollback')
          client.release()
        } catch {
          client.release(true)
        } finally {
          this.#leavePlace()
        }
      },
    }
  }

  /** The first version that sees all of the transactions. Its snapshot is null when that is the version given. */
  async #numberedVersion(number: number, transactions: readonly string[], versionAfter: (number: number) => Promise<number>): Promise<{ number: number; snapshot: string | null }> {
    if (transactions.length === 0) return { number, snapshot: null }
    for (let known = number; ;) {
      const { rows: [first] } = await this.#pool.query<{ number: string; snapshot: string }>(FIRST_SEEING, [number, transactions])
      if (first !== undefined) return { number: Number(first.number), snapshot: first.snapshot }
      known = await versionAfter(known)
    }
  }

  async #readLater(from: string, to: string, tableIds: readonly number[]): Promise<Map<number, ReadonlyMap<string, LoggedChange>>> {
    const { xmax, inProgress } = parseSnapshot(from)
    return withClient(this.#pool, async (client) => {
      const later = new Map<number, ReadonlyMap<string, LoggedChange>>()
      for (const tableId of tableIds) {
        const { rows } = await client.query<ChangeRow>(FOLDED_CHANGES, [xmax, inProgress, to, tableId, 0])
        // The table started anew under the reader: its rows are of no version. The caller tries again.
        if (rows.some((row) => row.key === null)) throw new RangeLost('the table started anew while it was read')
        later.set(tableId, new Map(rows.map((row) => [row.key ?? '', toChange(row)])))
      }
      return later
    })
  }

  async #takePlace(): Promise<void> {
    if (this.#openStates >= MAX_OPEN_STATES) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    else this.#openStates += 1
  }

  #leavePlace(): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#openStates -= 1
    else next()
  }
}

async function readRange(client: PoolClient, since: number, version: number): Promise<{ since: string; version: string }> {
  const { rows: [range] } = await client.query<{ since: string | null; version: string | null }>(RANGE_SNAPSHOTS, [since, version])
  if (range?.since == null || range.version === null) throw new RangeLost(`the log no longer holds what changed since ${since}`)
  return { since: range.since, version: range.version }
}

/** In batches through a cursor: a bulk load is larger than memory. */
async function* readFolded(client: PoolClient, values: readonly unknown[], limit?: number): AsyncIterable<readonly LoggedChange[]> {
  await client.query('begin read only')
  await client.query(`set local work_mem = '32MB'`)
  await client.query(`declare folded no scroll cursor for ${FOLDED_CHANGES}`, [...values])
  let left = limit ?? Infinity
  while (left > 0) {
    const { rows } = await client.query<ChangeRow>(`fetch ${Math.min(left, ROWS_A_FETCH)} from folded`)
    if (rows.length === 0) break
    yield rows.map(toChange)
    left -= rows.length
  }
  await client.query('rollback')
}

async function* readRows(client: PoolClient, { channel: { table, columns }, filters }: Window): AsyncIterable<readonly string[]> {
  const published = columns.length === table.columns.length ? 'row_to_json(t.*)'
    : `row_to_json((select published from (select ${columns.map(({ name }) => `t.${quoteIdentifier(name)}`).join(', ')}) as published))`
  const conditions = [...filters.keys()].map((name, index) => {
    const type = table.columns.find((column) => column.name === name)?.type ?? 'text'
    return `t.${quoteIdentifier(name)} = $${index + 1}::text::${type}`
  })
  // A cursor cannot take the planner's word for it that few rows are wanted: all of them are.
  await client.query('set local cursor_tuple_fraction = 1; set local enable_seqscan = on')
  await client.query(`declare state no scroll cursor for select ${published}::text as row from ${table.isPartitioned ? '' : 'only '}${table.name} t${
    conditions.length === 0 ? '' : ` where ${conditions.join(' and ')}`}`, [...filters.values()].map((value) => jsonText(value)))
  for (;;) {
    const { rows } = await client.query<{ row: string }>(`fetch ${ROWS_A_FETCH} from state`)
    if (rows.length === 0) break
    yield rows.map(({ row }) => row)
  }
  await client.query('close state')
}

/** A canonical filter value as the text that its type reads. */
function jsonText(value: string): string {
  return value.startsWith('"') ? String(JSON.parse(value)) : value
}

export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}
