/** One run of the machine: a world, writers and clients in it, one fault after another, and at the end the truth. */
import { setTimeout as delay } from 'node:timers/promises'
import { Judge } from './checks.ts'
import { Client } from './client.ts'
import { CLIENTS } from './clients.ts'
import { FAULTS, type Fault } from './faults.ts'
import { History, type FaultRecord } from './history.ts'
import { compareWithTables, probe } from './probe.ts'
import { Random } from './random.ts'
import type { Report } from './report.ts'
import { World } from './world.ts'
import { Writer } from './writer.ts'

export interface TortureOptions {
  readonly seed: number
  readonly minutes: number
  /** It goes on until there have been so many faults. Default 0. */
  readonly leastFaults?: number
  readonly nodes: number
  /** Names of faults, `all` or `none`; `-name` leaves one out. */
  readonly faults: readonly string[]
  /** Told now and then what has been done and found. */
  readonly log: (line: string) => void
}

const WRITERS = [['w1', 'small'], ['w2', 'small'], ['w3', 'small'], ['w4', 'large'], ['w5', 'large'], ['w6', 'slow'], ['w7', 'slow']] as const
const PROGRESS_MS = 10_000
const NO_FAULT: Fault = { name: 'none', how: 'nothing', inject: () => Promise.resolve('') }

export async function torture(options: TortureOptions): Promise<Report> {
  const { seed, nodes, log } = options
  const history = new History()
  const judge = new Judge(history)
  const world = await World.start(nodes)
  try {
    const random = (actor: string): Random => new Random(seed, actor)
    const writers = WRITERS.map(([name, kind]) => new Writer({
      name, kind, url: world.postgres.url, history, random, mayPrepare: () => world.mayPrepare,
      onHarm: ({ code, message, where }) => judge.report('harm', name, `a transaction failed: ${message} (${code ?? 'no code'}) ${where ?? ''}`),
    }))
    const clients = CLIENTS.map((habits) => new Client(habits, {
      judge, random, nodes: world.nodes.map((node) => node.clients.url.replace(/\/$/, '')),
      isCalm: () => world.isCalm, mayBeUnknown: (channel) => world.unknown.has(channel),
    }))
    const run = { options, history, judge, world, clients, told: 0 }
    for (const actor of [...clients, ...writers]) actor.start()
    const progress = setInterval(() => void tell(run), PROGRESS_MS)
    try {
      await breakThings(run)
      await Promise.all(writers.map((writer) => writer.stop()))
      world.isCalm = true
      if (await probe(world, clients, judge, history.faults.length + 1) !== null) await compareWithTables(world, clients, judge)
      await tell(run)
    } finally {
      clearInterval(progress)
      await Promise.all([...clients, ...writers].map((actor) => actor.stop()))
    }
    if (judge.violations.length > 0) log(`the end of the nodes' log:\n${await world.logTail(40)}`)
    return {
      seed, minutes: options.minutes, nodes, faults: history.faults, violations: judge.violations, transactions: history.counts, failures: Object.fromEntries(history.reasons),
      known: judge.known, compared: judge.compared, peakBytes: world.peakBytes,
      clients: clients.map(({ habits, counts }) => ({ name: habits.name, ...counts })),
      hows: Object.fromEntries([NO_FAULT, ...FAULTS].map(({ name, how }) => [name, how])),
    }
  } finally {
    await world.close()
  }
}

interface Run {
  readonly options: TortureOptions
  readonly history: History
  readonly judge: Judge
  readonly world: World
  readonly clients: readonly Client[]
  /** Violations that have been spoken of. */
  told: number
}

/** Throws on a name that is not a fault. */
function chosenFaults({ faults, minutes }: TortureOptions): readonly Fault[] {
  const unknown = faults.find((name) => !['all', 'none', ...FAULTS.map((fault) => fault.name)].includes(name.replace(/^-/, '')))
  if (unknown !== undefined) throw new Error(`there is no fault ${unknown}; there are: ${FAULTS.map(({ name }) => name).join(', ')}`)
  const isAll = faults.includes('all')
  const chosen = FAULTS.filter(({ name, leastMinutes = 0 }) => faults.includes(name) || (isAll && minutes >= leastMinutes && !faults.includes(`-${name}`)))
  return chosen.length === 0 ? [NO_FAULT] : chosen
}

/** Every chosen fault in an order of chance, again and again until the time is over. */
async function breakThings(run: Run): Promise<void> {
  const { options } = run
  const faults = chosenFaults(options)
  const endMs = Date.now() + options.minutes * 60_000
  let deck: Fault[] = []
  for (let number = 1; Date.now() < endMs || number <= (options.leastFaults ?? 0); number += 1) {
    const random = new Random(options.seed, `fault ${number}`)
    if (deck.length === 0) deck = random.shuffled(faults)
    const fault = deck.pop() ?? NO_FAULT
    await delay(random.between(800, 2_500))
    await breakOnce(run, fault, random)
  }
}

async function breakOnce({ history, judge, world, clients }: Run, fault: Fault, random: Random): Promise<void> {
  const record: FaultRecord = { name: fault.name, detail: '', startedMs: Date.now(), endedMs: null, recoveryMs: null, lastToRecover: '' }
  history.faults.push(record)
  record.detail = await fault.inject(world, random)
  record.endedMs = Date.now()
  world.isCalm = true
  const last = await probe(world, clients, judge, history.faults.length)
  if (last !== null) Object.assign(record, { recoveryMs: Date.now() - record.endedMs, lastToRecover: last })
  // What did not recover must not be laid at the next one's door.
  else world.heal()
  world.isCalm = false
  world.unknown.clear()
}

async function tell(run: Run): Promise<void> {
  const { options, history, judge, world, clients } = run
  await world.measure()
  for (const what of world.died) judge.report('died', 'a server', what)
  const { committed, failed, unknown } = history.counts
  const now = history.faults.at(-1)
  const before = history.faults.findLast(({ recoveryMs }) => recoveryMs !== null)
  const answers = clients.reduce((sum, { counts }) => sum + counts.answers, 0)
  const resets = clients.reduce((sum, { counts }) => sum + counts.resets, 0)
  options.log(`${history.since(Date.now())}: ${committed} committed (${failed} failed, ${unknown} unknown), ${answers} answers (${resets} resets), `
    + `${judge.compared} states compared, ${judge.violations.length} violations; ${history.faults.length} faults, now ${now?.name ?? 'none'}`
    + (before === undefined ? '' : `; after ${before.name} (${before.detail}) all was well in ${((before.recoveryMs ?? 0) / 1_000).toFixed(1)} s, last "${before.lastToRecover}"`))
  for (const { kind, who, what } of judge.violations.slice(run.told)) options.log(`  ${kind}: "${who}": ${what.slice(0, 200)}`)
  run.told = judge.violations.length
}
