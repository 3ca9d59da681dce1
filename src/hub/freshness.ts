/**
 * Whether the database answers. Counted in beats of this process, not in time on the wall: a process that was itself
 * held up for seconds has not seen the database be silent.
 */

/** A beat, ms, and how many of them without an answer are said aloud. Safety polls are a fraction of it. */
export const BEAT_MS = 500
const BEATS_OF_SILENCE = 10

export class Freshness {
  #contactMs = Date.now()
  #silentBeats = 0

  /** PostgreSQL has just answered: what is here is what is there. */
  contact(): void {
    this.#contactMs = Date.now()
    this.#silentBeats = 0
  }

  /** Once every BEAT_MS. */
  beat(): void {
    this.#silentBeats += 1
  }

  /** Since when nothing was heard, ms since 1970; null while the database answers. */
  get staleSinceMs(): number | null {
    return this.#silentBeats > BEATS_OF_SILENCE ? this.#contactMs : null
  }
}
