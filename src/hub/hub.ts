/**
 * The hub: this node's memory of the recent past, and the one place that answers what changed since a version.
 * Versions come in through `accept`, in order; questions are answered from memory, the log or the tables; followers are told
 * of each version that concerns them. What cannot be answered truly becomes a reset, never an empty success.
 */
import type { Catalog, ChangeSource, ChannelDefinition, LoggedVersion, Window } from '../contract/change.ts'
import type { Version } from '../contract/version.ts'
import { ApiError, quoted } from '../errors.ts'
import { Answerer, RangeLost, windowKey, type Delta } from './answer.ts'
import { Feed, TableRoutes, type Follower } from './feed.ts'
import { Ring } from './ring.ts'

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
}

/** Up to date, or what to apply. */
export type Answer = { readonly kind: 'unchanged' } | ({ readonly kind: 'delta' } & Delta)

/** Silence of the database that is said aloud. Safety polls are a fraction of it. */
const STALE_AFTER_MS = 5_000

const UNCHANGED: Answer = { kind: 'unchanged' }

export class Hub {
  readonly #options: Required<Omit<HubOptions, 'onTouched'>> & Pick<HubOptions, 'onTouched'>
  readonly #answerer: Answerer
  readonly #feeds = new Map<string, Feed>()
  readonly #routes = new Map<number, TableRoutes>()
  readonly #waiters = new Set<{ above: number; resolve: (head: number) => void }>()
  readonly #casts = new Map<string, string>()
  #catalog: Catalog | null = null
  #channels: ReadonlyMap<string, ChannelDefinition> = new Map()
  #touched = new Map<number, { version: number; born: number }>()
  #leaps: { number: number; leaptFrom: number }[] = []
  #head = 0
  #ring = new Ring(0, new Map())
  #arrived: LoggedVersion[] = []
  #isApplying = false
  #contactMs = Date.now()

  constructor(options: HubOptions) {
    this.#options = { ringBytes: 32e6, cacheBytes: 64e6, futureWaitMs: 1_000, clockWaitMs: 10_000, ...options }
    this.#answerer = new Answerer({
      source: options.source,
      cacheBytes: this.#options.cacheBytes,
      versionAfter: (number) => this.versionAfter(number, this.#options.clockWaitMs),
    })
  }

  /** PostgreSQL has just answered: what is here is what is there. */
  contact(): void {
    this.#contactMs = Date.now()
  }

  /** Since when what is here may be out of date, ms since 1970; null while the database answers. */
  get staleSinceMs(): number | null {
    return this.isLoaded && Date.now() - this.#contactMs <= STALE_AFTER_MS ? null : this.#contactMs
  }

  get isLoaded(): boolean {
    return this.#catalog !== null
  }

  get epoch(): string {
    return this.#catalog?.epoch ?? ''
  }

  /** The newest version this node holds. */
  get head(): number {
    return this.#head
  }

  get floor(): number {
    return this.#catalog?.floor ?? 0
  }

  get size(): { readonly ringBytes: number; readonly ringVersions: number; readonly cacheBytes: number; readonly feeds: number; readonly followers: number } {
    let followers = 0
    for (const feed of this.#feeds.values()) followers += feed.size
    return { ringBytes: this.#ring.bytes, ringVersions: this.#ring.length, cacheBytes: this.#answerer.cachedBytes, feeds: this.#feeds.size, followers }
  }

  /** The newest version handed in, which may still wait for a catalog. */
  get arriving(): number {
    return this.#arrived.at(-1)?.number ?? this.#head
  }

  /** All channels, by name. */
  get channels(): readonly ChannelDefinition[] {
    return [...this.#channels.values()]
  }

  /** Throws ApiError unknown_channel. */
  channel(name: string): ChannelDefinition {
    const channel = this.#channels.get(name)
    if (channel !== undefined) return channel
    if (!this.isLoaded) throw new ApiError('database_unreachable', 'The server has not reached its database yet.')
    throw new ApiError('unknown_channel', `There is no channel ${quoted(name)}.`)
  }

  /** The last version that touched any of the windows' tables; `upTo` itself when that one is later. */
  lastTouched(windows: readonly Window[], upTo = Infinity): number {
    // A table that nothing has touched is as it was at the first version of the epoch.
    let last = this.#leaps[0]?.number ?? 0
    for (const { channel } of windows) last = Math.max(last, this.#touched.get(channel.table.id)?.version ?? 0)
    return Math.min(last, upTo)
  }

  /** Reads the catalog and forgets everything else: at the start, in a new epoch, after a loss. Every follower must ask anew. */
  async load(): Promise<void> {
    const catalog = await this.#options.source.readCatalog()
    this.#define(catalog)
    this.#head = catalog.head
    this.#leaps = [...catalog.leaps]
    this.#touched = new Map(catalog.touched)
    this.#ring = new Ring(this.#options.ringBytes, catalog.touched)
    this.#arrived = []
    this.#answerer.clear()
    for (const feed of this.#feeds.values()) feed.overtake()
    this.#announceHead()
  }

  /** Reads floor and channels again; what is remembered stays. */
  async refresh(): Promise<void> {
    const catalog = await this.#options.source.readCatalog()
    if (catalog.epoch === this.epoch) this.#define(catalog)
    else await this.load()
  }

  /** Takes the next version. Those at or below the head are ignored. */
  accept(version: LoggedVersion): void {
    this.#arrived.push(version)
    if (!this.#isApplying) void this.#applyArrived()
  }

  /** Resolves to the head once it is above `number`; rejects with ApiError database_unreachable after `patienceMs`. */
  versionAfter(number: number, patienceMs: number): Promise<number> {
    if (this.#head > number) return Promise.resolve(this.#head)
    return new Promise((resolve, reject) => {
      const waiter = { above: number, resolve: (head: number) => { clearTimeout(timer); resolve(head) } }
      const timer = setTimeout(() => {
        this.#waiters.delete(waiter)
        reject(new ApiError('database_unreachable', 'The clock has not numbered the latest changes yet.'))
      }, patienceMs)
      this.#waiters.add(waiter)
    })
  }

  /** A channel seen through filters given as text. Throws ApiError unknown_channel, channel_parked, unknown_filter, invalid_filter. */
  async window(name: string, filters: ReadonlyMap<string, string>): Promise<Window> {
    const channel = this.channel(name)
    const canonical = new Map<string, string>()
    for (const [column, value] of filters) canonical.set(column, await this.#cast(channel, column, value))
    return { channel, filters: canonical }
  }

  /** What a holder of `cursor` must apply (null: holds nothing). */
  async answer(given: readonly Window[], cursor: Version | null): Promise<Answer> {
    const windows = this.#current(given)
    const since = cursor === null ? null : await this.#startingPoint(windows, cursor)
    if (since === null) return this.#reset(windows)
    const version = this.lastTouched(windows)
    if (version <= since) return UNCHANGED
    const question = { windows: this.#touchedSince(windows, since), since, version }
    const remembered = this.#answerer.deltaFromMemory(question, this.#ring)
    if (remembered !== null) return { kind: 'delta', ...remembered }
    try {
      return { kind: 'delta', ...await this.#answerer.deltaFromLog(question) }
    } catch (error) {
      if (error instanceof RangeLost) return this.#reset(windows)
      throw error
    }
  }

  /**
   * Follows from `version` on, which must be the result of an answer. False: something happened meanwhile; ask again.
   * Throws as `answer` does when a window can no longer be served.
   */
  follow(windows: readonly Window[], version: Version, follower: Follower): boolean {
    if (version.epoch !== this.epoch) return false
    const current = this.#current(windows)
    if (this.lastTouched(current) > version.number) return false
    const key = feedKey(current)
    const feed = this.#feeds.get(key) ?? this.#addFeed(key, current)
    feed.add(follower, version.number)
    return true
  }

  unfollow(windows: readonly Window[], follower: Follower): void {
    const key = feedKey(windows)
    const feed = this.#feeds.get(key)
    feed?.remove(follower)
    if (feed?.isEmpty === true) this.#dropFeed(key, feed)
  }

  /**
   * Moves a follower whose filters nothing has concerned to the newest version that touched its tables, so that its cursor does not
   * grow old; null when it is there already.
   */
  advance(windows: readonly Window[], from: number, follower: Follower): Version | null {
    const feed = this.#feeds.get(feedKey(windows))
    const group = feed?.groups.get(from)
    const number = this.lastTouched(windows)
    if (feed === undefined || group?.has(follower) !== true || number <= from) return null
    feed.remove(follower)
    feed.add(follower, number)
    return { epoch: this.epoch, number }
  }

  #define(catalog: Catalog): void {
    this.#catalog = catalog
    this.#channels = new Map(catalog.channels.map((channel) => [channel.name, channel]))
  }

  async #applyArrived(): Promise<void> {
    this.#isApplying = true
    try {
      for (let version = this.#arrived.shift(); version !== undefined; version = this.#arrived.shift()) {
        if (version.number <= this.#head) continue
        // A table that starts anew may have other columns, another name, or none.
        if (version.reset.length > 0) await this.#refreshUntilRead()
        this.#apply(version)
      }
    } finally {
      this.#isApplying = false
    }
  }

  async #refreshUntilRead(): Promise<void> {
    for (let attempt = 0; ; attempt += 1) {
      try {
        const catalog = await this.#options.source.readCatalog()
        // In another epoch these versions are nobody's; the follower will say so and load() what there is.
        if (catalog.epoch === this.epoch) this.#define(catalog)
        return
      } catch (error) {
        this.#options.onError(error instanceof Error ? error : new Error(String(error)))
        await new Promise((resolve) => setTimeout(resolve, Math.min(2_000, 50 * 2 ** attempt)))
      }
    }
  }

  #apply(version: LoggedVersion): void {
    if (version.number <= this.#head) return
    this.#ring.push(version)
    this.#head = version.number
    if (version.leaptFrom !== null) this.#leaps.push({ number: version.number, leaptFrom: version.leaptFrom })
    for (const tableId of version.touched) {
      const born = version.reset.includes(tableId) ? version.number : this.#touched.get(tableId)?.born ?? 0
      this.#touched.set(tableId, { version: version.number, born })
    }
    if (version.reset.length > 0) this.#answerer.clear()
    this.#tellFollowers(version)
    this.#announceHead()
    for (const { name, table } of this.#channels.values()) {
      if (version.touched.includes(table.id)) this.#options.onTouched?.(name, version.mintedAtMs)
    }
  }

  #announceHead(): void {
    for (const waiter of this.#waiters) {
      if (this.#head <= waiter.above) continue
      this.#waiters.delete(waiter)
      waiter.resolve(this.#head)
    }
  }

  #tellFollowers(version: LoggedVersion): void {
    const concerned = new Set<Feed>()
    for (const tableId of version.touched) {
      const routes = this.#routes.get(tableId)
      if (routes === undefined) continue
      const mayFollow = version.changes !== null && !version.reset.includes(tableId)
      const feeds = mayFollow ? routes.concerned(version.changes.filter((change) => change.tableId === tableId)) : routes.everyFeed()
      for (const feed of feeds) concerned.add(feed)
    }
    for (const feed of concerned) this.#tellFeed(feed, version)
  }

  #tellFeed(feed: Feed, version: LoggedVersion): void {
    const startsAnew = feed.windows.some(({ channel }) => version.reset.includes(channel.table.id))
    for (const from of [...feed.groups.keys()]) {
      const delta = startsAnew || version.changes === null ? null
        : this.#answerer.deltaFromMemory({ windows: this.#touchedSince(feed.windows, from), since: from, version: version.number }, this.#ring)
      if (delta === null) {
        feed.overtake()
        break
      }
      // Nothing in it for these filters: the followers stay where they are.
      if (!(Symbol.asyncIterator in delta.parts) && delta.parts.length > 0) feed.deliver(from, delta)
    }
    if (feed.isEmpty) this.#dropFeed(feed.key, feed)
  }

  #addFeed(key: string, windows: readonly Window[]): Feed {
    const feed = new Feed(key, windows)
    this.#feeds.set(key, feed)
    for (const window of windows) {
      const routes = this.#routes.get(window.channel.table.id) ?? new TableRoutes()
      this.#routes.set(window.channel.table.id, routes)
      routes.add(window, feed)
    }
    return feed
  }

  #dropFeed(key: string, feed: Feed): void {
    if (!this.#feeds.delete(key)) return
    for (const window of feed.windows) {
      const routes = this.#routes.get(window.channel.table.id)
      routes?.remove(window, feed)
      if (routes?.isEmpty === true) this.#routes.delete(window.channel.table.id)
    }
  }

  /** The windows as the catalog has them now. Throws when one can no longer be served. */
  #current(windows: readonly Window[]): readonly Window[] {
    return windows.map(({ channel: { name }, filters }) => {
      const channel = this.channel(name)
      if (channel.table.parked !== null) throw new ApiError('channel_parked', `Channel ${quoted(name)} cannot be served: ${channel.table.parked}.`)
      const missing = [...filters.keys()].find((column) => !channel.filters.includes(column))
      if (missing !== undefined) throw unknownFilter(channel, missing)
      return { channel, filters }
    })
  }

  /** The number to start from; null where only a reset is true. */
  async #startingPoint(windows: readonly Window[], { epoch, number }: Version): Promise<number | null> {
    if (epoch !== this.epoch) return null
    if (number > this.#head) {
      const isComing = await this.versionAfter(number - 1, this.#options.futureWaitMs).then(() => true, () => false)
      if (!isComing) return null
    }
    if (!this.#wasIssued(number)) return null
    const born = Math.max(...windows.map(({ channel }) => this.#touched.get(channel.table.id)?.born ?? 0))
    if (number < born) return null
    return number
  }

  /** Numbers run from each leap to the last before the next; one in between was never issued, or was lost in a crash. */
  #wasIssued(number: number): boolean {
    if (number > this.#head) return false
    const leap = this.#leaps.findLastIndex((candidate) => candidate.number <= number)
    const next = this.#leaps[leap + 1]
    return leap >= 0 && (next === undefined || number <= next.leaptFrom)
  }

  #touchedSince(windows: readonly Window[], since: number): readonly Window[] {
    return windows.filter(({ channel }) => (this.#touched.get(channel.table.id)?.version ?? 0) > since)
  }

  async #reset(windows: readonly Window[]): Promise<Answer> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return { kind: 'delta', ...await this.#answerer.state(windows, (upTo) => this.lastTouched(windows, upTo)) }
      } catch (error) {
        // A table that is truncated again and again would keep us here for ever.
        if (!(error instanceof RangeLost) || attempt === 5) throw error
      }
    }
  }

  async #cast(channel: ChannelDefinition, name: string, value: string): Promise<string> {
    const column = channel.table.columns.find((candidate) => candidate.name === name)
    if (column === undefined || !channel.filters.includes(name)) throw unknownFilter(channel, name)
    if (column.type === 'text') return JSON.stringify(value)
    const key = JSON.stringify([column.type, value])
    const known = this.#casts.get(key)
    if (known !== undefined) return known
    const canonical = await this.#options.source.castFilter(column, value)
    if (this.#casts.size > 10_000) this.#casts.clear()
    this.#casts.set(key, canonical)
    return canonical
  }
}

export function feedKey(windows: readonly Window[]): string {
  return windows.map(windowKey).join(' ')
}

function unknownFilter(channel: ChannelDefinition, name: string): ApiError {
  return new ApiError('unknown_filter', `Channel ${quoted(channel.name)} has no filter ${quoted(name)}.`, {
    parameter: name,
    hint: channel.filters.length === 0 ? 'It has no filters.' : `Its filters: ${channel.filters.join(', ')}.`,
  })
}
