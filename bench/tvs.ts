/**
 * Thousands of simulated televisions against a real server in a process of its own: do they keep to its budget, also when that is
 * cut; do they spread when all come back at once; what does it cost to hold them?
 */
import { Agent, get, type IncomingMessage } from 'node:http'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import type { Child } from './child.ts'
import { Lab, type Postgres } from './lab.ts'
import { Log, Tv } from './pace/tv.ts'
import type { TvServer } from './tv-server.ts'

const CHANNELS = ['news', 'job', 'calm']
const SETUP = CHANNELS.map((name) => `create table ${name} (id int primary key, v int not null); insert into ${name} values (1, 0); select freshet.watch('${name}');`).join('')
/** A past of some hours, as a server has after a restart: a young channel is asked oftener than it will be. */
const PAST = `
  with past as (
    select clock_timestamp() - make_interval(secs => gap * i + gap / 2 * luck * sin(i * i)) as at, name
    from (values ('news', 2, 400, 1), ('job', 20, 300, 0), ('calm', 67, 100, 1)) channel (name, gap, count, luck), generate_series(1, count) i
  )
  insert into freshet.versions (number, snapshot, minted_at, touched, changes)
  select row_number() over (order by at), '3:3:', at, array[table_id], 1 from past join freshet.channels using (name)`
/** Connections that all sets share. */
const CONNECTIONS = 128
const EVERY = 10

interface Stage {
  readonly url: string
  readonly server: Child<TvServer>
  readonly postgres: Postgres
}

/** Commits as of a newsroom, a job that runs every 20 seconds, and hardly any. */
function startWriting({ client }: Postgres): () => void {
  const write = (table: string): void => void client.query(`update ${table} set v = v + 1`)
  let news: NodeJS.Timeout | undefined
  const byChance = (): void => {
    news = setTimeout(() => {
      write('news')
      byChance()
    }, -Math.log(Math.random()) * 2_000)
  }
  byChance()
  const job = setInterval(() => write('job'), 20_000)
  const calm = setInterval(() => write('calm'), 67_000)
  return () => {
    clearTimeout(news)
    clearInterval(job)
    clearInterval(calm)
  }
}

function switchOn({ url }: Stage, count: number, channels: readonly string[], log: Log): { readonly sets: readonly Tv[]; off(): void } {
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS })
  const sets = Array.from({ length: count }, (_, i) => new Tv({ base: `${url}/v1/channels/${channels[i % channels.length] ?? ''}/changes`, agent, log }))
  for (const set of sets) setTimeout(() => set.ask(), 5_000 * Math.random())
  return {
    sets,
    off() {
      for (const set of sets) set.off()
      agent.destroy()
    },
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

function verdict(name: string, value: number, limit: number): void {
  console.log(`${value <= limit ? 'met   ' : 'MISSED'} ${name}: ${value.toFixed(2)} (at most ${limit})`)
}

/** A line for every ten seconds. */
async function report(log: Log, from: number, until: number, budget: number): Promise<void> {
  for (let second = from; second < until; second += EVERY) {
    while (log.second < second + EVERY) await delay(100)
    const entries = Array.from({ length: EVERY }, (_, i) => log.at(second + i))
    const polls = entries.map((entry) => entry.polls)
    const advised = entries.reduce((sum, { advisedMs }) => sum + advisedMs, 0) / Math.max(1, polls.reduce((sum, value) => sum + value, 0))
    const loaded = entries.reduce((sum, { reasons }) => sum + (reasons['load'] ?? 0), 0) / Math.max(1, entries.reduce((sum, { polls: all }) => sum + all, 0))
    const refused = entries.reduce((sum, entry) => sum + entry.refused, 0)
    console.log(`${String(second).padStart(5)} s   ${mean(polls).toFixed(0).padStart(5)} /s of ${String(budget).padStart(5)}   highest ${String(Math.max(...polls)).padStart(5)}   advised ${(advised / 1_000).toFixed(1).padStart(5)} s   for load ${(100 * loaded).toFixed(0).padStart(3)} %   refused ${refused}`)
  }
}

async function measureBudget(stage: Stage, sets: number, budget: number): Promise<void> {
  console.log(`\n${sets} sets, a budget of ${budget} polls a second, cut to a quarter after 80 s`)
  const log = new Log()
  await stage.server.ask('spend', budget)
  const crowd = switchOn(stage, sets, CHANNELS, log)
  await report(log, 0, 80, budget)
  await stage.server.ask('spend', budget / 4)
  await report(log, 80, 180, budget / 4)
  crowd.off()
  verdict('polls of 40 s to 80 s over the budget', mean(log.polls(40, 80)) / budget, 1.1)
  const windows = Array.from({ length: 5 }, (_, i) => mean(log.polls(120 + i * 10, 140 + i * 10)) / (budget / 4))
  verdict('highest 20 seconds over the budget, from 40 s after the cut', Math.max(...windows), 1.15)
  verdict('highest over lowest 20 seconds, from 40 s after the cut', Math.max(...windows) / Math.min(...windows), 1.5)
}

async function measureHerd(stage: Stage, count: number): Promise<void> {
  console.log(`\n${count} sets ask at once`)
  await stage.server.ask('spend', 0)
  const before = new Log()
  const crowd = switchOn(stage, count, ['calm'], before)
  while (!crowd.sets.every(({ isUp }) => isUp)) await delay(100)
  await delay(5_000)
  crowd.off()
  const log = new Log()
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS })
  const sets = Array.from({ length: count }, () => new Tv({ base: `${stage.url}/v1/channels/calm/changes`, agent, log }))
  for (const set of sets) set.ask()
  await report(log, 0, 60, Infinity)
  for (const set of sets) set.off()
  agent.destroy()
  const answers = Array.from({ length: 55 }, (_, i) => log.at(5 + i))
  const advised = answers.reduce((sum, { advisedMs }) => sum + advisedMs, 0) / answers.reduce((sum, { polls }) => sum + polls, 0)
  verdict('highest second after the fifth over the even rate', Math.max(...log.polls(5, 60)) / (count * 1_000 / (advised * 1.035)), 1.5)
}

async function measureHold({ url, server, postgres }: Stage, count: number): Promise<void> {
  console.log(`\n${count} polls held, each on a connection of its own`)
  const { version } = await (await fetch(`${url}/v1/channels/calm/changes`)).json() as { version: string }
  const before = await server.ask('held')
  const agent = new Agent({ keepAlive: true, maxSockets: Infinity })
  const times: number[] = []
  let startedMs = 0
  const answers = Array.from({ length: count }, async () => {
    const [response] = await once(get(`${url}/v1/channels/calm/changes?since=${version}&wait=25`, { agent }), 'response') as [IncomingMessage]
    times.push(performance.now() - startedMs)
    response.resume()
    await once(response, 'end')
  })
  while ((await server.ask('held')).polls < count) await delay(100)
  const during = await server.ask('held')
  startedMs = performance.now()
  await postgres.client.query('update calm set v = v + 1')
  await Promise.all(answers)
  agent.destroy()
  console.log(`${((during.bytes - before.bytes) / count / 1_024).toFixed(1)} kB each; answered ${Math.min(...times).toFixed(0)} to ${Math.max(...times).toFixed(0)} ms after the commit began`)
}

const lab = new Lab()
try {
  const postgres = await lab.postgres()
  const server = lab.child<TvServer>('tv-server.ts')
  await server.ask('migrate', postgres.url)
  await postgres.client.query(SETUP)
  await postgres.client.query(PAST)
  const url = await server.ask('start', postgres.url)
  while ((await fetch(`${url}/v1/channels/calm/changes`)).status !== 200) await delay(50)
  const stage = { url, server, postgres }
  const stopWriting = startWriting(postgres)
  const only = process.argv[2] ?? ''
  if ('hold'.startsWith(only)) await measureHold(stage, 4_000)
  if ('budget'.startsWith(only)) await measureBudget(stage, 3_000, 200)
  stopWriting()
  if ('herd'.startsWith(only)) await measureHerd(stage, 5_000)
} finally {
  await lab.close()
}
