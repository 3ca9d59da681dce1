/** One poller on one trace: what it asks, and how late it sees each commit; and the policies the advice is measured against. */
import { createRandom, type Trace } from './traces.ts'
import type { Policy } from './adapter.ts'

export interface Outcome {
  readonly polls: number
  /** Delay from commit to poll, seconds. */
  readonly meanLag: number
  readonly p95Lag: number
}

/** Mean seconds by which a client asks later than it was told. */
export const LATENESS = 0.1

export function simulate({ seconds, commits }: Trace, policy: Policy): Outcome {
  const random = createRandom(1)
  const lags: number[] = []
  let polls = 0
  for (let now = 0; ; ) {
    const seen = lags.length
    for (let at = commits[seen]; at !== undefined && at <= now; at = commits[lags.length]) {
      policy.change(at)
      lags.push(now - at)
    }
    polls++
    if (now >= seconds) break
    const step = Math.min(300, Math.max(1, policy.poll(now, lags.length - seen)))
    now = Math.min(seconds, now + step + random.exp(LATENESS))
  }
  return outcomeOf(polls, lags)
}

export function outcomeOf(polls: number, lags: readonly number[]): Outcome {
  const sorted = lags.toSorted((a, b) => a - b)
  const meanLag = lags.reduce((sum, lag) => sum + lag, 0) / Math.max(1, lags.length)
  return { polls, meanLag, p95Lag: sorted[Math.floor(0.95 * sorted.length)] ?? 0 }
}

/** A client that asks every so often and lets itself be held for `waitSeconds`; after a change it asks again at once. */
export function simulateHolding({ seconds, commits }: Trace, { intervalSeconds, waitSeconds }: { readonly intervalSeconds: number; readonly waitSeconds: number }): Outcome {
  const random = createRandom(1)
  const lags: number[] = []
  let polls = 0
  for (let now = 0; now < seconds; ) {
    polls++
    const first = commits[lags.length]
    // Held until a commit, or until its time is over; not held when it is behind.
    const answered = Math.max(now, Math.min(first ?? Infinity, now + waitSeconds))
    const isBehind = first !== undefined && first <= answered
    for (let at = first; at !== undefined && at <= answered; at = commits[lags.length]) lags.push(answered - at)
    now = isBehind ? answered + random.exp(LATENESS) : Math.max(answered, now + intervalSeconds) + random.exp(LATENESS)
  }
  return outcomeOf(polls, lags)
}

export interface Comparison {
  /** Lag of the policy over lag of a fixed interval, at as many requests. */
  readonly lag: number
  readonly p95: number
}

/** Finds the price at which a policy asks as often as a fixed interval, and compares the delays there. */
export function compare(trace: Trace, intervalSeconds: number, create: (price: number) => Policy, rounds = 11): Comparison {
  const reference = simulate(trace, fixed(intervalSeconds))
  // Around the price at which a steady stream of as many commits is asked as often.
  const usual = Math.log(((trace.commits.length + 1) / trace.seconds) * intervalSeconds ** 2)
  let low = usual - 7
  let high = usual + 7
  let above: Outcome | null = null
  let below: Outcome | null = null
  for (let i = 0; i < rounds; i++) {
    const middle = (low + high) / 2
    const outcome = simulate(trace, create(Math.exp(middle)))
    if (outcome.polls > reference.polls) [low, above] = [middle, outcome]
    else [high, below] = [middle, outcome]
  }
  if (below === null) return { lag: NaN, p95: NaN }
  const upper = above ?? below
  const span = Math.log(upper.polls / below.polls)
  const share = span > 0 ? Math.log(upper.polls / reference.polls) / span : 0
  const at = (a: number, b: number): number => Math.exp(Math.log(a) * (1 - share) + Math.log(b) * share)
  return { lag: at(upper.meanLag, below.meanLag) / reference.meanLag, p95: at(upper.p95Lag, below.p95Lag) / reference.p95Lag }
}

export function fixed(seconds: number): Policy {
  return { change() { /* asks as ever */ }, poll: () => seconds }
}

/** The bound: knows every commit beforehand, and asks right at those that are worth a request. */
export function clairvoyant({ commits }: Trace): (price: number) => Policy {
  return (price) => {
    const times = bestTimes(commits, price)
    let next = 0
    return {
      change() { /* known already */ },
      poll(at) {
        while ((times[next] ?? Infinity) <= at) next++
        return Math.min(300, (times[next] ?? Infinity) - at)
      },
    }
  }
}

/** The commits after which to ask, so that requests and delays cost least together. */
function bestTimes(commits: readonly number[], price: number): readonly number[] {
  const costs = new Float64Array(commits.length + 1)
  const firsts = new Uint32Array(commits.length + 1)
  for (let last = 1; last <= commits.length; last++) {
    const at = commits[last - 1] ?? 0
    costs[last] = Infinity
    let delay = 0
    for (let first = last; first >= 1; first--) {
      const waits = at - (commits[first - 1] ?? 0)
      // A request for it alone would be cheaper.
      if (waits > price) break
      delay += waits
      const cost = (costs[first - 1] ?? 0) + price + delay
      if (cost < (costs[last] ?? Infinity)) [costs[last], firsts[last]] = [cost, first]
    }
  }
  const times: number[] = []
  for (let last = commits.length; last > 0; last = (firsts[last] ?? 1) - 1) times.unshift((commits[last - 1] ?? 0) + 0.001)
  return times
}

/** Half as often after every poll in vain, as often as it may after a change: up to eight times its shortest interval. */
export function backOff(price: number): Policy {
  const shortest = Math.min(300, Math.max(1, Math.sqrt(price)))
  let step = shortest
  return {
    change() { /* sees what the poll brings */ },
    poll(_at, newCommits) {
      step = newCommits > 0 ? shortest : Math.min(300, 8 * shortest, step * 1.5)
      return step
    },
  }
}

/** The interval that is right for a steady stream, at the rate of the last minute or so. */
export function squareRoot(price: number): Policy {
  let weight = 0
  let last = 0
  const fade = (at: number): void => {
    weight *= Math.exp((last - at) / 60)
    last = at
  }
  return {
    change(at) {
      fade(at)
      weight++
    },
    poll(at) {
      fade(at)
      return Math.sqrt((2 * price * 60) / (weight + 0.25))
    },
  }
}
