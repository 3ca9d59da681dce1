/**
 * Feeds: the readers of the same windows, and which feeds a change concerns. Routing is by hash of filter values, so that a
 * change costs the same however many filters are followed. Promise: a reader is always in exactly one place: following, at a
 * known version, or not here at all; whatever goes wrong in telling it, it is told to ask.
 */
import type { LoggedChange, LoggedVersion, Window } from '../contract/change.ts'
import { windowKey, type Delta } from './answer.ts'
import { canonicalValue } from './fold.ts'
import { pickValues } from './render.ts'

/** A reader that has caught up and is told of what comes. */
export interface Follower {
  /** Takes the delta, or answers false: then it follows no longer and catches up by itself. */
  deliver(delta: Delta): boolean
  /** Its version is no longer a starting point for a live delta: it follows no longer and must ask. */
  overtaken(): void
}

export class Feed {
  readonly key: string
  /** As they were when the feed began; the catalog may have others of the same name by now. */
  readonly windows: readonly Window[]
  /** Followers by the version they hold: nearly always one group. */
  readonly groups = new Map<number, Set<Follower>>()

  constructor(key: string, windows: readonly Window[]) {
    this.key = key
    this.windows = windows
  }

  get isEmpty(): boolean {
    return this.groups.size === 0
  }

  get size(): number {
    let size = 0
    for (const group of this.groups.values()) size += group.size
    return size
  }

  add(follower: Follower, version: number): void {
    const group = this.groups.get(version)
    if (group === undefined) this.groups.set(version, new Set([follower]))
    else group.add(follower)
  }

  remove(follower: Follower): void {
    for (const [version, group] of this.groups) {
      if (group.delete(follower) && group.size === 0) this.groups.delete(version)
    }
  }

  /** Moves a group to the delta's version and gives it to each; who cannot take it is let go. */
  deliver(from: number, delta: Delta): void {
    const group = this.groups.get(from)
    if (group === undefined) return
    // The group stays in its place meanwhile: who leaves while others are told is found, and told no more.
    for (const follower of group) if (!follower.deliver(delta)) group.delete(follower)
    if (this.groups.get(from) === group) this.groups.delete(from)
    if (group.size === 0) return
    const there = this.groups.get(delta.version)
    if (there === undefined) this.groups.set(delta.version, group)
    else for (const follower of group) there.add(follower)
  }

  /** Lets everybody go: each must ask for itself where it stands. */
  release(): readonly Follower[] {
    const followers = [...this.groups.values()].flatMap((group) => [...group])
    this.groups.clear()
    return followers
  }
}

/** The feeds on one table, found by what a change says. */
export class TableRoutes {
  /** Feeds with a window that has no filter: concerned by every change. */
  readonly #all = new Set<Feed>()
  /** By the names of the filter columns, then by the values. */
  readonly #filtered = new Map<string, { names: readonly string[]; window: Window; feeds: Map<string, Set<Feed>> }>()

  get isEmpty(): boolean {
    return this.#all.size === 0 && this.#filtered.size === 0
  }

  add(window: Window, feed: Feed): void {
    if (window.filters.size === 0) {
      this.#all.add(feed)
      return
    }
    const names = [...window.filters.keys()]
    const shape = JSON.stringify(names)
    const route = this.#filtered.get(shape) ?? { names, window, feeds: new Map<string, Set<Feed>>() }
    this.#filtered.set(shape, route)
    const values = JSON.stringify([...window.filters.values()])
    const feeds = route.feeds.get(values)
    if (feeds === undefined) route.feeds.set(values, new Set([feed]))
    else feeds.add(feed)
  }

  remove(window: Window, feed: Feed): void {
    if (window.filters.size === 0) {
      this.#all.delete(feed)
      return
    }
    const shape = JSON.stringify([...window.filters.keys()])
    const route = this.#filtered.get(shape)
    const values = JSON.stringify([...window.filters.values()])
    const feeds = route?.feeds.get(values)
    feeds?.delete(feed)
    if (feeds?.size === 0) route?.feeds.delete(values)
    if (route?.feeds.size === 0) this.#filtered.delete(shape)
  }

  /** Every feed on the table. */
  *everyFeed(): Generator<Feed> {
    yield* this.#all
    for (const { feeds } of this.#filtered.values()) for (const some of feeds.values()) yield* some
  }

  /** The feeds that one of the changes may concern: by its new values or by the old ones. */
  concerned(changes: readonly LoggedChange[]): ReadonlySet<Feed> {
    const found = new Set(this.#all)
    for (const { names, window, feeds } of this.#filtered.values()) {
      const columns = names.map((name) => window.channel.table.columns.find((column) => column.name === name))
      for (const change of changes) {
        for (const raw of change.newRow === null ? change.oldFilters : [change.newRow, ...change.oldFilters]) {
          const values = pickValues(raw, names).map((value, index) => canonicalValue(value ?? 'null', columns[index]))
          for (const feed of feeds.get(JSON.stringify(values)) ?? []) found.add(feed)
        }
      }
    }
    return found
  }
}

export interface FeedsOptions {
  /** What a feed's followers at `since` must apply to be at the version; null: they must ask. */
  readonly deltaOf: (windows: readonly Window[], since: number, version: LoggedVersion) => Delta | null
  readonly onError: (error: Error) => void
}

/** All feeds, and the way from a version to those that it concerns. */
export class Feeds {
  readonly #options: FeedsOptions
  readonly #feeds = new Map<string, Feed>()
  readonly #routes = new Map<number, TableRoutes>()

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
    if (feed?.groups.get(move.from)?.has(follower) !== true) return false
    feed.remove(follower)
    feed.add(follower, move.to)
    return true
  }

  tell(version: LoggedVersion): void {
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

  /** Lets everybody go, and forgets the windows they had. */
  overtakeAll(): void {
    const feeds = [...this.#feeds.values()]
    this.#feeds.clear()
    this.#routes.clear()
    for (const feed of feeds) this.#overtake(feed)
  }

  #tellFeed(feed: Feed, version: LoggedVersion): void {
    const startsAnew = feed.windows.some(({ channel }) => version.reset.includes(channel.table.id))
    try {
      for (const from of [...feed.groups.keys()]) {
        const delta = startsAnew || version.changes === null ? null : this.#options.deltaOf(feed.windows, from, version)
        if (delta === null) {
          this.#overtake(feed)
          break
        }
        // Nothing in it for these filters: the followers stay where they are.
        if (!(Symbol.asyncIterator in delta.parts) && delta.parts.length > 0) feed.deliver(from, delta)
      }
    } catch (error) {
      // Nobody may be left behind without knowing it.
      this.#options.onError(error instanceof Error ? error : new Error(String(error)))
      this.#overtake(feed)
    }
    this.#dropIfEmpty(feed)
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

export function feedKey(windows: readonly Window[]): string {
  return windows.map(windowKey).join(' ')
}
