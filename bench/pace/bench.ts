/**
 * How much sooner do clients see a commit, for as many requests as a fixed interval makes? One line a family, one column a policy,
 * each the lag over that of the fixed interval (geometric mean of 5, 15 and 60 s): 1 is as good, 0.5 twice as fresh. `bound` knows
 * the future.
 *
 *   npm run bench:pace -- [FAMILY]           families whose names contain it
 *   npm run bench:pace -- --chart FILE.svg   draws what it prints
 *   npm run bench:pace -- --http             the same traces through the server's own endpoint, on a virtual clock
 */
import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { Advisor } from '../../src/pace/advisor.ts'
import { create, type Policy } from './adapter.ts'
import { chart, type Row } from './chart.ts'
import { replay } from './http.ts'
import { backOff, clairvoyant, compare, fixed, simulate, simulateHolding, squareRoot } from './simulate.ts'
import { createTrace, families as known, type Trace } from './traces.ts'
import { families as unseen } from './unseen.ts'

const INTERVALS = [5, 15, 60]
const POLICIES: Readonly<Record<string, (trace: Trace) => (price: number) => Policy>> = {
  'back-off': () => backOff, 'square root': () => squareRoot, 'pace': () => create, 'bound': clairvoyant,
}

function mean(values: readonly number[]): number {
  const finite = values.filter((value) => value > 0 && Number.isFinite(value))
  return Math.exp(finite.reduce((sum, value) => sum + Math.log(value), 0) / finite.length)
}

function line(name: string, columns: readonly (string | number)[]): void {
  console.log(name.padEnd(24) + columns.map((column) => (typeof column === 'number' ? column.toFixed(2) : column).padStart(15)).join(''))
}

function score(traces: ReadonlyMap<string, Trace>): readonly Row[] {
  const all: Record<string, { lag: number[]; p95: number[] }> = {}
  line('family', Object.keys(POLICIES))
  const rows = [...traces].map(([family, trace]) => {
    const lags = Object.fromEntries(Object.entries(POLICIES).map(([policy, policyOf]) => {
      const cells = INTERVALS.map((interval) => compare(trace, interval, policyOf(trace)))
      const scores = (all[policy] ??= { lag: [], p95: [] })
      scores.lag.push(...cells.map(({ lag }) => lag))
      scores.p95.push(...cells.map(({ p95 }) => p95))
      return [policy, mean(cells.map(({ lag }) => lag))]
    }))
    line(family, Object.values(lags))
    return { family, lags }
  })
  console.log()
  for (const [policy, { lag, p95 }] of Object.entries(all)) {
    const worst = Math.max(...lag.filter(Number.isFinite))
    console.log(`${policy.padEnd(24)} gain ${(1 / mean(lag)).toFixed(2)}   worst cell ${worst.toFixed(2)}   p95 ${mean(p95).toFixed(2)}`)
  }
  return rows
}

/** What a client gains that asks every 15 seconds and lets itself be held for five of them. */
function scoreHolding(traces: ReadonlyMap<string, Trace>): void {
  console.log('\nwait=5 on an interval of 15 s, lag over that without')
  for (const name of ['sessions', 'silence, then a burst', 'people editing', 'batches']) {
    const trace = traces.get(name)
    if (trace === undefined) continue
    const plain = simulate(trace, fixed(15))
    const held = simulateHolding(trace, { intervalSeconds: 15, waitSeconds: 5 })
    line(name, [held.meanLag / plain.meanLag, `${(held.polls / plain.polls).toFixed(2)} requests`])
  }
}

/** What advice and commits cost the server, whose time they are. */
function scoreCosts(traces: ReadonlyMap<string, Trace>): void {
  let nowMs = 0
  const advisor = new Advisor({ now: () => nowMs, defer: () => { /* commits are learned when advice is asked for */ } })
  const taken = (work: () => void): number => {
    const startedMs = performance.now()
    work()
    return 1_000 * (performance.now() - startedMs)
  }
  const costs = { commit: [] as number[], advice: [] as number[], shared: [] as number[] }
  for (const at of [...traces.values()][0]?.commits.slice(0, 2_000) ?? []) {
    nowMs = at * 1_000
    costs.commit.push(taken(() => advisor.observe('c')))
    advisor.advise('c')
    nowMs += 300
    costs.advice.push(taken(() => advisor.advise('c')))
    costs.shared.push(taken(() => advisor.advise('c')))
  }
  const silences = [3_600, 86_400, 30 * 86_400].map((seconds) => {
    nowMs += seconds * 1_000
    return taken(() => advisor.advise('c'))
  })
  const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN
  console.log(`\nmicroseconds (median): ${median(costs.commit).toFixed(1)} in the way of a commit, ${median(costs.advice).toFixed(1)} an advice, ${median(costs.shared).toFixed(1)} one that is shared; after an hour, a day, a month of silence ${silences.map((cost) => cost.toFixed(0)).join(', ')}`)
}

async function compareWithHttp(traces: ReadonlyMap<string, Trace>): Promise<void> {
  line('family', ['polls', 'HTTP', 'lag', 'HTTP', 'p95', 'HTTP', '304'])
  let differ = 0
  for (const [family, trace] of traces) {
    // The price at which a steady stream of as many commits is asked every 15 seconds.
    const price = (trace.commits.length / trace.seconds) * 15 ** 2
    const simulated = simulate(trace, create(price))
    const replayed = await replay(trace, price)
    line(family, [String(simulated.polls), String(replayed.polls), simulated.meanLag, replayed.meanLag, simulated.p95Lag, replayed.p95Lag, String(replayed.unchanged)])
    if (replayed.polls !== simulated.polls || Math.abs(replayed.meanLag - simulated.meanLag) > 1e-6) differ++
  }
  console.log(differ === 0 ? '\nthe same, poll for poll' : `\n${differ} families differ`)
  process.exitCode = differ === 0 ? 0 : 1
}

const { values: { http, chart: file }, positionals: [only = ''] } = parseArgs({ options: { http: { type: 'boolean' }, chart: { type: 'string' } }, allowPositionals: true })
const traces = new Map(Object.entries({ ...known, ...unseen }).filter(([name]) => name.includes(only)).map(([name, family]) => [name, createTrace(family, 1)]))
if (http === true) {
  await compareWithHttp(traces)
} else {
  const rows = score(traces)
  scoreHolding(traces)
  scoreCosts(traces)
  if (file !== undefined) await writeFile(file, chart(rows, Object.keys(POLICIES)))
}
