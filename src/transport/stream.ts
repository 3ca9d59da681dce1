/**
 * One reader of a stream, from its cursor to its end.
 *
 *   catching up ──all sent, nothing new──▶ following ──the socket is full, or memory ran out──▶ catching up ──▶ …
 *        └───────────── gone, cut, aged, drained ─────────────┴──▶ ended
 *
 * Backpressure is conflation: a reader that lags costs the number of its version, and gets one folded delta when it drains.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Window } from '../contract/change.ts'
import { formatVersion, type Version } from '../contract/version.ts'
import { toApiError } from '../errors.ts'
import { isHeld, type Delta, type HeldDelta } from '../hub/answer.ts'
import type { Follower } from '../hub/feed.ts'
import type { Hub } from '../hub/hub.ts'
import { frameDelta, frameDeltas, frameHeartbeat, frameParts, frameRetry, frameStatus } from './frame.ts'
import type { Wire } from './wire.ts'

/** A head and what a session says first. */
const BEGINNING_BYTES = 1_024

export interface StreamLimits {
  /** Bytes that may wait for a slow socket before its reader is left to catch up. */
  readonly maxBacklogBytes: number
  /** How long a reader may take nothing at all before it is cut. */
  readonly drainDeadlineMs: number
}

/** What all streams share. */
export interface StreamOptions extends StreamLimits {
  readonly hub: Hub
  /** Errors that are neither the client's nor expected. */
  readonly onError: (error: unknown) => void
  readonly onConflated: () => void
}

/** What is a stream's own. */
export interface Reader {
  readonly wire: Wire
  readonly windows: readonly Window[]
  /** What the client holds; null: nothing, or nothing usable. */
  readonly cursor: Version | null
}

export class Stream implements Follower {
  readonly #options: StreamOptions
  readonly #wire: Wire
  readonly #windows: readonly Window[]
  #cursor: Version | null
  #life: 'catching up' | 'following' | 'ended' = 'catching up'
  #isRunning = false
  /** The id of the last event, which is what the client comes back with. */
  #toldCursor: Version | null
  #toldStaleSinceMs: number | null = null
  /** Since when this stream alone has no answer, as while its channel is parked. */
  #troubledSinceMs: number | null = null

  constructor({ wire, windows, cursor }: Reader, options: StreamOptions) {
    this.#options = options
    this.#wire = wire
    this.#windows = windows
    this.#cursor = cursor
    this.#toldCursor = cursor
  }

  get backlogBytes(): number {
    return this.#wire.backlogBytes
  }

  /** Sends what the client lacks, then follows. Never rejects. */
  start(): void {
    void this.#catchUp()
  }

  deliver(deltas: readonly HeldDelta[]): boolean {
    const { hub: { epoch }, maxBacklogBytes, onConflated } = this.#options
    const last = deltas.at(-1)
    if (last === undefined || !this.#wire.isOpen) return false
    if (this.#wire.backlogBytes > maxBacklogBytes) {
      onConflated()
      void this.#catchUp()
      return false
    }
    this.#wire.write(frameDeltas(deltas, epoch))
    this.#cursor = { epoch, number: last.version }
    this.#toldCursor = this.#cursor
    return true
  }

  overtaken(): void {
    void this.#catchUp()
  }

  /** Proves to proxies that the stream lives; moves the cursor of a filter that nothing has concerned. */
  heartbeat(): void {
    const { hub } = this.#options
    if (this.#wire.backlogBytes > 0) return
    if (this.#life === 'following' && this.#cursor !== null) this.#cursor = hub.advance(this.#windows, this.#cursor.number, this) ?? this.#cursor
    const isNews = this.#life === 'following' && this.#cursor !== this.#toldCursor
    this.#toldCursor = isNews ? this.#cursor : this.#toldCursor
    this.#wire.write(frameHeartbeat(isNews && this.#cursor !== null ? formatVersion(this.#cursor) : undefined))
  }

  /** Tells the client, once each, that the server has lost sight of the database or has it back. */
  tellStatus(staleSinceMs: number | null): void {
    const sinceMs = staleSinceMs ?? this.#troubledSinceMs
    if ((sinceMs === null) === (this.#toldStaleSinceMs === null)) return
    this.#toldStaleSinceMs = sinceMs
    this.#wire.write(frameStatus(sinceMs))
  }

  /** Ends the stream; the client reconnects after about `retryMs` with the cursor it has. */
  end(retryMs: number): void {
    this.stop()
    this.#wire.end(frameRetry(retryMs))
  }

  /** Follows no longer; for when the client has gone. */
  stop(): void {
    this.#life = 'ended'
    this.#options.hub.unfollow(this.#windows, this)
  }

  /** One loop at a time: who calls while it runs only tells it to go on. */
  async #catchUp(): Promise<void> {
    if (this.#life === 'ended') return
    this.#life = 'catching up'
    if (this.#isRunning) return
    this.#isRunning = true
    try {
      while (this.#isBehind()) await this.#step()
    } catch (error) {
      // The client drops the parts of an answer that broke off when the connection ends, and asks again.
      if (toApiError(error).code === 'internal') this.#options.onError(error)
      this.end(1_000 + Math.random() * 2_000)
    } finally {
      this.#isRunning = false
    }
  }

  /** One answer, written as the socket takes it; then follows, unless something happened meanwhile. */
  async #step(): Promise<void> {
    const { hub, drainDeadlineMs } = this.#options
    // What begins a stream goes out together with its first answer: one write less.
    if (this.#wire.backlogBytes > BEGINNING_BYTES && !await this.#wire.drained(drainDeadlineMs)) return
    const answer = await this.#ask(() => hub.answer(this.#windows, this.#cursor))
    if (answer === null) return
    if (answer.kind === 'delta') {
      const epoch = hub.epoch
      if (!await this.#send(answer, epoch)) return
      this.#cursor = { epoch, number: answer.version }
      // Where nothing of it concerns the client, its next delta begins here all the same.
      if (isEmpty(answer)) this.#wire.write(frameHeartbeat(formatVersion(this.#cursor)))
      this.#toldCursor = this.#cursor
    }
    await this.#ask(() => {
      // At once: who follows may be overtaken the moment after.
      if (this.#isBehind() && this.#cursor !== null && hub.follow(this.#windows, this.#cursor, this)) this.#life = 'following'
    })
  }

  #isBehind(): boolean {
    return this.#life === 'catching up' && this.#wire.isOpen
  }

  /** Null: not now; the loop asks again, if there is still somebody to answer. */
  async #ask<T>(question: () => T | Promise<T>): Promise<T | null> {
    const { hub } = this.#options
    try {
      const answer = await question()
      this.#troubledSinceMs = null
      this.tellStatus(hub.staleSinceMs)
      return answer
    } catch (thrown) {
      const error = toApiError(thrown)
      switch (error.code) {
        case 'unknown_channel': case 'unknown_filter':
          // Unwatched: a client that comes back is told so with a status it understands.
          this.end(5_000)
          return null
        case 'channel_parked': case 'database_unreachable':
          // The stream stays open and says so.
          this.#troubledSinceMs ??= Date.now()
          this.tellStatus(hub.staleSinceMs)
          await delay(500 + Math.random() * 1_000, undefined, { ref: false })
          return null
        default: throw thrown
      }
    }
  }

  async #send(delta: Delta, epoch: string): Promise<boolean> {
    const { drainDeadlineMs } = this.#options
    if (isEmpty(delta)) return this.#wire.isOpen
    if (isHeld(delta)) {
      this.#wire.write(frameDelta(delta.parts, { epoch, since: delta.since, version: delta.version }))
      return this.#wire.isOpen
    }
    for await (const frame of frameParts(delta, epoch)) {
      if (!this.#wire.write(frame) && !await this.#wire.drained(drainDeadlineMs)) return false
    }
    return true
  }
}

function isEmpty(delta: Delta): boolean {
  return isHeld(delta) && delta.parts.length === 0
}
