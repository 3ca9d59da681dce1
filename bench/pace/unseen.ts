/** Traces the advice was not tuned on, for its robustness: each family is a length in seconds and a generator of commit times. */
import type { Families, Random } from './traces.ts'

const HOUR = 3_600
const DAY = 86_400

function* gaps(end: number, gap: (t: number) => number): Generator<number> {
  for (let t = gap(0); t < end; t += Math.max(1e-3, gap(t))) yield t
}

function thinned(random: Random, end: number, peak: number, rate: (t: number) => number): number[] {
  return [...gaps(end, () => random.exp(1 / peak))].filter((t) => random.u() * peak < rate(t))
}

function cron(random: Random, end: number, { period, jitter, kept = 1, phase = random.u() * period }: { period: number; jitter: number; kept?: number; phase?: number }): number[] {
  const commits: number[] = []
  for (let t = phase; t < end; t += period) if (random.u() < kept) commits.push(t + Math.abs(random.norm()) * jitter)
  return commits
}

function gamma(random: Random, shape: number, mean: number): number {
  let sum = 0
  for (let i = 0; i < shape; i++) sum += random.exp(mean / shape)
  return sum
}

/** Commits that cause others, with delays of a heavy tail. */
function powerHawkes(random: Random, end: number): number[] {
  const waiting = [...gaps(end, () => random.exp(400))]
  const commits: number[] = []
  for (let t = waiting.pop(); t !== undefined; t = waiting.pop()) {
    commits.push(t)
    for (let i = random.pois(0.8); i > 0; i--) {
      const child = t + 3 * (random.u() ** (-1 / 0.7) - 1)
      if (child < end) waiting.push(child)
    }
  }
  return commits
}

export const families: Families = {
  'two-crons': { T: 12 * HOUR, gen: (r, T) => [...cron(r, T, { period: 60, jitter: 0.7 }), ...cron(r, T, { period: 300, jitter: 2 })] },
  'cron-skips': { T: 12 * HOUR, gen: (r, T) => cron(r, T, { period: 90, jitter: 1, kept: 0.6 }) },
  'cron-5-minutes': { T: DAY, gen: (r, T) => cron(r, T, { period: 300, jitter: 3 }) },
  'cron-noisy': { T: 12 * HOUR, gen: (r, T) => [...cron(r, T, { period: 120, jitter: 1.5 }), ...gaps(T, () => r.exp(30))] },
  'timer-drifts': { T: 12 * HOUR, gen: (r, T) => [...gaps(T, () => 47 + r.norm() * 1.5)] },
  'cron-batches': { T: DAY, gen: (r, T) => cron(r, T, { period: 600, jitter: 2 }).flatMap((t) => Array.from({ length: 5 + r.int(20) }, () => t + r.exp(3))) },
  'weibull-bursty': { T: DAY, gen: (r, T) => [...gaps(T, () => 25 * r.exp(1) ** (1 / 0.5))] },
  'gamma-regular': { T: 12 * HOUR, gen: (r, T) => [...gaps(T, () => gamma(r, 6, 45))] },
  'log-normal-sessions': { T: 2 * DAY, gen: (r, T) => [...gaps(T, () => r.exp(3_000))].flatMap((start) => [...gaps(r.logn(300, 1), () => r.logn(6, 1))].map((t) => start + t)) },
  'ramp': { T: 12 * HOUR, gen: (r, T) => thinned(r, T, 0.2, (t) => 0.2 * (t / T) ** 3) },
  'regimes': { T: DAY, gen: (r, T) => { let until = 0; let rate = 0; return thinned(r, T, 0.5, (t) => { if (t > until) { until = t + r.exp(3_000); rate = 0.5 * Math.exp(-7 * r.u()) } return rate }) } },
  'batches': { T: DAY, gen: (r, T) => [...gaps(T, () => r.exp(400))].flatMap((t) => Array.from({ length: 1 + r.int(12) }, () => t + r.exp(2))) },
  'hawkes-power': { T: DAY, gen: powerHawkes },
  'trading-hours': { T: 3 * DAY, gen: (r, T) => thinned(r, T, 0.25, (t) => { const h = (t % DAY) / HOUR; return h < 9.5 || h > 16 ? 0.0004 : 0.05 + 0.2 * ((h - 12.75) / 3.25) ** 4 }) },
  'daily-schedule': { T: 3 * DAY, gen: (r, T) => [0, 6.5, 9, 13, 18, 22.25].flatMap((h) => cron(r, T, { period: DAY, jitter: 20, phase: h * HOUR })).flatMap((t) => Array.from({ length: 40 }, () => t + r.exp(60))).concat([...gaps(T, () => r.exp(1_200))]) },
  'silent-then-cron': { T: DAY, gen: (r, T) => cron(r, T, { period: 30, jitter: 0.5 }).filter((t) => Math.floor(t / 7_200) % 2 === 1) },
}
