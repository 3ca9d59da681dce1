/**
 * When to ask again: advice for clients that poll, from what the server alone knows, every commit of the channel.
 * Pure: time comes in. One small state a channel, whatever the number of its clients.
 */
import { MAX_POLL_MS, MIN_POLL_MS, type PollReason } from '../contract/names.ts'

export interface Advice {
  /** 1,000 to 300,000. */
  readonly afterMs: number
  readonly reason: PollReason
}

/** Two memories of the rate of commits: one that notices a burst, one that remembers the hour. */
const SCALES_MS = [60_000, 1_800_000] as const
/** Commits a second from which a channel counts as busy. */
const BURST_RATE = 0.2

interface Memory {
  readonly scaleMs: number
  /** Commits, each fading with its age. */
  weight: number
  atMs: number
}

export class Pace {
  readonly #memories: readonly Memory[] = SCALES_MS.map((scaleMs) => ({ scaleMs, weight: 0, atMs: 0 }))

  /** A commit touched the channel. */
  observe(atMs: number): void {
    for (const memory of this.#memories) {
      memory.weight = faded(memory, atMs) + 1
      memory.atMs = Math.max(memory.atMs, atMs)
    }
  }

  /** Commits in the last minute, roughly. */
  commitsPerMinute(nowMs: number): number {
    const minute = this.#memories[0]
    return minute === undefined ? 0 : Math.round(faded(minute, nowMs) * 10) / 10
  }

  /** With commits at rate r and a request worth one commit-second of delay, the cheapest interval is sqrt(2 / r). */
  advise(nowMs: number): Advice {
    const perSecond = this.#rate(nowMs)
    const afterMs = Math.round(1_000 * Math.sqrt(2 / perSecond))
    return { afterMs: Math.min(MAX_POLL_MS, Math.max(MIN_POLL_MS, afterMs)), reason: perSecond >= BURST_RATE ? 'burst' : 'idle' }
  }

  #rate(nowMs: number): number {
    // Half a commit of doubt: silence so far is not silence for ever.
    return Math.max(...this.#memories.map((memory, index) => (faded(memory, nowMs) + (index === 0 ? 0 : 0.5)) / (memory.scaleMs / 1_000)))
  }
}

function faded({ weight, atMs, scaleMs }: Memory, nowMs: number): number {
  return weight * Math.exp(-Math.max(0, nowMs - atMs) / scaleMs)
}
