/**
 * One UPDATE of 100,000 rows under 600 streams with a filter value each: from its commit until the last of them has its rows, and how much
 * memory that takes of the server at the worst. Meanwhile another channel is polled through one filter after another, each never asked
 * for before. Floor: the same UPDATE under one stream without a filter, which gets all the rows.
 */
import type { Child } from '../child.ts'
import type { Crowd } from '../crowd.ts'
import type { Freshet, Lab, Postgres } from '../lab.ts'
import { atMost, type Figure, type Line } from '../line.ts'
import { median } from '../statistics.ts'
import { forgetPeak, peakBytes, residentBytes } from '../usage.ts'

const ROWS = 100_000
/** Filter values of the other channel: more than are asked for. */
const OTHERS = 20_000
/** The first round is dropped: in it the compilers learn. */
const ROUNDS = 4
const PAUSE_MS = 5

interface Round {
  /** From the commit to the last reader. */
  readonly toldMs: number
  readonly bytes: number
  /** What the polls of the meantime took. */
  readonly pollsMs: readonly number[]
}

export const bulkFilters: Line = {
  name: 'bulk-filters',
  async measure(lab, scale) {
    const filters = scale === 'full' ? 600 : 60
    const { postgres, server } = await open(lab, filters)
    const { port } = server
    const others = pollOthers(server)
    const one = await follow(lab, { port, path: '/v1/channels/rows/stream', count: 1 })
    const all = await measureRounds(postgres, one, others)
    await one.ask('leave')
    const many = await follow(lab, { port, path: '/v1/channels/rows/stream?grp={i}', count: filters })
    const residentBefore = await residentBytes(server.processId)
    await forgetPeak(server.processId)
    const each = await measureRounds(postgres, many, others)
    const growth = await peakBytes(server.processId) - residentBefore
    const [allBytes, eachBytes] = [all, each].map((rounds) => rounds[0]?.bytes ?? NaN)
    if (!(Math.abs((eachBytes ?? NaN) / (allBytes ?? NaN) - 1) < 0.1)) throw new Error(`${eachBytes} bytes in all through filters, ${allBytes} without`)
    return figures({ filters, all, each, growth })
  },
}

async function open(lab: Lab, filters: number): Promise<{ readonly postgres: Postgres; readonly server: Freshet }> {
  const postgres = await lab.postgres()
  const { client } = postgres
  await client.query(`
    create table rows (id int primary key, grp int not null, label text not null, amount numeric not null, n int not null default 0);
    insert into rows select i, i % ${filters}, 'row number ' || i, i * 1.25 from generate_series(1, ${ROWS}) i;
    create table others (id int primary key, grp int not null, label text not null);
    create index on others (grp);
    insert into others select i, i % ${OTHERS}, 'row number ' || i from generate_series(1, ${OTHERS * 5}) i`)
  await client.query('vacuum analyze rows, others')
  const server = await lab.freshet(postgres)
  await client.query(`select freshet.watch('rows', filters => '{grp}'), freshet.watch('others', filters => '{grp}')`)
  await server.serves('others')
  return { postgres, server }
}

async function follow(lab: Lab, readers: { readonly port: number; readonly path: string; readonly count: number }): Promise<Child<Crowd>> {
  const crowd = lab.crowd()
  await crowd.ask('open', { ...readers, ready: '"more":false' })
  return crowd
}

/** Asks one question after another until it is told to end; resolves to what each took. */
type Polls = (signal: AbortSignal) => Promise<readonly number[]>

function pollOthers({ url }: Freshet): Polls {
  let grp = 0
  return async (signal) => {
    const times: number[] = []
    while (!signal.aborted) {
      const startedMs = performance.now()
      const response = await fetch(`${url}/v1/channels/others/changes?grp=${grp}`)
      const { changes } = await response.json() as { readonly changes: readonly unknown[] }
      if (changes.length !== 5) throw new Error(`${changes.length} rows of group ${grp}, not 5`)
      times.push(performance.now() - startedMs)
      grp = (grp + 1) % OTHERS
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
    }
    return times
  }
}

async function measureRounds(postgres: Postgres, readers: Child<Crowd>, others: Polls): Promise<readonly Round[]> {
  const rounds: Round[] = []
  for (let round = 0; round < ROUNDS; round += 1) rounds.push(await measureRound(postgres, readers, others))
  return rounds.slice(1)
}

async function measureRound({ client }: Postgres, readers: Child<Crowd>, others: Polls): Promise<Round> {
  const before = await readers.ask('count')
  // The last event of an answer says so.
  await readers.ask('expect', { marker: '"more":false' })
  const expectedMs = performance.now()
  await client.query('update rows set n = n + 1')
  const committedMs = performance.now()
  const over = new AbortController()
  const polls = others(over.signal)
  const { lastMs } = await readers.ask('arrived', { timeoutMs: 120_000 })
  over.abort()
  const pollsMs = await polls
  const { bytes } = await readers.ask('count')
  return { toldMs: lastMs - (committedMs - expectedMs), bytes: bytes - before.bytes, pollsMs }
}

function figures({ filters, all, each, growth }: { readonly filters: number; readonly all: readonly Round[]; readonly each: readonly Round[]; readonly growth: number }): readonly Figure[] {
  const work = `${ROWS.toLocaleString('en')} rows, ${filters} filters`
  const polls = each.flatMap(({ pollsMs }) => pollsMs).toSorted((a, b) => a - b)
  const seconds = (rounds: readonly Round[]): number => median(rounds.map(({ toldMs }) => toldMs / 1_000))
  return [
    { work: `${work}, all told`, measured: seconds(each), unit: 's', against: { name: 'one reader of all', measured: seconds(all) }, judged: 'ratio', bound: atMost(3, 2) },
    { work: `${work}, a fresh poll of another channel meanwhile, p99`, measured: polls[Math.ceil(polls.length * 0.99) - 1] ?? NaN, unit: 'ms', against: null, judged: 'measured', bound: atMost(250, 100) },
    { work: `${work}, growth of the server`, measured: growth / 1e6, unit: 'MB', against: null, judged: 'measured', bound: atMost(120, 120) },
  ]
}
