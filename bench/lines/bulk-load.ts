/**
 * psql's COPY of 1,000,000 rows into a watched table, and into the same table unwatched, in turn, each after a checkpoint. Into an empty
 * table, which starts anew; and into one of twice as many rows, of which each new one is told.
 */
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { hasPsql, psql } from '../copy.ts'
import type { Lab } from '../lab.ts'
import { atMost, type Figure, type Line } from '../line.ts'
import { median } from '../statistics.ts'


export const bulkLoad: Line = {
  name: 'bulk-load',
  async measure(lab, scale) {
    if (!hasPsql) return []
    const rows = scale === 'full' ? 1_000_000 : 100_000
    const work = `COPY of ${rows.toLocaleString('en')} rows`
    return [
      { work, ...await load(lab, rows, 0), judged: 'ratio', bound: atMost(3, 2.5) },
      ...scale === 'full' ? [{ work: `${work} to ${(2 * rows).toLocaleString('en')}`, ...await load(lab, rows, 2 * rows), judged: 'ratio', bound: null } as const] : [],
    ]
  },
}

/** Into tables that hold `held` rows; empty ones are emptied again for a second round. */
async function load(lab: Lab, rows: number, held: number): Promise<Pick<Figure, 'measured' | 'unit' | 'against'>> {
  const postgres = await lab.postgres()
  const { client } = postgres
  const fill = `select i, 'row number ' || i, i * 1.25 from generate_series`
  for (const table of ['plain', 'rows']) {
    await client.query(`create table ${table} (id int primary key, label text not null, amount numeric not null)`)
    await client.query(`insert into ${table} ${fill}(${rows + 1}, ${rows + held}) i`)
    await client.query(`vacuum analyze ${table}`)
  }
  const server = await lab.freshet(postgres)
  await client.query(`select freshet.watch('rows')`)
  await server.serves('rows')
  const follower = lab.crowd()
  await follower.ask('open', { port: server.port, path: '/v1/channels/rows/stream', ready: '"more":false', count: 1 })
  const file = join(tmpdir(), `freshet-bulk-${process.pid}`)
  const times: Record<'plain' | 'rows', number[]> = { plain: [], rows: [] }
  try {
    await psql(postgres.url, `\\copy (${fill}(1, ${rows}) i) to '${file}'`)
    for (let round = 0; round < (held === 0 ? 2 : 1); round += 1) {
      for (const table of ['plain', 'rows'] as const) {
        if (held === 0) await client.query(`truncate ${table}`)
        await client.query('checkpoint')
        const startedMs = performance.now()
        await psql(postgres.url, `\\copy ${table} from '${file}'`)
        times[table].push((performance.now() - startedMs) / 1_000)
      }
      // The follower must have had it all before the next round is measured.
      const marker = `round ${round} is over`
      await follower.ask('expect', { marker })
      await client.query('insert into rows values (0, $1, 0)', [marker])
      await follower.ask('arrived', { timeoutMs: 120_000 })
    }
  } finally {
    await rm(file, { force: true })
  }
  return { measured: median(times.rows), unit: 's', against: { name: 'unwatched', measured: median(times.plain) } }
}
