/**
 * What capture costs a database that is busy: 32 writers of pgbench update single rows as fast as they can, one stream follows.
 * Floors: the same table unwatched; the same table with a NOTIFY of the row in a trigger, and one who listens.
 */
import { atLeast, type Figure, type Line, type Scale } from '../line.ts'
import { hasPgbench, write } from '../pgbench.ts'
import { median } from '../statistics.ts'
import { notifyUpdates } from '../subjects.ts'

const ROWS = 10_000
const WRITERS = 32
const ROUNDS: Readonly<Record<Scale, number>> = { full: 3, guard: 2 }
const ROUND_SECONDS: Readonly<Record<Scale, number>> = { full: 3, guard: 3 }

export const writeTax: Line = {
  name: 'write-tax',
  async measure(lab, scale) {
    if (!hasPgbench) return []
    const postgres = await lab.postgres()
    for (const table of ['plain', 'notifying', 'rows']) {
      await postgres.client.query(`create table ${table} (id int primary key, n int not null, label text not null) with (fillfactor = 50)`)
      await postgres.client.query(`insert into ${table} select i, 0, 'a label of some length' from generate_series(1, ${ROWS}) i`)
    }
    await notifyUpdates(postgres.client, 'notifying')
    await (await postgres.connect()).query('listen notifying')
    const server = await lab.freshet(postgres)
    await postgres.client.query(`select freshet.watch('rows')`)
    await server.serves('rows')
    const follower = lab.crowd()
    await follower.ask('open', { port: server.port, path: '/v1/channels/rows/stream', ready: '"more":false', count: 1 })
    const rates: Record<'plain' | 'rows' | 'notifying', number[]> = { plain: [], rows: [], notifying: [] }
    for (let round = 0; round < ROUNDS[scale]; round += 1) {
      for (const table of ['plain', 'rows', 'notifying'] as const) {
        const script = `\\set id random(1, ${ROWS})\nupdate ${table} set n = n + 1 where id = :id;\n`
        const { transactionsASecond } = await write({ url: postgres.url, script, count: WRITERS, seconds: ROUND_SECONDS[scale] })
        rates[table].push(transactionsASecond)
      }
      await follower.ask('expect', { marker: `round ${round} is over` })
      await postgres.client.query(`update rows set label = $1 where id = 1`, [`round ${round} is over`])
      await follower.ask('arrived', { timeoutMs: 30_000 })
    }
    const against = (name: string, table: 'plain' | 'notifying', required: number, reach: number): Figure => ({
      work: `${WRITERS} writers of single rows`, measured: median(rates.rows), unit: 'transactions a second',
      against: { name, measured: median(rates[table]) }, judged: 'ratio', bound: atLeast(required, reach),
    })
    return [against('unwatched', 'plain', 0.6, 0.75), against('NOTIFY in a trigger', 'notifying', 2.5, 5)]
  },
}
