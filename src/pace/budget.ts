/**
 * The price of a request, from how many the server can answer: scarcity s makes every request s times as dear, and intervals grow
 * with its root. Feed-forward: it is solved for all channels and their clients at once, before they have asked.
 */
import { MAX_STEP, MIN_STEP } from './plan.ts'

/** The clients of one channel. */
export interface Demand {
  readonly clients: number
  /** Seconds between two polls of one of them, if there were no scarcity. */
  readonly interval: number
}

const DEAREST = (MAX_STEP / MIN_STEP) ** 2
/** Share of the way to the solution that is gone at once: what the root law does not know settles in some steps. */
const HASTE = 0.7
const ROUNDS = 24
/** Below this there is none. */
const ENOUGH = 1.01

/** Polls a second that the demands make at a scarcity. */
function pollsPerSecond(demands: readonly Demand[], scarcity: number): number {
  const stretch = Math.sqrt(scarcity)
  return demands.reduce((sum, { clients, interval }) => sum + clients / Math.min(MAX_STEP, Math.max(MIN_STEP, interval * stretch)), 0)
}

/** The next scarcity, 1 (there is enough) or more, given the present one and what may be spent, in polls a second. */
export function nextScarcity(demands: readonly Demand[], scarcity: number, budget: number): number {
  if (!(budget > 0)) return 1
  const solved = Math.log(leastScarcity(demands, budget))
  const next = Math.exp(Math.log(scarcity) + HASTE * (solved - Math.log(scarcity)))
  return next < ENOUGH ? 1 : next
}

function leastScarcity(demands: readonly Demand[], budget: number): number {
  if (pollsPerSecond(demands, 1) <= budget) return 1
  let low = 1
  let high = DEAREST
  for (let round = 0; round < ROUNDS; round++) {
    const middle = Math.sqrt(low * high)
    if (pollsPerSecond(demands, middle) > budget) low = middle
    else high = middle
  }
  return high
}
