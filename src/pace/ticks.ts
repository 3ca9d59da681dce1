/**
 * Ticks: commits that come at a steady period, like those of a cron job. A lag that some commits before the newest one repeat
 * makes a candidate; a candidate that keeps its appointments becomes a tick, with the spread of its lateness.
 */
import type { Spike } from './plan.ts'

/** Commits remembered to look for periods in. */
const MEMORY = 48
const TICKERS = 4
const SHORTEST = 3
/** Appointments a candidate is judged by, as a weight of the newest. */
const JUDGE_GAIN = 0.12
const LATENESSES = 12
/** Kept appointments from which a ticker is planned with. */
const TRUSTED = 0.45
const DROPPED = 0.25
/** Ticks of one ticker that are planned with their spread; later ones are points. */
const SPREAD_TICKS = 2
const POINT_TICKS = 12
/** Seconds after a tick at which to ask: a moment too early is a whole request too many. */
const MARGIN = 0.05
/** Periods of schedulers; a close one is taken for it. */
const ROUND = [5, 10, 15, 20, 30, 60, 90, 120, 180, 240, 300, 600, 900, 1_200, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400] as const

interface Ticker {
  period: number
  /** The last appointment. */
  at: number
  /** Share of appointments kept lately. */
  kept: number
  /** Share an unrelated stream of the same rate would have kept. */
  byChance: number
  /** Commits within the window of an appointment that was kept. */
  size: number
  judged: number
  /** How much of a lateness moves the next appointment: 0 for a clock, 1 for a timer that starts anew. */
  gain: number
  spread: number
  isKept: boolean
  lastLateness: number
  readonly latenesses: number[]
}

export class Ticks {
  readonly #commits: number[] = []
  #tickers: Ticker[] = []

  get isTicking(): boolean {
    return this.#tickers.some(isTrusted)
  }

  /** Takes note of a commit; true if a tick explains it. */
  observe(at: number): boolean {
    this.#pass(at)
    let explained = false
    for (const ticker of this.#tickers) {
      const lateness = lateBy(ticker, at)
      if (lateness === null) continue
      if (keep(ticker, at, lateness) && isTrusted(ticker)) explained = true
    }
    this.#commits.push(at)
    if (this.#commits.length > MEMORY) this.#commits.shift()
    if (!explained) this.#search(at)
    return explained
  }

  /** The ticks expected after `now`, ascending. */
  spikes(now: number, horizon: number): Spike[] {
    this.#pass(now)
    const spikes: Spike[] = []
    for (const ticker of this.#tickers) {
      if (isTrusted(ticker)) appoint(ticker, now, horizon, spikes)
    }
    return spikes.sort((a, b) => a.at - b.at)
  }

  save(): number[] {
    return [this.#commits.length, ...this.#commits, ...this.#tickers.flatMap((ticker) => [
      ticker.period, ticker.at, ticker.kept, ticker.byChance, ticker.size, ticker.judged, ticker.gain, ticker.spread,
      ticker.isKept ? 1 : 0, ticker.lastLateness, ticker.latenesses.length, ...ticker.latenesses,
    ])]
  }

  load(state: readonly number[]): void {
    const [count = 0] = state
    this.#commits.splice(0, Infinity, ...state.slice(1, 1 + count).slice(-MEMORY))
    this.#tickers = []
    for (let i = 1 + count; i < state.length && this.#tickers.length < TICKERS;) {
      const [period = 0, at = 0, kept = 0, byChance = 0, size = 0, judged = 0, gain = 0, spread = 0, isKept = 0, lastLateness = 0, late = 0] = state.slice(i, i + 11)
      if (!(period > 0)) return
      const latenesses = state.slice(i + 11, i + 11 + late).slice(-LATENESSES)
      this.#tickers.push({ period, at, kept, byChance, size, judged, gain, spread, isKept: isKept === 1, lastLateness, latenesses })
      i += 11 + Math.max(0, late)
    }
  }

  /** Closes appointments nobody kept. */
  #pass(now: number): void {
    const rate = this.#commits.length / Math.max(1, now - (this.#commits[0] ?? now))
    for (const ticker of this.#tickers) ticker.byChance = 1 - Math.exp(-2 * windowOf(ticker) * rate)
    for (const ticker of this.#tickers) {
      for (let missed = 0; now > ticker.at + ticker.period + windowOf(ticker) && missed < 40; missed++) {
        ticker.at += ticker.period
        judge(ticker, 0)
        ticker.isKept = false
      }
    }
    this.#tickers = this.#tickers.filter((ticker) => (ticker.judged < 4 || ticker.kept > DROPPED) && now < ticker.at + 20 * ticker.period)
  }

  #search(at: number): void {
    const commits = this.#commits
    const span = at - (commits[0] ?? at)
    const rate = commits.length / Math.max(1, span)
    for (let i = commits.length - 2; i >= 0; i--) {
      const lag = at - (commits[i] ?? at)
      if (lag < SHORTEST) continue
      if (3 * lag > span * 1.1) return
      const tolerance = 0.4 + 0.025 * lag
      if (tolerance * 2 * rate > 0.4) return
      let oldest = commits[i] ?? at
      let hits = 1
      for (let k = 2; k <= 4; k++) {
        const near = nearest(commits, at - k * lag)
        if (near === null || Math.abs(near - (at - k * lag)) > tolerance) continue
        hits++
        oldest = near
      }
      if (hits < 3) continue
      const period = roundPeriod((at - oldest) / Math.round((at - oldest) / lag))
      if (this.#tickers.some((ticker) => isSame(ticker, period, at))) continue
      if (this.#tickers.length >= TICKERS) {
        const worst = this.#tickers.reduce((a, b) => (a.kept - a.byChance < b.kept - b.byChance ? a : b))
        if (isTrusted(worst) || worst.judged < 4) return
        this.#tickers = this.#tickers.filter((ticker) => ticker !== worst)
      }
      this.#tickers.push({
        period, at, kept: 0.5, byChance: Math.min(1, tolerance * 2 * rate), size: 1, judged: 0, gain: 0.4, spread: 0.1 + 0.01 * period, isKept: true, lastLateness: 0, latenesses: [],
      })
      return
    }
  }
}

function isTrusted({ judged, kept, byChance }: Ticker): boolean {
  return judged >= 4 && kept > TRUSTED && kept > byChance + 0.35
}

function windowOf({ period, spread }: Ticker): number {
  return Math.min(0.3 * period, 0.3 + 4 * spread)
}

/** How late a commit is for its closest appointment, or null if for none. */
function lateBy(ticker: Ticker, at: number): number | null {
  const window = windowOf(ticker)
  const next = at - ticker.at - ticker.period
  if (Math.abs(next) <= window) return next
  const last = at - ticker.at
  return Math.abs(last) <= window ? last : null
}

/** A commit comes to an appointment; true if it is the first one there. */
function keep(ticker: Ticker, at: number, lateness: number): boolean {
  const isNext = at > ticker.at + ticker.period / 2
  if (!isNext && ticker.isKept) {
    ticker.size += JUDGE_GAIN
    return false
  }
  if (!isNext) return false
  ticker.isKept = true
  judge(ticker, 1)
  ticker.size += JUDGE_GAIN * (1 - ticker.size)
  // Latenesses of one sign in a row: the appointments do not follow the ticker fast enough.
  ticker.gain = Math.min(1, Math.max(0.05, ticker.gain + (lateness * ticker.lastLateness > 0 ? 0.05 : -0.05)))
  ticker.lastLateness = lateness
  ticker.spread += 0.15 * (Math.abs(lateness) - ticker.spread)
  ticker.latenesses.push(lateness)
  if (ticker.latenesses.length > LATENESSES) ticker.latenesses.shift()
  ticker.at += ticker.period + ticker.gain * lateness
  ticker.period += ticker.gain * ticker.gain * 0.1 * lateness
  return true
}

function judge(ticker: Ticker, kept: 0 | 1): void {
  ticker.judged++
  ticker.kept += Math.max(JUDGE_GAIN, 1 / (ticker.judged + 2)) * (kept - ticker.kept)
}

function appoint(ticker: Ticker, now: number, horizon: number, spikes: Spike[]): void {
  const spread = ticker.latenesses.toSorted((a, b) => a - b)
  const start = ticker.isKept || now > ticker.at + windowOf(ticker) ? 1 : 0
  for (let k = start, planned = 0; k < 200 && planned < POINT_TICKS; k++) {
    const due = ticker.at + k * ticker.period - now + MARGIN
    if (due > horizon) return
    const mass = ticker.kept * ticker.size
    if (planned < SPREAD_TICKS) {
      for (const lateness of spread) {
        if (due + lateness > 0) spikes.push({ at: due + lateness, mass: mass / spread.length })
      }
    } else {
      const latest = spread.at(-1) ?? 0
      if (due + latest > 0) spikes.push({ at: due + latest, mass })
    }
    planned++
  }
}

function isSame(ticker: Ticker, period: number, at: number): boolean {
  const ratio = period / ticker.period
  const whole = Math.max(1, Math.round(ratio))
  if (Math.abs(ratio - whole) > 0.03 * whole) return false
  const phase = (at - ticker.at) / ticker.period
  return Math.abs(phase - Math.round(phase)) * ticker.period < 0.4 + 0.08 * ticker.period
}

function roundPeriod(period: number): number {
  return ROUND.find((round) => Math.abs(period - round) < 0.01 * round) ?? period
}

function nearest(sorted: readonly number[], value: number): number | null {
  let low = 0
  let high = sorted.length
  while (low < high) {
    const middle = (low + high) >> 1
    if ((sorted[middle] ?? 0) < value) low = middle + 1
    else high = middle
  }
  const before = sorted[low - 1]
  const after = sorted[low]
  if (before === undefined || after === undefined) return before ?? after ?? null
  return value - before < after - value ? before : after
}
