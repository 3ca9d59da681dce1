/**
 * A table's rows as the contract writes them, by PostgreSQL itself: a text for every few pages of the table instead of a row at a time, each
 * of which would have to pass through JavaScript. What it saves: nearly half the time of a first state. Promise: the same upserts as row by row.
 */
import type { ChannelDefinition, Window } from '../contract/change.ts'
import type { Pool, PoolClient } from '../database/pool.ts'
import { ahead, BATCH_BYTES } from './ahead.ts'
import { assertTypes, keyOf, publishedColumns, tableOf, toRangeLost } from './table.ts'

/** A page of 8 kB holds at most 291 rows: so many pages are less than a thousand changes. */
const PAGES_A_RUN = 3
/** An answer is at most so many runs, or about BATCH_BYTES. */
const RUNS_AN_ANSWER = 12

/** A table of so many pages, 16 MB, is read on two connections: PostgreSQL takes longer to write its rows down than anybody does to read them. */
const MANY_PAGES = 2_000
/** So many connections of the pool are left to others. */
const SPARE_CONNECTIONS = 3

/**
 * Null where the rows must be read one by one: of some only (there may be an index for them), of a table in parts, with larger pages, or with
 * values outside of the table's own pages, of which one page may name gigabytes, as it may with columns that are worked out as they are read. `client` is in the transaction of the state.
 */
export async function openRuns(client: PoolClient, pool: Pool, { channel, filters }: Window): Promise<AsyncIterable<string> | null> {
  if (filters.size > 0 || channel.table.isPartitioned) return null
  await assertTypes(client, channel)
  // Asked with the snapshot that reads the rows: what comes behind the last page now is not seen by it.
  const { rows: [table] } = await client.query<{ pages: string }>(`
    select pg_relation_size(pg_class.oid) / current_setting('block_size')::int as pages from pg_class join pg_am on pg_am.oid = relam
    where pg_class.oid = $1::regclass and amname = 'heap' and current_setting('block_size')::int <= 8192
      and (reltoastrelid = 0 or pg_relation_size(reltoastrelid) = 0)
      and not exists (select from pg_attribute where attrelid = pg_class.oid and attgenerated = 'v')`, [channel.table.name])
  return table === undefined ? null : readRuns(client, pool, channel, Number(table.pages))
}

async function* readRuns(client: PoolClient, pool: Pool, channel: ChannelDefinition, pages: number): AsyncGenerator<string> {
  const second = pages < MANY_PAGES ? null : await openSecond(client, pool, channel)
  try {
    const readers = [(page: number, count: number) => readAnswer(client, channel, page, count)]
    // Whatever happens to the second connection, the first can do without it.
    if (second !== null) readers.push((page, count) => readAnswer(second, channel, page, count).catch(() => readAnswer(client, channel, page, count)))
    yield* readInTurns(readers, pages)
  } finally {
    await second?.query('rollback').then(() => { second.release() }, () => { second.release(true) })
  }
}

/** A connection that sees what `client` sees; null where none is to be had. */
async function openSecond(client: PoolClient, pool: Pool, channel: ChannelDefinition): Promise<PoolClient | null> {
  if (pool.options.max - pool.totalCount + pool.idleCount <= SPARE_CONNECTIONS) return null
  const { rows: [exported] } = await client.query<{ snapshot: string }>('select pg_export_snapshot() as snapshot')
  let second: PoolClient | undefined
  try {
    second = await pool.connect()
    await second.query(`begin isolation level repeatable read read only; set transaction snapshot '${exported?.snapshot ?? ''}'; set local lock_timeout = '100ms'`)
    // Never waited for: who wants to alter the table and waits for the first connection would make it wait in turn, and nobody would find out.
    await second.query(`lock table ${tableOf(channel)} in access share mode nowait`)
    return second
  } catch {
    second?.release(true)
    return null
  }
}

/** Each reader has an answer under way while others are used. */
async function* readInTurns(readers: readonly ((page: number, count: number) => Promise<Answer>)[], pages: number): AsyncGenerator<string> {
  let page = 0
  let turn = 0
  const ask = (last: Answer | null): Promise<Answer> | null => {
    const read = readers[turn % readers.length]
    if (read === undefined || page >= pages) return null
    // The first page shows how large the others may be: a value in a page may be compressed, and a null has a name.
    // Grows by no more than four times: the pages to come may be fuller than these.
    const fitting = last === null ? 1 : wholeRuns(Math.min(PAGES_A_RUN * RUNS_AN_ANSWER, 4 * last.pages, Math.floor(BATCH_BYTES / last.bytesAPage)))
    const answer = read(page, fitting)
    page += fitting
    turn += 1
    return answer
  }
  for await (const { texts } of ahead(ask, readers.length)) {
    for (const text of texts) if (text !== null) yield text
  }
}

function wholeRuns(pages: number): number {
  return pages < PAGES_A_RUN ? Math.max(1, pages) : pages - pages % PAGES_A_RUN
}

interface Answer {
  readonly texts: readonly (string | null)[]
  readonly pages: number
  readonly bytesAPage: number
}

/** `pages` is a number of whole runs, or less than one. */
async function readAnswer(client: PoolClient, channel: ChannelDefinition, page: number, pages: number): Promise<Answer> {
  const size = Math.min(PAGES_A_RUN, pages)
  const bounds = Array.from({ length: pages / size + 1 }, (_, index) => `(${page + index * size},0)`)
  const runs = bounds.slice(1).map((_, index) => `(select string_agg(${keyOf(channel, '{"op":"upsert","key":', ',"row":')} || row_to_json(published.*)::text || '}', ',')
    from (select ${publishedColumns(channel)} from ${tableOf(channel)} t where t.ctid >= $${index + 1}::tid and t.ctid < $${index + 2}::tid) as published)`)
  const { rows: [texts = []] } = await client.query<(string | null)[]>({ text: `select ${runs.join(', ')}`, rowMode: 'array', values: bounds }).catch(toRangeLost)
  return { texts, pages, bytesAPage: texts.reduce((sum, text) => sum + (text?.length ?? 0), 1) / pages }
}
