/**
 * The hub: this node's memory of the recent past, and the one place that answers what changed since a version.
 * Versions come in through `accept`, in order; questions are answered from memory, the log or the tables; followers are told
 * of each version that concerns them. What cannot be answered truly becomes a reset, never an empty success.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { RangeLost, type Catalog, type ChangeSource, type ChannelDefinition, type LoggedVersion, type Window } from '../contract/change.ts'
import type { Version } from '../contract/version.ts'
import { ApiError, isCutShort } from '../errors.ts'
import { Answerer, discard, type Delta, type Question } from './answer.ts'
import { Channels } from './channels.ts'
import type { Follower } from './feed.ts'
import { Feeds } from './feeds.ts'
import { Freshness } from './freshness.ts'
import { History } from './history.ts'

export { feedKey } from './feed.ts'

export interface HubOptions {
  readonly source: ChangeSource
  /** Memory for recent versions, default 32 MB, and for renderings, default 64 MB. */
  readonly ringBytes?: number
  readonly cacheBytes?: number
  /** How long a question about a version this node has not seen waits for it. Default 1 s. */
  readonly futureWaitMs?: number
  /** How long a state may wait for the clock to number what it saw. Default 10 s. */
  readonly clockWaitMs?: number
  /** Each version that touched a channel. */
  readonly onTouched?: (channel: string, atMs: number) => void
  readonly onError: (error: Error) => void
  /** By which it is measured how long telling takes, ms. Default: performance.now. */
  readonly nowMs?: () => number
}

/** Up to date, or what to apply. */
export type Answer = { readonly kind: 'unchanged' } | ({ readonly kind: 'delta' } & Delta)

/** How often a question is asked anew because the ground moved under it. */
const MAX_TRIES = 5

const UNCHANGED: Answer = { kind: 'unchanged' }

export class Hub {
  /** Told by whoever reads the database; the rest of the world asks `staleSinceMs`. */
  readonly freshness = new Freshness()
  readonly #options: Required<Omit<HubOptions, 'onTouched'>> & Pick<HubOptions, 'onTouched'>
  readonly #history: History
  readonly #answerer: Answerer
  readonly #feeds: Feeds
  readonly #channels: Channels
  /** Versions that wait: for a load to end, or for the catalog of one before them. */
  #arrived: LoggedVersion[] = []
  #arriving = 0
  #isApplying = false
  /** Counts the loads begun: what arrived before the last of them may be of another epoch. */
  #loads = 0
  /** Counts those that have read their catalog. */
  #beginnings = 0
  #isAwaitingLoad = true
  #isLoading = false
  #isClosed = false

  constructor(options: HubOptions) {
    this.#options = { ringBytes: 32e6, cacheBytes: 64e6, futureWaitMs: 1_000, clockWaitMs: 10_000, nowMs: () => performance.now(), ...options }
    this.#channels = new Channels(options.source)
    this.#history = new History(this.#options.ringBytes)
    this.#answerer = new Answerer({
      source: options.source,
      cacheBytes: this.#options.cacheBytes,
      versionAfter: (number) => this.#history.versionAfter(number, this.#options.clockWaitMs),
    })
    this.#feeds = new Feeds({
      deltaOf: (windows, { since, until }, { number }) => this.#answerer.deltaFromMemory(
        { windows: this.#history.touchedSince(windows, since), since, version: number, quietUntil: until }, this.#history.ring),
      onQuiet: (windows, quiet) => { this.#answerer.noteQuiet(windows, quiet) },
      onError: options.onError,
      nowMs: this.#options.nowMs,
    })
  }

  /** Since when what is here may be out of date, ms since 1970; null while the database answers. */
  get staleSinceMs(): number | null {
    return this.freshness.staleSinceMs
  }

  get isLoaded(): boolean {
    return this.#channels.isLoaded
  }

  get epoch(): string {
    return this.#channels.epoch
  }

  /** The newest version this node holds. */
  get head(): number {
    return this.#history.head
  }

  get floor(): number {
    return this.#channels.floor
  }

  get size(): { readonly ringBytes: number; readonly ringVersions: number; readonly cacheBytes: number; readonly feeds: number; readonly followers: number } {
    const { ring } = this.#history
    return { ringBytes: ring.bytes, ringVersions: ring.length, cacheBytes: this.#answerer.cachedBytes, feeds: this.#feeds.size, followers: this.#feeds.followers }
  }

  /** The newest version handed in, which may still wait for a catalog. */
  get arriving(): number {
    return Math.max(this.#arriving, this.#history.head)
  }

  /** All channels, by name. */
  get channels(): readonly ChannelDefinition[] {
    return this.#channels.all
  }

  /** Undefined: there is none of that name. */
  find(name: string): ChannelDefinition | undefined {
    return this.#channels.find(name)
  }

  /** Throws ApiError unknown_channel. */
  channel(name: string): ChannelDefinition {
    return this.#channels.get(name)
  }

  /** The last version that touched any of the windows' tables. */
  lastTouched(windows: readonly Window[]): number {
    return this.#history.lastTouched(windows)
  }

  /** Whether this epoch has had a version of that number, as far as this node knows. */
  wasIssued(number: number): boolean {
    return this.#history.wasIssued(number)
  }

  /**
   * Reads the catalog and forgets everything else: at the start, in a new epoch, after a loss. Every follower must ask anew.
   * Until it has succeeded, what arrives waits; it is tried again with the next version that does.
   */
  async load(): Promise<void> {
    this.#loads += 1
    const load = this.#loads
    this.#isAwaitingLoad = true
    this.#isLoading = true
    // Whatever waits has been committed: the catalog that is read from here on has it, or is of another epoch.
    this.#arrived = []
    this.#arriving = 0
    const catalog = await this.#channels.read().finally(() => { this.#isLoading = load !== this.#loads })
    this.#channels.define(catalog)
    this.#history.begin(catalog)
    this.#beginnings += 1
    this.#answerer.clear()
    this.#feeds.overtakeAll()
    if (load !== this.#loads) return
    this.#isAwaitingLoad = false
    void this.#applyArrived()
  }

  /** Reads floor and channels again; what is remembered stays. */
  async refresh(): Promise<void> {
    const catalog = await this.#channels.read()
    if (catalog.epoch === this.epoch) this.#channels.define(catalog)
    else await this.load()
  }

  /** Takes the next version. Those at or below the head are ignored. */
  accept(version: LoggedVersion): void {
    this.#arrived.push(version)
    this.#arriving = version.number
    if (!this.#isAwaitingLoad) void this.#applyArrived()
    else if (!this.#isLoading) this.load().catch((error: unknown) => this.#report(error))
  }

  /** Asks the database no more. */
  close(): void {
    this.#isClosed = true
  }

  /** A channel seen through filters given as text. Throws ApiError unknown_channel, channel_parked, unknown_filter, invalid_filter. */
  window(name: string, filters: ReadonlyMap<string, string>): Promise<Window> {
    return this.#channels.window(name, filters)
  }

  /** The same where memory has all that it takes; null: it has not. */
  windowAtOnce(name: string, filters: ReadonlyMap<string, string>): Window | null {
    return this.#channels.windowAtOnce(name, filters)
  }

  /** What a holder of `cursor` must apply (null: holds nothing). */
  async answer(windows: readonly Window[], cursor: Version | null): Promise<Answer> {
    for (let attempt = 1; ; attempt += 1) {
      const beginnings = this.#beginnings
      const answer = this.answerAtOnce(windows, cursor) ?? await this.#answerOnce(windows, cursor).catch((error: unknown) => {
        if (isCutShort(error) && attempt < MAX_TRIES) return null
        throw error
      })
      if (answer === null) continue
      // Its numbers would be read as those of the epoch that has begun meanwhile.
      if (beginnings === this.#beginnings || attempt === MAX_TRIES) return answer
      if (answer.kind === 'delta') await discard(answer)
    }
  }

  /** The same without waiting for anything, as memory nearly always can; null: it cannot. */
  answerAtOnce(given: readonly Window[], cursor: Version | null): Answer | null {
    const windows = this.#channels.current(given)
    return cursor?.epoch === this.epoch && this.#history.knows(windows) && this.#mayStartFrom(cursor.number, windows) ? this.#remembered(windows, cursor.number) : null
  }

  /**
   * Follows from `version` on, which must be the result of an answer. False: something happened meanwhile; ask again.
   * Throws as `answer` does when a window can no longer be served.
   */
  follow(windows: readonly Window[], version: Version, follower: Follower): boolean {
    if (version.epoch !== this.epoch) return false
    const current = this.#channels.current(windows)
    if (!this.#history.knows(current) || this.#history.lastTouched(current) > version.number) return false
    this.#feeds.follow(current, version.number, follower)
    return true
  }

  unfollow(windows: readonly Window[], follower: Follower): void {
    this.#feeds.unfollow(windows, follower)
  }

  /**
   * Moves a follower whose filters nothing has concerned to the newest version that touched its tables, so that its cursor does not
   * grow old; null when it is there already.
   */
  advance(windows: readonly Window[], from: number, follower: Follower): Version | null {
    const number = this.#history.lastTouched(windows)
    if (number <= from || !this.#feeds.advance(windows, { from, to: number }, follower)) return null
    return { epoch: this.epoch, number }
  }

  async #applyArrived(): Promise<void> {
    if (this.#isApplying) return
    this.#isApplying = true
    try {
      for (let version = this.#nextArrived(); version !== undefined; version = this.#nextArrived()) {
        if (version.number <= this.#history.head) continue
        const loads = this.#loads
        // A table that starts anew may have other columns, another name, or none.
        if (version.reset.length > 0) await this.#refreshUntilRead(loads)
        if (loads === this.#loads) this.#apply(version)
      }
    } catch (error) {
      this.#report(error)
    } finally {
      this.#isApplying = false
    }
  }

  #nextArrived(): LoggedVersion | undefined {
    return this.#isAwaitingLoad ? undefined : this.#arrived.shift()
  }

  /** Ends early when everything is loaded anew. */
  async #refreshUntilRead(loads: number): Promise<void> {
    for (let attempt = 0; !this.#isClosed && loads === this.#loads; attempt += 1) {
      try {
        const catalog = await this.#channels.read()
        // In another epoch these versions are nobody's; the follower will say so and load() what there is.
        if (catalog.epoch === this.epoch) this.#channels.define(catalog)
        return
      } catch (error) {
        this.#report(error)
        await delay(Math.min(2_000, 50 * 2 ** attempt), undefined, { ref: false })
      }
    }
  }

  #apply(version: LoggedVersion): void {
    // Before anybody waits no more for it: nothing rendered with other columns may be found.
    if (version.reset.length > 0) this.#answerer.clear()
    this.#history.add(version)
    this.#feeds.tell(version)
    for (const tableId of version.touched) {
      for (const name of this.#channels.namesOf(tableId)) this.#options.onTouched?.(name, version.mintedAtMs)
    }
  }

  async #answerOnce(given: readonly Window[], cursor: Version | null): Promise<Answer> {
    await this.#birth(given)
    const since = cursor === null ? null : await this.#startingPoint(this.#channels.current(given), cursor)
    if (since === null) return this.#reset(given, cursor)
    const windows = this.#channels.current(given)
    const remembered = this.#remembered(windows, since)
    if (remembered !== null) return remembered
    try {
      return { kind: 'delta', ...await this.#answerer.deltaFromLog(this.#questionOf(windows, since), this.#history.ring) }
    } catch (error) {
      if (error instanceof RangeLost) return this.#reset(given, cursor)
      throw error
    }
  }

  /** Null: memory does not reach back that far. */
  #remembered(windows: readonly Window[], since: number): Answer | null {
    if (this.#history.lastTouched(windows) <= since) return UNCHANGED
    const delta = this.#answerer.deltaFromMemory(this.#questionOf(windows, since), this.#history.ring)
    return delta === null ? null : { kind: 'delta', ...delta }
  }

  #questionOf(windows: readonly Window[], since: number): Question {
    return { windows: this.#history.touchedSince(windows, since), since, version: this.#history.lastTouched(windows) }
  }

  /** Waits for the version that a window's table begins at, which a watch of this moment has not got yet. */
  async #birth(given: readonly Window[]): Promise<void> {
    const deadlineMs = performance.now() + this.#options.clockWaitMs
    while (!this.#history.knows(this.#channels.current(given))) await this.#history.versionAfter(this.#history.head, deadlineMs - performance.now())
  }

  /** The number to start from; null where only a reset is true. */
  async #startingPoint(windows: readonly Window[], cursor: Version): Promise<number | null> {
    const { epoch, number } = cursor
    // A standby may not have heard of an epoch that has begun.
    if (epoch !== this.epoch && !this.#channels.isOnStandby) return null
    if (number > this.#history.head && !await this.#arrives(cursor)) return null
    return epoch === this.epoch && this.#mayStartFrom(number, windows) ? number : null
  }

  #mayStartFrom(number: number, windows: readonly Window[]): boolean {
    return this.#history.wasIssued(number) && number >= this.#history.born(windows)
  }

  /** Whether a version that this node has not seen is one. Throws ApiError database_unreachable while nobody can say. */
  async #arrives({ epoch, number }: Version): Promise<boolean> {
    if (await this.#history.versionAfter(number - 1, this.#options.futureWaitMs).then(() => true, () => false)) return true
    // A reset to what this node holds would take the client back in time, if it is only this node that is behind.
    const impatience = delay(this.#options.futureWaitMs, null, { ref: false })
    const catalog = await Promise.race([this.#channels.read(), impatience])
    if (catalog === null) throw new ApiError('database_unreachable', 'The database does not answer just now.')
    if (mayLackVersion(catalog, { epoch, number })) throw new ApiError('database_unreachable', 'This node has not caught up with the version you hold.')
    return false
  }

  async #reset(given: readonly Window[], cursor: Version | null): Promise<Answer> {
    // Who holds a version that was lost must not be sent back to one before it: a client's versions only grow.
    const leap = cursor?.epoch === this.epoch ? this.#history.leapOver(cursor.number) : 0
    for (let attempt = 1; ; attempt += 1) {
      const windows = this.#channels.current(given)
      try {
        const name = (upTo: number): number => Math.max(this.#history.lastTouched(windows, upTo), Math.min(leap, upTo))
        return { kind: 'delta', ...await this.#answerer.state(windows, name, Math.max(leap, this.#lastTouchedFor(windows, cursor))) }
      } catch (error) {
        if (!(error instanceof RangeLost)) throw error
        // A table that is truncated again and again, or gone, would keep us here for ever.
        if (attempt === MAX_TRIES) throw new ApiError('channel_parked', `The rows cannot be read: ${error.message}.`, { cause: error, retryAfterSeconds: 2 })
        await this.refresh()
      }
    }
  }

  /** The oldest state that is news to who holds `cursor`. */
  #lastTouchedFor(windows: readonly Window[], cursor: Version | null): number {
    return cursor?.epoch === this.epoch && this.#history.wasIssued(cursor.number) ? this.#history.lastTouched(windows, cursor.number) : 0
  }

  #report(error: unknown): void {
    this.#options.onError(error instanceof Error ? error : new Error(String(error)))
  }
}

/**
 * Whether there may be such a version of which the database (on a primary: this node) has not got. A standby knows nothing of what is above its
 * head; of another epoch it does once it has what was committed later than that version, whose number is not before the time of its leap.
 */
function mayLackVersion({ epoch, head, replayedMs }: Catalog, version: Version): boolean {
  if (epoch === version.epoch) return head >= version.number || replayedMs !== null
  return replayedMs !== null && replayedMs * 1_000 < version.number
}
