/**
 * A table's rows one by one, through a cursor: of windows with filters, and of tables that cannot be read page by page.
 * Promise: no row is sent here before its size is known.
 */
import { RangeLost, type ChannelDefinition, type StateRow, type Window } from '../contract/change.ts'
import type { PoolClient } from '../database/pool.ts'
import { ahead, BATCH_BYTES } from './ahead.ts'
import { LARGE_ROW_BYTES, leastBytes, RowTooLarge } from './size.ts'
import { assertTypes, keyOf, publishedColumns, quoteIdentifier, tableOf, toRangeLost } from './table.ts'

/** A batch is at most so many rows, or about BATCH_BYTES. */
const BATCH_ROWS = 1_000
const FIRST_BATCH_ROWS = 50

type FetchedRow = readonly [key: string, row: string | null, bytes: number, table: string, place: string]

/** The rows of a window, in the transaction of its state. Rejects with RowTooLarge. */
export async function* readRows(client: PoolClient, { channel, filters }: Window, maxRowBytes: number): AsyncIterable<readonly StateRow[]> {
  const conditions = [...filters.keys()].map((name, index) => {
    const { comparedAs, isEnum } = channel.table.columns.find((column) => column.name === name) ?? {}
    const [column, value] = [`t.${quoteIdentifier(name)}`, `$${index + 1}::text`]
    if (comparedAs == null) throw new RangeLost('a filter has another type by now')
    if (!isEnum) return `${column}::${comparedAs} = ${value}::${comparedAs}`
    // No cast from text: it would be the host's to define. The label is looked up among those that there are.
    return `${column}::${comparedAs} = (select label from unnest(enum_range(null::${comparedAs})) label where format('%s', label) = ${value})`
  })
  await assertTypes(client, channel)
  // A cursor cannot take the planner's word for it that few rows are wanted: all of them are.
  await client.query('set local cursor_tuple_fraction = 1; set local enable_seqscan = on')
  await declare(client, `declare state no scroll cursor for
    select ${keyOf(channel)}, case when octet_length(rendered.row) <= ${LARGE_ROW_BYTES} then rendered.row end,
      coalesce(octet_length(rendered.row)::bigint, ${leastBytes(channel)})::float8, t.tableoid, t.ctid
    from ${tableOf(channel)} t cross join lateral (select ${publishedColumns(channel)}) as published
      cross join lateral (select case when ${leastBytes(channel)} <= ${maxRowBytes} then row_to_json(published.*)::text end as row offset 0) as rendered${conditions.length === 0 ? '' : ` where ${conditions.join(' and ')}`}`,
  [...filters.values()].map((value) => jsonText(value)))
  const batches = fetchAll<FetchedRow>({ first: FIRST_BATCH_ROWS, bytesOf: ([, , bytes]) => bytes,
    fetch: async (count) => (await client.query<[string, string, number, string, string]>({ text: `fetch ${count} from state`, rowMode: 'array' }).catch(toRangeLost)).rows })
  for await (const batch of batches) yield* handOver(client, channel, batch, maxRowBytes)
  await client.query('close state')
}

/** A batch as it came; each large row of it is fetched by itself, unless it is too large. */
async function* handOver(client: PoolClient, channel: ChannelDefinition, batch: readonly FetchedRow[], maxRowBytes: number): AsyncIterable<readonly StateRow[]> {
  let rows: StateRow[] = []
  for (const [key, row, bytes, table, place] of batch) {
    if (row === null) {
      if (bytes > maxRowBytes) throw new RowTooLarge(`${bytes} bytes`)
      if (rows.length > 0) yield rows
      yield [[key, await readRow(client, channel, table, place)]]
      rows = []
    } else {
      rows.push([key, row])
    }
  }
  if (rows.length > 0) yield rows
}

/** The row at a place, where it stays as long as the snapshot that saw it there. */
async function readRow(client: PoolClient, channel: ChannelDefinition, table: string, place: string): Promise<string> {
  const { rows: [found] } = await client.query<{ row: string }>(`select row_to_json(published.*)::text as row
    from (select ${publishedColumns(channel)} from ${tableOf(channel)} t where t.tableoid = $1::oid and t.ctid = $2::tid) as published`, [table, place])
  if (found === undefined) throw new RangeLost('a row is not where it was')
  return found.row
}

/** All batches of a cursor. */
export async function* fetchAll<Row>({ first, fetch, bytesOf }: { first: number; fetch: (count: number) => Promise<readonly Row[]>; bytesOf: (row: Row) => number }): AsyncIterable<readonly Row[]> {
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
