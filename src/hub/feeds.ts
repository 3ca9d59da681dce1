/**
 * All feeds, and the way from a version to those that it concerns. What happens while others are told is told together, in one write a
 * reader. Promise: whatever goes wrong in telling a reader, it is told to ask.
 */
import type { LoggedVersion, Window } from '../contract/change.ts'
import type { HeldDelta } from './answer.ts'
import { Feed, feedKey, type Follower } from './feed.ts'
import { TableRoutes } from './routes.ts'

/** After telling there is a rest of twice as long, so that two thirds of our time are left for questions; what takes no time needs none. */
const LEAST_MS = 1
const REST_PER_TELLING = 2
const MOST_REST_MS = 20
/** Small versions of the meantime are told one by one, each an event; more, or larger ones, are folded. */
const MOST_EVENTS = 8
const MOST_BYTES = 4_096

/** No version above `since`, up to `until`, concerns the windows: what says so is that nobody was told. */
export interface Quiet {
  readonly since: number
  readonly until: number
}

export interface FeedsOptions {
  /** What a feed's followers at `since` must apply to be at the version; null: they must ask. */
  readonly deltaOf: (windows: readonly Window[], quiet: Quiet, version: LoggedVersion) => HeldDelta | null
  /** Followers at `since` who must ask. */
  readonly onQuiet: (windows: readonly Window[], quiet: Quiet) => void
  readonly onError: (error: Error) => void
  readonly nowMs: () => number
}

/** All feeds, and the way from a version to those that it concerns. */
export class Feeds {
  readonly #options: FeedsOptions
  readonly #feeds = new Map<string, Feed>()
  readonly #routes = new Map<number, TableRoutes>()
  /** What each feed has to be told when the rest is over. */
  #untold = new Map<Feed, LoggedVersion[]>()
  #restUntilMs = 0
  #resting: NodeJS.Timeout | undefined

  constructor(options: FeedsOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#feeds.size
  }

  get followers(): number {
    let followers = 0
    for (const feed of this.#feeds.values()) followers += feed.size
    return followers
  }

  follow(windows: readonly Window[], version: number, follower: Follower): void {
    const key = feedKey(windows)
    const feed = this.#feeds.get(key) ?? this.#add(new Feed(key, windows))
    feed.add(follower, version)
  }

  unfollow(windows: readonly Window[], follower: Follower): void {
    const feed = this.#feeds.get(feedKey(windows))
    feed?.remove(follower)
    if (feed !== undefined) this.#dropIfEmpty(feed)
  }

  /** Moves a follower to a later version that does not concern it; false if it is not at `from`. */
  advance(windows: readonly Window[], move: { readonly from: number; readonly to: number }, follower: Follower): boolean {
    const feed = this.#feeds.get(feedKey(windows))
    // What has not been told yet may concern it.
    if (feed?.groups.get(move.from)?.has(follower) !== true || this.#untold.has(feed)) return false
    feed.remove(follower)
    feed.add(follower, move.to)
    return true
  }

  /** Tells everybody whom it concerns, at once or when there has been a rest from the last time. */
  tell(version: LoggedVersion): void {
    for (const feed of this.#concerned(version)) {
      const versions = this.#untold.get(feed)
      if (versions === undefined) this.#untold.set(feed, [version])
      else versions.push(version)
    }
    if (this.#resting !== undefined) return
    const restMs = this.#restUntilMs - this.#options.nowMs()
    if (restMs <= 0) this.#tellAll()
    else this.#resting = setTimeout(() => { this.#tellAll() }, restMs).unref()
  }

  /** Lets everybody go, and forgets the windows they had. */
  overtakeAll(): void {
    const feeds = [...this.#feeds.values()]
    this.#feeds.clear()
    this.#routes.clear()
    this.#untold.clear()
    for (const feed of feeds) this.#overtake(feed)
  }

  #concerned({ touched, reset, changes }: LoggedVersion): ReadonlySet<Feed> {
    const concerned = new Set<Feed>()
    for (const tableId of touched) {
      const routes = this.#routes.get(tableId)
      if (routes === undefined) continue
      const mayFollow = changes !== null && !reset.includes(tableId)
      const feeds = mayFollow ? routes.concerned(changes.filter((change) => change.tableId === tableId)) : routes.everyFeed()
      for (const feed of feeds) concerned.add(feed)
    }
    return concerned
  }

  #tellAll(): void {
    const startedMs = this.#options.nowMs()
    clearTimeout(this.#resting)
    this.#resting = undefined
    const untold = this.#untold
    this.#untold = new Map()
    for (const [feed, versions] of untold) this.#tellFeed(feed, versions)
    const endedMs = this.#options.nowMs()
    const tookMs = endedMs - startedMs
    this.#restUntilMs = tookMs < LEAST_MS ? 0 : endedMs + Math.min(tookMs * REST_PER_TELLING, MOST_REST_MS)
  }

  #tellFeed(feed: Feed, versions: readonly LoggedVersion[]): void {
    const startsAnew = versions.some(({ changes, reset }) => changes === null || feed.windows.some(({ channel }) => reset.includes(channel.table.id)))
    try {
      for (const from of [...feed.groups.keys()]) {
        const deltas = startsAnew ? null : this.#deltasOf(feed.windows, from, versions.filter(({ number }) => number > from))
        if (deltas === null) {
          this.#noteQuiet(feed, versions)
          this.#overtake(feed)
          break
        }
        const last = deltas.at(-1)
        // Nothing in it for these filters: the followers stay where they are.
        if (last !== undefined) feed.deliver(from, last.version, deltas)
      }
    } catch (error) {
      // Nobody may be left behind without knowing it.
      this.#options.onError(error instanceof Error ? error : new Error(String(error)))
      this.#overtake(feed)
    }
    this.#dropIfEmpty(feed)
  }

  /** All that wait for one large version can then be given the same, from whichever version. */
  #noteQuiet({ windows, groups }: Feed, versions: readonly LoggedVersion[]): void {
    for (const since of groups.keys()) {
      const next = versions.find(({ number }) => number > since)
      if (next !== undefined) this.#options.onQuiet(windows, { since, until: next.number - 1 })
    }
  }

  /** One delta for each version that says something, or one for all if that is too much. Null: they must ask. */
  #deltasOf(windows: readonly Window[], from: number, versions: readonly LoggedVersion[]): readonly HeldDelta[] | null {
    const [first] = versions
    if (first === undefined) return []
    return this.#chain(windows, { since: from, until: first.number - 1 }, versions.length <= MOST_EVENTS && sizeOf(versions) <= MOST_BYTES ? versions : versions.slice(-1))
  }

  #chain(windows: readonly Window[], from: Quiet, versions: readonly LoggedVersion[]): readonly HeldDelta[] | null {
    const deltas: HeldDelta[] = []
    let quiet = from
    for (const version of versions) {
      const delta = this.#options.deltaOf(windows, quiet, version)
      if (delta === null) return null
      if (delta.parts.length > 0) deltas.push(delta)
      quiet = { since: delta.parts.length > 0 ? version.number : quiet.since, until: version.number }
    }
    return deltas
  }

  #overtake(feed: Feed): void {
    for (const follower of feed.release()) {
      try {
        follower.overtaken()
      } catch (error) {
        this.#options.onError(error instanceof Error ? error : new Error(String(error)))
      }
    }
  }

  #add(feed: Feed): Feed {
    this.#feeds.set(feed.key, feed)
    for (const window of feed.windows) {
      const routes = this.#routes.get(window.channel.table.id) ?? new TableRoutes()
      this.#routes.set(window.channel.table.id, routes)
      routes.add(window, feed)
    }
    return feed
  }

  #dropIfEmpty(feed: Feed): void {
    // Another may have taken its place while its followers were told.
    if (!feed.isEmpty || this.#feeds.get(feed.key) !== feed) return
    this.#feeds.delete(feed.key)
    for (const window of feed.windows) {
      const routes = this.#routes.get(window.channel.table.id)
      routes?.remove(window, feed)
      if (routes?.isEmpty === true) this.#routes.delete(window.channel.table.id)
    }
  }
}

/** Counted once, however many feeds a version concerns. */
const sizes = new WeakMap<LoggedVersion, number>()

/** Roughly what they take as events. */
function sizeOf(versions: readonly LoggedVersion[]): number {
  let bytes = 0
  for (const version of versions) {
    const known = sizes.get(version) ?? sizeOfOne(version)
    sizes.set(version, known)
    bytes += known
  }
  return bytes
}

function sizeOfOne({ changes }: LoggedVersion): number {
  let bytes = 0
  for (const { key, newRow } of changes ?? []) bytes += 50 + (key?.length ?? 0) + (newRow?.length ?? 0)
  return bytes
}
