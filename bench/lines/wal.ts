/**
 * What capture costs on disk: bytes of write-ahead log for each change, of single-row transactions and of a bulk update, beside the same
 * updates unwatched; and how large the log is after 3.6 million changes (an hour of a thousand a second), while retention's clock is
 * moved on a day and a half, so that the older ones have been let go.
 */
import type pg from 'pg'
import { turnLog } from '../../src/clock/retention.ts'
import { createPool } from '../../src/database/pool.ts'
import type { Child } from '../child.ts'
import type { Crowd } from '../crowd.ts'
import type { Lab, Postgres } from '../lab.ts'
import type { Figure, Line, Scale } from '../line.ts'
import { updateRow } from '../subjects.ts'

const ROWS = 100_000
const SINGLE = 2_000
const BATCHES: Readonly<Record<Scale, number>> = { full: 12, guard: 3 }
const STATEMENTS_A_BATCH = 3
const HOURS_A_BATCH = 3
const KEEP_HOURS = 24

export const wal: Line = {
  name: 'wal',
  async measure(lab, scale) {
    const postgres = await lab.postgres({ checkpoint_timeout: '1h', max_wal_size: '8GB' })
    const { client } = postgres
    for (const table of ['plain', 'rows']) {
      await client.query(`create table ${table} (id int primary key, label text not null, filling text not null default repeat('x', 100))`)
      await client.query(`insert into ${table} select i, 'none' from generate_series(1, ${ROWS}) i`)
    }
    const server = await lab.freshet(postgres)
    await client.query(`select freshet.watch('rows')`)
    await server.serves('rows')
    const follower = lab.crowd()
    await follower.ask('open', { port: server.port, path: '/v1/channels/rows/stream', ready: '"more":false', count: 1 })
    const figures: Figure[] = []
    for (const [work, changes, run] of [
      ['WAL, single-row transactions', SINGLE, (table: string) => updateSingly(client, table)],
      ['WAL, one statement for all rows', ROWS, (table: string) => client.query(`update ${table} set label = 'bulk'`)],
    ] as const) {
      // Once before, so that whole pages that a checkpoint asks for are not counted.
      for (const table of ['plain', 'rows']) await run(table)
      const plain = await walBytes(client, () => run('plain'))
      const watched = await walBytes(client, () => run('rows'))
      figures.push({ work, measured: watched / changes, unit: 'bytes a change', against: { name: 'unwatched', measured: plain / changes }, judged: 'ratio', bound: null })
    }
    return [...figures, await measureRetention(lab, postgres, follower, BATCHES[scale])]
  },
}

async function updateSingly(client: pg.Client, table: string): Promise<void> {
  for (let number = 0; number < SINGLE; number += 1) await updateRow(client, table, `update ${number}`)
}

async function walBytes(client: pg.Client, work: () => Promise<unknown>): Promise<number> {
  const { rows: [from] } = await client.query<{ lsn: string }>('select pg_current_wal_insert_lsn() as lsn')
  await work()
  const { rows: [passed] } = await client.query<{ bytes: string }>('select pg_current_wal_insert_lsn() - $1::pg_lsn as bytes', [from?.lsn])
  return Number(passed?.bytes)
}

async function measureRetention(lab: Lab, { url, client }: Postgres, follower: Child<Crowd>, batches: number): Promise<Figure> {
  const pool = createPool({ url, max: 1, onError: (error) => { throw error } })
  lab.closes(() => pool.end())
  let largest = 0
  for (let batch = 0; batch < batches; batch += 1) {
    const marker = `batch ${batch} is over`
    await follower.ask('expect', { marker })
    for (let statement = 0; statement < STATEMENTS_A_BATCH; statement += 1) await client.query(`update rows set label = 'batch ${batch}.${statement}'`)
    await updateRow(client, 'rows', marker)
    // What no version has numbered yet is kept in any case.
    await follower.ask('arrived', { timeoutMs: 120_000 })
    largest = Math.max(largest, await logBytes(client))
    await client.query(`update freshet.state set turned_at = turned_at - interval '${HOURS_A_BATCH} hours'`)
    await turnLog({ pool, keepMs: KEEP_HOURS * 3_600_000, maxBytes: 1e12 })
  }
  const changes = batches * STATEMENTS_A_BATCH * ROWS
  const hours = batches * HOURS_A_BATCH
  return {
    work: `log at its largest, ${changes.toLocaleString('en')} changes in ${hours} hours, kept ${KEEP_HOURS}`, measured: largest / 1e6, unit: 'MB',
    against: { name: 'the rows as JSON', measured: await jsonBytes(client) * changes / 1e6 }, judged: 'ratio', bound: null,
  }
}

async function jsonBytes(client: pg.Client): Promise<number> {
  const { rows: [row] } = await client.query<{ bytes: string }>('select avg(length(row_to_json(r.*)::text)) as bytes from rows r')
  return Number(row?.bytes)
}

async function logBytes(client: pg.Client): Promise<number> {
  const { rows: [size] } = await client.query<{ bytes: string }>(
    `select sum(pg_total_relation_size(oid)) as bytes from pg_class where oid in ('freshet.changes_0'::regclass, 'freshet.changes_1'::regclass, 'freshet.versions'::regclass)`)
  return Number(size?.bytes)
}
