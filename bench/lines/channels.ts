/**
 * The same rate of writes over one watched table and over 2,000: CPU a change of the server and of PostgreSQL, beyond what the same
 * updates of as many unwatched tables cost. Two servers, each with a database of its own, in turn.
 */
import type { Child } from '../child.ts'
import type { Crowd } from '../crowd.ts'
import type { Freshet, Lab, Postgres } from '../lab.ts'
import { atMost, type Line } from '../line.ts'
import { median } from '../statistics.ts'
import { keepPace } from '../subjects.ts'

const ROUNDS = 5
const PACE = { everyMs: 8, forMs: 1_500 }

interface Place {
  readonly postgres: Postgres
  readonly server: Freshet
  readonly crowd: Child<Crowd>
  readonly tables: number
  readonly costs: number[]
}

export const channels: Line = {
  name: 'channels',
  async measure(lab, scale) {
    const many = scale === 'full' ? 2_000 : 200
    const places = [await open(lab, 1), await open(lab, many)]
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const place of places) place.costs.push(await costOfChange(place, round))
    }
    const [one, all] = places.map(({ costs }) => median(costs))
    return [{
      work: `a change in one of ${many.toLocaleString('en')} channels`, measured: all ?? NaN, unit: 'µs a change', against: { name: 'one channel', measured: one ?? NaN },
      judged: 'ratio', bound: atMost(1.3, 1.1),
    }]
  },
}

async function open(lab: Lab, tables: number): Promise<Place> {
  // Thousands of new tables would be analysed at some moment or other.
  const postgres = await lab.postgres({ max_locks_per_transaction: '256', autovacuum: 'off' })
  const server = await lab.freshet(postgres)
  for (let from = 0; from < tables; from += 100) {
    await postgres.client.query(`
      do $$ begin
        for i in ${from}..${Math.min(tables, from + 100) - 1} loop
          execute format('create table watched_%s (id int primary key, label text not null)', i);
          execute format('create table plain_%s (id int primary key, label text not null)', i);
          execute format('insert into watched_%1$s values (1, ''none''); insert into plain_%1$s values (1, ''none'')', i);
          perform freshet.watch(format('watched_%s', i)::regclass);
        end loop;
      end $$`)
  }
  await server.serves(`watched_${tables - 1}`)
  const crowd = lab.crowd()
  await crowd.ask('open', { port: server.port, path: '/v1/channels/watched_0/stream', ready: '"more":false', count: 1 })
  // A backend learns a table at its first statement on it.
  for (const kind of ['watched', 'plain']) {
    await postgres.client.query(`do $$ begin for i in 0..${tables - 1} loop execute format('update ${kind}_%s set label = ''first'' where id = 1', i); end loop; end $$`)
  }
  return { postgres, server, crowd, tables, costs: [] }
}

function update({ client }: Postgres, table: string, label: string): Promise<unknown> {
  return client.query(`update ${table} set label = '${label}' where id = 1`)
}

async function costOfChange({ postgres, server, crowd, tables }: Place, round: number): Promise<number> {
  const used = async (): Promise<number> => await server.cpuMs() + await postgres.cpuMs()
  const writeTo = (kind: string) => (number: number): Promise<unknown> => update(postgres, `${kind}_${number % tables}`, `change ${number}`)
  const plainFrom = await used()
  const plain = await keepPace(PACE, writeTo('plain'))
  const from = await used()
  const marker = `round ${round} is over`
  await crowd.ask('expect', { marker })
  const watched = await keepPace(PACE, writeTo('watched'))
  await update(postgres, 'watched_0', marker)
  await crowd.ask('arrived', { timeoutMs: 30_000 })
  return ((await used() - from) / (watched + 1) - (from - plainFrom) / plain) * 1_000
}
