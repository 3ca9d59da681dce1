/**
 * A rate that excites itself: each commit makes more of them likely for seconds, minutes and hours after it, on top
 * of a steady background. How much on each scale is learned from the commits (expectation maximisation, online), so
 * that the same model covers a steady stream, replies to replies, and the hours of a day.
 */
import { CELLS, easedRate, GRID, type Forecast } from './plan.ts'

/** Memories, seconds. */
const SCALES = [5, 20, 80, 400, 2_000, 10_000] as const
const COUNT = SCALES.length
/** The memory that is closest to a minute. */
const RECENT = 2 as const
/** What is believed before the first commit: this much of the rate of each memory comes again, with the weight of so many commits. */
const PRIOR_SHARE = [0.12, 0.12, 0.14, 0.16, 0.16, 0.15] as const
const PRIOR_WEIGHT = 3
const PRIOR_COMMITS = 0.5
const PRIOR_SECONDS = 900
/** Commits after which what was learned has faded to a third. */
const FADE = 1 - 1 / 600
const BACKGROUND_MEMORY = 40_000

const DECAY: readonly Float64Array[] = SCALES.map((scale) =>
  Float64Array.from({ length: CELLS }, (_, i) => Math.exp(-((GRID[i + 1] ?? 0) - (GRID[i] ?? 0)) / scale)))

const level = new Float64Array(COUNT)
const quietLevel = new Float64Array(COUNT)

export class Rate {
  #at = 0
  /** Faded commits per second on each scale. */
  readonly #levels = new Float64Array(COUNT)
  /** Commits attributed to each scale, and commits it could have caused. */
  readonly #caused = Float64Array.from(PRIOR_SHARE, (share) => share * PRIOR_WEIGHT)
  readonly #exposed = new Float64Array(COUNT).fill(PRIOR_WEIGHT)
  #backgroundCommits = PRIOR_COMMITS
  #backgroundSeconds = PRIOR_SECONDS

  observe(at: number): void {
    const elapsed = Math.max(0, at - this.#at)
    this.#at = Math.max(at, this.#at)
    let rate = this.#background(0)
    for (let k = 0; k < COUNT; k++) {
      const scale = SCALES[k] ?? 1
      const before = this.#levels[k] ?? 0
      const now = before * Math.exp(-elapsed / scale)
      this.#levels[k] = now
      this.#exposed[k] = (this.#exposed[k] ?? 0) + (before - now) * scale
      rate += this.#share(k) * now
    }
    const own = this.#background(0) / rate
    const fade = Math.exp(-elapsed / BACKGROUND_MEMORY)
    this.#backgroundCommits = this.#backgroundCommits * fade + own
    this.#backgroundSeconds = this.#backgroundSeconds * fade + elapsed
    for (let k = 0; k < COUNT; k++) {
      const now = this.#levels[k] ?? 0
      this.#caused[k] = ((this.#caused[k] ?? 0) + (this.#share(k) * now) / rate) * FADE
      this.#exposed[k] = (this.#exposed[k] ?? 0) * FADE
      this.#levels[k] = now + 1 / (SCALES[k] ?? 1)
    }
  }

  /** Fills in what is expected after `now`. */
  forecast(now: number, { masses, eased }: Forecast): void {
    const elapsed = Math.max(0, now - this.#at)
    const background = this.#background(elapsed)
    for (let k = 0; k < COUNT; k++) level[k] = (this.#levels[k] ?? 0) * Math.exp(-elapsed / (SCALES[k] ?? 1))
    let total = 0
    for (let k = 0; k < COUNT; k++) total += this.#share(k)
    const damp = total > 0.97 ? 0.97 / total : 1
    for (let k = 0; k < COUNT; k++) quietLevel[k] = level[k] ?? 0
    let quiet = 1
    for (let cell = 0; cell < CELLS; cell++) {
      let rate = background
      let quietRate = background
      for (let k = 0; k < COUNT; k++) {
        const share = this.#share(k) * damp
        rate += share * (level[k] ?? 0)
        quietRate += share * (quietLevel[k] ?? 0)
      }
      const width = (GRID[cell + 1] ?? 0) - (GRID[cell] ?? 0)
      masses[cell] = rate * width
      quiet *= Math.exp((-quietRate * width) / 2)
      eased[cell] = easedRate(rate, quiet, quietRate) * width
      quiet *= Math.exp((-quietRate * width) / 2)
      for (let k = 0; k < COUNT; k++) {
        const decay = DECAY[k]?.[cell] ?? 0
        level[k] = rate + ((level[k] ?? 0) - rate) * decay
        quietLevel[k] = (quietLevel[k] ?? 0) * decay
      }
    }
  }

  /** Commits a minute, lately. */
  perMinute(now: number): number {
    const scale = SCALES[RECENT]
    return 60 * (this.#levels[RECENT] ?? 0) * Math.exp(-Math.max(0, now - this.#at) / scale)
  }

  save(): number[] {
    return [this.#at, this.#backgroundCommits, this.#backgroundSeconds, ...this.#levels, ...this.#caused, ...this.#exposed]
  }

  load(state: readonly number[]): void {
    if (state.length !== 3 + 3 * COUNT) return
    const [at = 0, commits = 0, seconds = 1] = state
    this.#at = at
    this.#backgroundCommits = commits
    this.#backgroundSeconds = seconds
    this.#levels.set(state.slice(3, 3 + COUNT))
    this.#caused.set(state.slice(3 + COUNT, 3 + 2 * COUNT))
    this.#exposed.set(state.slice(3 + 2 * COUNT))
  }

  #share(k: number): number {
    return (this.#caused[k] ?? 0) / (this.#exposed[k] ?? 1)
  }

  #background(elapsed: number): number {
    return this.#backgroundCommits / (this.#backgroundSeconds + elapsed)
  }
}
