/**
 * 10,000 streams opened at once, each with its first state of twenty rows; at most 3,000 of them wait for an answer at a time.
 * Floor: node:http that begins each of as many answers with the same bytes.
 */
import type { Child } from '../child.ts'
import type { Crowd, OpenOptions } from '../crowd.ts'
import type { HttpFloor } from '../floors/http.ts'
import { atLeast, type Line } from '../line.ts'
import { median } from '../statistics.ts'
import { openStream } from '../../test/support/sse.ts'

const ROWS = 20
const ROUNDS = 3

export const connectStorm: Line = {
  name: 'connect-storm',
  async measure(lab, scale) {
    const count = scale === 'full' ? 10_000 : 2_000
    const postgres = await lab.postgres()
    await postgres.client.query('create table rows (id int primary key, label text not null)')
    await postgres.client.query(`insert into rows select i, 'a label of some length' from generate_series(1, ${ROWS}) i`)
    const server = await lab.freshet(postgres)
    await postgres.client.query(`select freshet.watch('rows')`)
    await server.serves('rows')
    const floor = lab.child<HttpFloor>('floors/http.ts')
    const targets = [
      { port: server.port, path: '/v1/channels/rows/stream', ready: '"more":false' },
      { port: await floor.ask('listen'), path: '/stream', ready: '"more":false' },
    ]
    await floor.ask('begin', { event: await firstEvent(`${server.url}/v1/channels/rows/stream`) })
    const crowds = [lab.crowd(), lab.crowd()]
    const rates: number[][] = targets.map(() => [])
    for (let round = 0; round <= ROUNDS; round += 1) {
      for (const [index, target] of targets.entries()) {
        const seconds = await storm(crowds, { ...target, count: count / crowds.length, inFlight: 1_500 }, round * 2)
        // The first round is for the compilers.
        if (round > 0) rates[index]?.push(count / seconds)
      }
    }
    const [ours = [], theirs = []] = rates
    return [{
      work: `${count.toLocaleString('en')} streams at once, each its first state`, measured: median(ours), unit: 'streams a second',
      against: { name: 'node:http', measured: median(theirs) }, judged: 'ratio', bound: atLeast(0.4, 0.6),
    }]
  },
}

/** Opens them all, counts the rows that came, and lets them go. */
async function storm(crowds: readonly Child<Crowd>[], options: OpenOptions, origin: number): Promise<number> {
  const before = await Promise.all(crowds.map((crowd) => crowd.ask('count')))
  const startedMs = performance.now()
  await Promise.all(crowds.map((crowd, index) => crowd.ask('open', { ...options, origin: 1 + origin + index })))
  const seconds = (performance.now() - startedMs) / 1_000
  const after = await Promise.all(crowds.map((crowd) => crowd.ask('count')))
  for (const [index, { events }] of after.entries()) {
    const came = events - (before[index]?.events ?? 0)
    if (came !== options.count) throw new Error(`${came} first states for ${options.count} streams`)
  }
  await Promise.all(crowds.map((crowd) => crowd.ask('leave')))
  return seconds
}

async function firstEvent(url: string): Promise<string> {
  const stream = await openStream(url)
  const { id = '', data } = await stream.until(({ event }) => event === undefined)
  stream.close()
  if (data.split('"upsert"').length !== ROWS + 1) throw new Error(`the first state has not ${ROWS} rows`)
  return `id: ${id}\ndata: ${data}\n\n`
}
