/**
 * The whole state of a large table to one client, by poll and by stream: rows a second, and how much memory that takes of the server
 * at the worst. Floor: psql's COPY of the same rows as JSON.
 */
import { copyJson, hasPsql } from '../copy.ts'
import { drain } from '../drain.ts'
import type { Freshet, Postgres } from '../lab.ts'
import { atLeast, atMost, type Figure, type Line } from '../line.ts'
import { median } from '../statistics.ts'
import { forgetPeak, peakBytes, residentBytes } from '../usage.ts'

interface Case {
  readonly rows: number
  readonly rounds: number
}

export const firstState: Line = {
  name: 'first-state',
  async measure(lab, scale) {
    if (!hasPsql) return []
    const cases: readonly Case[] = [{ rows: 100_000, rounds: 3 }, ...scale === 'full' ? [{ rows: 1_000_000, rounds: 1 }] : []]
    const postgres = await lab.postgres()
    for (const { rows } of cases) {
      await postgres.client.query(`
        create table t${rows} (id int primary key, label text not null, amount numeric not null);
        insert into t${rows} select i, 'row number ' || i, i * 1.25 from generate_series(1, ${rows}) i;`)
      await postgres.client.query(`vacuum analyze t${rows}`)
    }
    const server = await lab.freshet(postgres)
    const figures: Figure[] = []
    for (const use of cases) figures.push(...await compare(use, postgres, server))
    return figures
  },
}

async function compare({ rows, rounds }: Case, postgres: Postgres, server: Freshet): Promise<readonly Figure[]> {
  const table = `t${rows}`
  await postgres.client.query(`select freshet.watch('${table}')`)
  await server.serves(table)
  const url = `${server.url}/v1/channels/${table}`
  const residentBefore = await residentBytes(server.processId)
  await forgetPeak(server.processId)
  const rates: Record<'copy' | 'poll' | 'stream', number[]> = { copy: [], poll: [], stream: [] }
  for (let round = 0; round < rounds; round += 1) {
    rates.copy.push(await rate(rows, () => copyJson(postgres.url, `select * from ${table}`)))
    rates.poll.push(await rate(rows, () => readAll(`${url}/changes`, false, rows)))
    rates.stream.push(await rate(rows, () => readAll(`${url}/stream`, true, rows)))
  }
  const growth = await peakBytes(server.processId) - residentBefore
  const count = rows.toLocaleString('en')
  return [
    ...(['poll', 'stream'] as const).map((transport): Figure => ({
      work: `${count} rows by ${transport}`, measured: median(rates[transport]), unit: 'rows a second',
      against: { name: 'psql COPY', measured: median(rates.copy) }, judged: 'ratio', bound: atLeast(0.5, 0.8),
    })),
    { work: `${count} rows, growth of the server`, measured: growth / 1e6, unit: 'MB', against: null, judged: 'measured', bound: atMost(120, 120) },
  ]
}

async function readAll(url: string, isStream: boolean, rows: number): Promise<void> {
  const { changes } = await drain(url, isStream)
  if (changes !== rows) throw new Error(`${url} gave ${changes} rows, not ${rows}`)
}

async function rate(rows: number, work: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now()
  await work()
  return rows * 1_000 / (performance.now() - startedMs)
}
