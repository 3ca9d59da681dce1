// Measures "commit to screen" for one's own votes: from the moment the server saw the commit (its clock, in
// the header Freshet-Committed-At of the 204) to the moment the count was on the page. The Delta and the 204
// travel apart and either may win, so arrivals are remembered until the other half is known.
// Rows carry no author: if somebody else votes for the same option in between, theirs may be taken for ours.

const KEPT = 20
const FORGET_AFTER_MS = 30_000
// Date.now() is a whole millisecond, on both sides: "just before the commit" may still be after it.
const ROUNDING_MS = 2

export class LatencyMeter {
  #samplesMs = []
  #waiting = [] // { id, committedAt }
  #arrivals = [] // { id, at }

  get lastMs() {
    return this.#samplesMs.at(-1) ?? null
  }

  get medianMs() {
    if (this.#samplesMs.length === 0) return null
    const sorted = [...this.#samplesMs].sort((a, b) => a - b)
    const middle = sorted.length >> 1
    return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  }

  /** A new count of option `id` is on the page. */
  arrived(id, at = Date.now()) {
    const index = this.#waiting.findIndex((vote) => vote.id === id)
    if (index >= 0) this.#sample(at - this.#waiting.splice(index, 1)[0].committedAt)
    else this.#arrivals.push({ id, at })
    this.#forget(at)
  }

  /** The server has committed a vote for option `id`, which took `tookMs`: a busy server may see the end of it after the Delta has left. */
  committed(id, committedAt, tookMs = 0) {
    const index = this.#arrivals.findIndex((seen) => seen.id === id && seen.at >= committedAt - tookMs - ROUNDING_MS)
    if (index >= 0) this.#sample(Math.max(0, this.#arrivals.splice(index, 1)[0].at - committedAt))
    else this.#waiting.push({ id, committedAt })
  }

  #sample(ms) {
    // Two machines with two opinions of the time measure nothing.
    if (ms < -ROUNDING_MS || ms > FORGET_AFTER_MS) return
    this.#samplesMs = [...this.#samplesMs, Math.max(0, ms)].slice(-KEPT)
  }

  #forget(now) {
    this.#arrivals = this.#arrivals.filter((seen) => now - seen.at < FORGET_AFTER_MS)
    this.#waiting = this.#waiting.filter((vote) => now - vote.committedAt < FORGET_AFTER_MS)
  }
}

/** "3 ms", "< 1 ms", or a dash while nothing has been measured. */
export function formatMs(ms) {
  if (ms === null) return '–'
  if (ms < 1) return '< 1 ms'
  return ms < 10_000 ? `${Math.round(ms)} ms` : `${Math.round(ms / 1000)} s`
}
