/**
 * A client that is 200,000 changes behind asks for all of them, folded: twenty transactions between them have changed every row of
 * a table once. Floor: psql's COPY of the same rows as JSON.
 */
import { copyJson, hasPsql } from '../copy.ts'
import { drain } from '../drain.ts'
import { atLeast, type Line } from '../line.ts'
import { median } from '../statistics.ts'

const ROWS = 200_000
const TRANSACTIONS = 20

export const catchUp: Line = {
  name: 'catch-up',
  async measure(lab, scale) {
    if (!hasPsql) return []
    const postgres = await lab.postgres()
    const { client } = postgres
    await client.query(`create table rows (id int primary key, label text not null, amount numeric not null, n int not null default 0)`)
    await client.query(`insert into rows select i, 'row number ' || i, i * 1.25 from generate_series(1, ${ROWS}) i`)
    const server = await lab.freshet(postgres)
    await client.query(`select freshet.watch('rows')`)
    await server.serves('rows')
    const since = await newestVersion(server.url)
    for (let part = 0; part < TRANSACTIONS; part += 1) await client.query('update rows set n = n + 1 where id % $1 = $2', [TRANSACTIONS, part])
    const times: { readonly poll: number; readonly copy: number }[] = []
    for (let round = 0; round < (scale === 'full' ? 5 : 2); round += 1) {
      // One more change: an answer that is in memory from the round before would tell nothing.
      await client.query('update rows set n = n + 1 where id = $1', [round + 1])
      const copy = await seconds(() => copyJson(postgres.url, 'select * from rows'))
      const poll = await seconds(async () => {
        const { changes } = await drain(`${server.url}/v1/channels/rows/changes?since=${since}`, false)
        if (changes !== ROWS) throw new Error(`${changes} changes, not ${ROWS}`)
      })
      times.push({ poll, copy })
    }
    return [{
      work: `${ROWS.toLocaleString('en')} changes behind, folded`, measured: ROWS / median(times.map(({ poll }) => poll)), unit: 'changes a second',
      against: { name: 'psql COPY', measured: ROWS / median(times.map(({ copy }) => copy)) }, judged: 'ratio', bound: atLeast(0.4, 0.7),
    }]
  },
}

async function newestVersion(url: string): Promise<string> {
  const { version } = await (await fetch(`${url}/v1/channels/rows`)).json() as { readonly version: string }
  return version
}

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now()
  await work()
  return (performance.now() - startedMs) / 1_000
}
