/**
 * Hard overload: what exceeds twice the budget for long is turned away, each with a time to come back that spreads them over
 * as long as the budget needs to take them all. Pure: time comes in.
 */
import { Spread } from './spread.ts'

/** Polls a second that are admitted for long, and how many at once, in multiples of the budget of a second. */
const SUSTAINED = 2
const AT_ONCE = 20
/** Seconds that refusals are spread over. */
const NARROWEST = 10
const WIDEST = 300

export class Admission {
  readonly #spread = new Spread()
  #tokens = Infinity
  #lastMs = 0
  /** Refused and not yet back, faded over the window they were sent away for. */
  #refused = 0

  /** 0: admitted; else the seconds after which to come back, a whole number. */
  ask(nowMs: number, budget: number): number {
    if (budget === Infinity) return 0
    const elapsed = Math.max(0, nowMs - this.#lastMs) / 1_000
    this.#lastMs = Math.max(this.#lastMs, nowMs)
    this.#tokens = Math.min(AT_ONCE * budget, this.#tokens + SUSTAINED * budget * elapsed)
    this.#refused = Math.max(0, this.#refused - budget * elapsed)
    if (this.#tokens >= 1) {
      this.#tokens -= 1
      return 0
    }
    this.#refused += 1
    const window = Math.min(WIDEST, Math.max(NARROWEST, this.#refused / budget))
    return 1 + Math.floor(this.#spread.next() * window)
  }
}
