/**
 * How much sooner do clients see a commit, for as many requests as a fixed interval makes? One line a family, one column a policy,
 * each the lag over that of the fixed interval (geometric mean of 5, 15 and 60 s): 1 is as good, 0.5 twice as fresh.
 */
import { create, type Policy } from './adapter.ts'
import { backOff, compare, squareRoot } from './simulate.ts'
import { createTrace, families as known } from './traces.ts'
import { families as unseen } from './unseen.ts'

const INTERVALS = [5, 15, 60]
const POLICIES: Readonly<Record<string, (price: number) => Policy>> = { 'back-off': backOff, 'square root': squareRoot, 'pace': create }

function mean(values: readonly number[]): number {
  const finite = values.filter((value) => value > 0 && Number.isFinite(value))
  return Math.exp(finite.reduce((sum, value) => sum + Math.log(value), 0) / finite.length)
}

const only = process.argv[2] ?? ''
const all: Record<string, { lag: number[]; p95: number[] }> = {}
console.log(['family'.padEnd(24), ...Object.keys(POLICIES).map((name) => name.padStart(12))].join(''))
for (const [name, family] of Object.entries({ ...known, ...unseen })) {
  if (!name.includes(only)) continue
  const trace = createTrace(family, 1)
  const columns = Object.entries(POLICIES).map(([policy, createPolicy]) => {
    const cells = INTERVALS.map((interval) => compare(trace, interval, createPolicy))
    const scores = (all[policy] ??= { lag: [], p95: [] })
    scores.lag.push(...cells.map(({ lag }) => lag))
    scores.p95.push(...cells.map(({ p95 }) => p95))
    return mean(cells.map(({ lag }) => lag)).toFixed(2).padStart(12)
  })
  console.log(name.padEnd(24) + columns.join(''))
}
console.log()
for (const [policy, { lag, p95 }] of Object.entries(all)) {
  const worst = Math.max(...lag.filter(Number.isFinite))
  console.log(`${policy.padEnd(24)} gain ${(1 / mean(lag)).toFixed(2)}   worst cell ${worst.toFixed(2)}   p95 ${mean(p95).toFixed(2)}`)
}
