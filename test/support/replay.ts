/**
 * The log as a client would fold it: what capture wrote about a table, applied in order to an empty map, must be the table.
 * Compared as text, as PostgreSQL rendered it.
 */
import { expect } from 'vitest'
import type { TestDatabase } from './database.ts'

/** While a clock is awake most writes take a shorter way through the trigger: what is captured must be the same. */
export const CLOCKS = ['asleep', 'awake'] as const

export async function setClock(database: TestDatabase, clock: typeof CLOCKS[number]): Promise<void> {
  await database.query(`select setval('freshet.awake_until', $1)`, [clock === 'awake' ? Date.now() + 3_600_000 : 1])
}

export interface Line {
  /** Null: everything about the table may have changed, and `row` says why. */
  readonly key: string | null
  readonly row: string | null
  readonly old: string | null
}

/** The lines of one table in the order of the log, without the one that watch() wrote. */
export async function linesOf(database: TestDatabase, table: string): Promise<readonly Line[]> {
  const lines = await database.query<{ key: string | null; row: string | null; old: string | null }>(
    `select key, new_row as row, old_filters as old from freshet.changes
     where table_id = (select id from freshet.tables where relation = $1::regclass) order by lsn, xid, key`, [table])
  return lines[0]?.row === 'watch' ? lines.slice(1) : lines
}

/** Lines written while `work` runs, each as short text: `{"id":1} → {"id":1,"a":2}`, `{"id":1} → gone`, `truncate`. */
export async function captured(database: TestDatabase, table: string, work: string | (() => Promise<unknown>)): Promise<readonly string[]> {
  const before = (await linesOf(database, table)).length
  await (typeof work === 'string' ? database.query(work) : work())
  return (await linesOf(database, table)).slice(before).map(describeLine)
}

export function describeLine({ key, row, old }: Line): string {
  if (key === null) return row ?? '?'
  return `${key} → ${row ?? 'gone'}${old === null ? '' : ` (was ${old})`}`
}

/** Folds lines over an empty map; a line without a key empties it, as after a TRUNCATE. */
export function replay(lines: readonly Line[]): ReadonlyMap<string, string> {
  const rows = new Map<string, string>()
  for (const { key, row } of lines) {
    if (key === null) rows.clear()
    else if (row === null) rows.delete(key)
    else rows.set(key, row)
  }
  return rows
}

const PINS = `set local timezone = 'UTC'; set local datestyle = 'ISO'; set local intervalstyle = 'iso_8601';
  set local extra_float_digits = 1; set local bytea_output = 'hex'; set local lc_monetary = 'C'; set local search_path = pg_catalog, pg_temp;`

/** Each column, and the cast that makes a string of numbers that JSON would not keep. */
const COLUMNS = `
select string_agg(format('%I%s', attname, case atttypid::regtype::text
  when 'bigint' then '::text as ' || quote_ident(attname) when 'numeric' then '::text as ' || quote_ident(attname)
  else '' end), ', ' order by attnum) as list
from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped`

/** The rows of a table as the log has them, sorted as text. */
export async function rowsOf(database: TestDatabase, table: string): Promise<readonly string[]> {
  const client = await database.pool.connect()
  try {
    await client.query(`begin; ${PINS}`)
    const { rows: [columns] } = await client.query<{ list: string }>(COLUMNS, [table])
    const { rows } = await client.query<{ row: string }>(`select row_to_json(part.*)::text as row from (select ${columns?.list ?? ''} from ${table}) part`)
    return rows.map(({ row }) => row).sort()
  } finally {
    await client.query('rollback')
    client.release()
  }
}

/** The promise of capture in one line. `table` is qualified; every column is published. */
export async function expectReplayEqualsTable(database: TestDatabase, table: string): Promise<void> {
  expect([...replay(await linesOf(database, table)).values()].sort(), `the log of ${table} replayed`).toEqual(await rowsOf(database, table))
}
