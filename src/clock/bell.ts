/**
 * When the clock reads next: as a network card does, interrupted when idle, polling when busy. Pure: time comes in.
 *
 *            reads in a row find more              nothing for a while
 *   asleep ───────────────────────────▶ awake ───────────────────────────▶ settling
 *     ▲ writers ring                      ▲ lease: writers need not ring        │ lease given back; whoever was in flight
 *     └───────────────────────────────────┼── fence passed ─────────────────────┘ may not have rung: read until they ended
 */

/** So many reads in a row that found something and had reason to expect more are of a stream of changes, and no longer of single ones. */
const DENSE_READS = 3
/** Without a change for this long, writers may as well ring. */
const AWAKE_IDLE_MS = 100
/** How long writers may rely on our reading without hearing from us; renewed at half of it. */
export const LEASE_MS = 250
/** Awake, reading takes at most a quarter of PostgreSQL's time; more only where a gap is at its longest. */
const GAP_PER_READ = 3
const GAP_MS = { least: 1, most: 20 }
/** While settling: gentle, slower the longer an open transaction keeps the fence from passing. */
const SETTLING_MS = { least: 5, most: 500 }

export interface BellOptions {
  /** The longest sleep: a lost ring costs at most this. */
  readonly safetyMs: number
}

export interface Reading {
  readonly found: boolean
  /** Somebody has rung since it began; or nobody rang for it, so that rings are lost, or there are none. */
  readonly mayBeMore: boolean
  readonly tookMs: number
  readonly nowMs: number
  /** The oldest transaction id still in progress, from the snapshot read. */
  readonly oldestInProgress: bigint
}

/** What to do before the next read. `lease` null: leave it as it is. */
export interface Next {
  readonly waitMs: number
  readonly lease: 'renew' | 'give-back' | null
}

type Mode =
  | { readonly name: 'asleep'; readonly denseReads: number }
  | { readonly name: 'awake'; readonly lastFoundMs: number; readonly renewedMs: number; readonly tookMs: number }
  | { readonly name: 'settling'; readonly fence: bigint | null; readonly waitMs: number; readonly denseReads: number }

export class Bell {
  readonly #safetyMs: number
  // A new leader knows nothing of the writers in flight: it begins as if it had been awake.
  #mode: Mode = { name: 'awake', lastFoundMs: 0, renewedMs: -Infinity, tookMs: Infinity }

  constructor({ safetyMs }: BellOptions) {
    this.#safetyMs = safetyMs
  }

  get mode(): Mode['name'] {
    return this.#mode.name
  }

  /** The transaction id taken after the lease was given back: every writer that may have relied on it is below. */
  fenceTaken(fence: bigint): void {
    if (this.#mode.name === 'settling') this.#mode = { ...this.#mode, fence }
  }

  afterRead(reading: Reading): Next {
    switch (this.#mode.name) {
      case 'asleep': return this.#afterReadAsleep(reading, this.#mode.denseReads)
      case 'awake': return this.#afterReadAwake(reading, this.#mode)
      case 'settling': return this.#afterReadSettling(reading, this.#mode)
      default: return this.#mode satisfies never
    }
  }

  // After what was rung for there is no need to look again: who has committed since will ring.
  #afterReadAsleep({ found, mayBeMore, nowMs }: Reading, before: number): Next {
    const denseReads = found && mayBeMore ? before + 1 : 0
    if (denseReads >= DENSE_READS) return this.#wake(nowMs)
    this.#mode = { name: 'asleep', denseReads }
    return { waitMs: denseReads > 0 ? 0 : this.#safetyMs, lease: null }
  }

  #wake(nowMs: number): Next {
    this.#mode = { name: 'awake', lastFoundMs: nowMs, renewedMs: nowMs, tookMs: Infinity }
    return { waitMs: 0, lease: 'renew' }
  }

  #afterReadAwake({ found, tookMs, nowMs }: Reading, mode: { lastFoundMs: number; renewedMs: number; tookMs: number }): Next {
    const lastFoundMs = found ? nowMs : mode.lastFoundMs
    if (nowMs - lastFoundMs > AWAKE_IDLE_MS) {
      this.#mode = { name: 'settling', fence: null, waitMs: SETTLING_MS.least, denseReads: 0 }
      return { waitMs: 0, lease: 'give-back' }
    }
    const isDue = nowMs - mode.renewedMs > LEASE_MS / 2
    this.#mode = { name: 'awake', lastFoundMs, renewedMs: isDue ? nowMs : mode.renewedMs, tookMs }
    // The quicker of the last two: an answer may have been there long before this process, telling others, came to read it.
    return { waitMs: clamp(Math.min(tookMs, mode.tookMs) * GAP_PER_READ, GAP_MS), lease: isDue ? 'renew' : null }
  }

  #afterReadSettling(reading: Reading, mode: { fence: bigint | null; waitMs: number; denseReads: number }): Next {
    const denseReads = reading.found ? mode.denseReads + 1 : 0
    if (denseReads >= DENSE_READS) return this.#wake(reading.nowMs)
    if (mode.fence !== null && reading.oldestInProgress > mode.fence) {
      return this.#afterReadAsleep(reading, mode.denseReads)
    }
    this.#mode = { name: 'settling', fence: mode.fence, waitMs: clamp(mode.waitMs * 1.2, SETTLING_MS), denseReads }
    return { waitMs: reading.found ? 0 : mode.waitMs, lease: null }
  }
}

function clamp(value: number, { least, most }: { readonly least: number; readonly most: number }): number {
  return Math.min(most, Math.max(least, value))
}
