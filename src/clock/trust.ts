/**
 * How far a ring is trusted: how long the read that it asks for must wait. Anybody who may connect may NOTIFY, so a ring proves nothing: the
 * first are believed at once, and each that turns out false costs the next a longer rest. Pure: time comes in.
 * Promise: however many ring, there are some forty reads a second that find nothing; a true ring among them is late by 25 ms at most.
 */

/** False rings that cost nothing: of writers that ring at once, the later find nothing left. */
const FORGIVEN = 2
const REST_MS = { least: 1, most: 25 }
/** Without a false ring for this long, all are forgotten. */
const CALM_MS = 250

export class Trust {
  #falseRings = 0
  #lastMs = -Infinity

  /** Of a read that a notification asked for. */
  afterRing({ found, nowMs }: { readonly found: boolean; readonly nowMs: number }): void {
    const isCalm = nowMs - this.#lastMs > CALM_MS
    this.#falseRings = found ? 0 : isCalm ? 1 : this.#falseRings + 1
    this.#lastMs = nowMs
  }

  /** Before the next read not even a ring shortens this. */
  restMs(nowMs: number): number {
    if (this.#falseRings <= FORGIVEN) return 0
    const restMs = Math.min(REST_MS.most, REST_MS.least * 2 ** (this.#falseRings - FORGIVEN - 1))
    return Math.max(0, this.#lastMs + restMs - nowMs)
  }
}
