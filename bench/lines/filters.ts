/**
 * One change that concerns one subscriber, among 100 and among 10,000 that each ask for a value of their own: CPU a change, of the
 * server and of PostgreSQL, less what both use while nothing happens. Two servers, each with a database of its own, in turn.
 */
import type { Child } from '../child.ts'
import type { Crowd } from '../crowd.ts'
import type { Freshet, Lab, Postgres } from '../lab.ts'
import { atMost, type Line } from '../line.ts'
import { median } from '../statistics.ts'
import { keepPace } from '../subjects.ts'

const ROUNDS = 3
const ROUND_MS = 1_500
const EVERY_MS = 8
const FEW = 100

interface Place {
  readonly postgres: Postgres
  readonly server: Freshet
  readonly crowd: Child<Crowd>
  readonly subscribers: number
  readonly costs: number[]
}

export const filters: Line = {
  name: 'filters',
  async measure(lab, scale) {
    const many = scale === 'full' ? 10_000 : 2_000
    const places = [await open(lab, FEW), await open(lab, many)]
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const place of places) place.costs.push(await costOfChange(place, round))
    }
    const [few, crowded] = places.map(({ costs }) => median(costs))
    return [{
      work: `a change, ${many.toLocaleString('en')} filters`, measured: crowded ?? NaN, unit: 'µs a change', against: { name: `${FEW} filters`, measured: few ?? NaN },
      judged: 'ratio', bound: atMost(1.5, 1.1),
    }]
  },
}

async function open(lab: Lab, subscribers: number): Promise<Place> {
  const postgres = await lab.postgres()
  await postgres.client.query('create table rows (id int primary key, label text not null)')
  await postgres.client.query(`insert into rows select i, 'none' from generate_series(0, ${subscribers - 1}) i`)
  const server = await lab.freshet(postgres)
  await postgres.client.query(`select freshet.watch('rows', filters => '{id}')`)
  await server.serves('rows')
  const crowd = lab.crowd()
  await crowd.ask('open', { port: server.port, path: '/v1/channels/rows/stream?id={i}', ready: '"more":false', count: subscribers })
  return { postgres, server, crowd, subscribers, costs: [] }
}

async function costOfChange({ postgres, server, crowd, subscribers }: Place, round: number): Promise<number> {
  const used = async (): Promise<number> => await server.cpuMs() + await postgres.cpuMs()
  const idleFrom = await used()
  await keepPace({ everyMs: ROUND_MS, forMs: ROUND_MS }, () => Promise.resolve())
  const from = await used()
  const before = await crowd.ask('count')
  const marker = `round ${round} is over`
  await crowd.ask('expect', { marker, count: 1 })
  const write = (number: number, label: string): Promise<unknown> =>
    postgres.client.query({ name: 'write', text: 'update rows set label = $2 where id = $1', values: [number % subscribers, label] })
  const changes = 1 + await keepPace({ everyMs: EVERY_MS, forMs: ROUND_MS }, (number) => write(number * 7, `change ${number}`))
  await write(0, marker)
  await crowd.ask('arrived', { timeoutMs: 30_000 })
  const cost = await used() - from - (from - idleFrom)
  const { events } = await crowd.ask('count')
  // Versions may hold several changes, but each change is one reader's.
  if (events - before.events > changes || events - before.events < changes * 0.9) throw new Error(`${events - before.events} events for ${changes} changes`)
  return cost * 1_000 / changes
}
