/** Seeded commit times of made-up channels, one family for each way channels change. */

export interface Random {
  /** Between 0 and 1, exclusive. */
  u(): number
  exp(mean: number): number
  norm(): number
  logn(median: number, sigma: number): number
  pois(mean: number): number
  /** A whole number below `n`. */
  int(n: number): number
}

export interface Family {
  /** Length, seconds. */
  readonly T: number
  gen(random: Random, length: number): number[]
}
export type Families = Readonly<Record<string, Family>>

export interface Trace {
  readonly seconds: number
  /** Ascending. */
  readonly commits: readonly number[]
}

const HOUR = 3_600
const DAY = 86_400

/** mulberry32, and the distributions drawn from it. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0
  const u = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let x = Math.imul(state ^ (state >>> 15), state | 1)
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
    return (((x ^ (x >>> 14)) >>> 0) + 0.5) / 4_294_967_296
  }
  const norm = (): number => Math.sqrt(-2 * Math.log(u())) * Math.cos(2 * Math.PI * u())
  return {
    u,
    exp: (mean) => -Math.log(u()) * mean,
    norm,
    logn: (median, sigma) => median * Math.exp(sigma * norm()),
    pois: (mean) => {
      let count = 0
      for (let left = mean + Math.log(u()); left > 0; left += Math.log(u())) count++
      return count
    },
    int: (n) => Math.floor(u() * n),
  }
}

export function createTrace(family: Family, seed: number): Trace {
  const { T } = family
  const sorted = family.gen(createRandom(seed), T).filter((t) => t >= 0 && t < T).toSorted((a, b) => a - b)
  const commits: number[] = []
  // Commits within a moment reach clients as one.
  for (const t of sorted) if (t - (commits.at(-1) ?? -1) >= 0.05) commits.push(t)
  return { seconds: T, commits }
}

function steps(length: number, gap: () => number): number[] {
  const times: number[] = []
  for (let t = gap(); t < length; t += gap()) times.push(t)
  return times
}

function daylight(t: number): number {
  return 0.01 + 0.99 * (0.5 - 0.5 * Math.cos((2 * Math.PI * t) / DAY)) ** 2
}

function cron(random: Random, length: number, period: number): number[] {
  const phase = random.u() * period
  return Array.from({ length: Math.floor(length / period) }, (_, k) => k * period + phase + Math.abs(random.norm()))
}

export const families: Families = {
  'steady, slow': { T: DAY, gen: (r, length) => steps(length, () => r.exp(120)) },
  'steady, fast': { T: 4 * HOUR, gen: (r, length) => steps(length, () => r.exp(4)) },
  'cron every minute': { T: 12 * HOUR, gen: (r, length) => cron(r, length, 60) },
  'cron and edits': { T: 12 * HOUR, gen: (r, length) => [...cron(r, length, 60), ...steps(length, () => r.exp(100))] },
  'sessions': {
    T: DAY,
    gen: (r, length) => steps(length, () => r.exp(3_600)).flatMap((start) => steps(r.exp(600), () => r.exp(5)).map((t) => start + t)),
  },
  'day and night': { T: 2 * DAY, gen: (r, length) => steps(length, () => r.exp(15)).filter((t) => r.u() < daylight(t)) },
  'silence, then a burst': {
    T: 2 * DAY,
    gen: (r, length) => steps(length, () => 240 + r.exp(2_700) + r.exp(2_700)).flatMap((start) => Array.from({ length: 40 + r.int(120) }, () => start + r.exp(60))),
  },
  'heavy tails': { T: DAY, gen: (r, length) => steps(length, () => Math.min(HOUR, 1.5 * r.u() ** (-1 / 1.15))) },
  'people editing': {
    T: 2 * DAY,
    gen: (r, length) => steps(length, () => r.exp(1_500)).filter((t) => r.u() < daylight(t)).flatMap((start) => steps(r.logn(420, 0.9), () => r.logn(4, 1.2)).map((t) => start + t)),
  },
}
