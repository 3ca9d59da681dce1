/**
 * How many polls a second this process could answer, from how busy its event loop was with those it did. What else it does
 * (streams, queries) is counted as their cost: a busy server has less to give. Pure: the measurements come in.
 */

/** The share of its time that the process may be busy. */
const TARGET = 0.7
/** Seconds a poll is taken to cost before any was measured, and at most. */
const FIRST_COST = 0.0001
const LARGEST_COST = 0.01
/** A third of a measurement is believed, and less the fewer polls it is of: the cost of something else would be taken for theirs. */
const GAIN = 0.3
const MANY = 1_000

export class Capacity {
  #cost = FIRST_COST

  /** Polls a second. */
  get pollsPerSecond(): number {
    return TARGET / this.#cost
  }

  /** `polls` a second were answered while the loop was busy for the share `busy` of its time. */
  measure({ polls, busy }: { readonly polls: number; readonly busy: number }): void {
    if (!(polls > 0) || !(busy > 0)) return
    this.#cost += GAIN * Math.min(1, polls / MANY) * (Math.min(LARGEST_COST, busy / polls) - this.#cost)
  }
}
