/**
 * Which feeds a change concerns. Routing is by hash of filter values, so that a change costs the same however many filters are followed.
 */
import type { LoggedChange, Window } from '../contract/change.ts'
import type { Feed } from './feed.ts'
import { Shape } from './shape.ts'

/** Feeds through the same columns, by the values that they filter for. */
interface Route {
  readonly shape: Shape
  readonly feeds: Map<string, Set<Feed>>
}

/** The feeds on one table, found by what a change says. */
export class TableRoutes {
  /** Feeds with a window that has no filter: concerned by every change. */
  readonly #all = new Set<Feed>()
  readonly #filtered = new Map<string, Route>()

  get isEmpty(): boolean {
    return this.#all.size === 0 && this.#filtered.size === 0
  }

  add(window: Window, feed: Feed): void {
    if (window.filters.size === 0) {
      this.#all.add(feed)
      return
    }
    const name = Shape.nameOf(window)
    const route = this.#filtered.get(name) ?? { shape: new Shape(window), feeds: new Map<string, Set<Feed>>() }
    this.#filtered.set(name, route)
    const value = Shape.valueOf(window)
    const feeds = route.feeds.get(value)
    if (feeds === undefined) route.feeds.set(value, new Set([feed]))
    else feeds.add(feed)
  }

  remove(window: Window, feed: Feed): void {
    if (window.filters.size === 0) {
      this.#all.delete(feed)
      return
    }
    const name = Shape.nameOf(window)
    const route = this.#filtered.get(name)
    const value = Shape.valueOf(window)
    const feeds = route?.feeds.get(value)
    feeds?.delete(feed)
    if (feeds?.size === 0) route?.feeds.delete(value)
    if (route?.feeds.size === 0) this.#filtered.delete(name)
  }

  /** Every feed on the table. */
  *everyFeed(): Generator<Feed> {
    yield* this.#all
    for (const { feeds } of this.#filtered.values()) for (const some of feeds.values()) yield* some
  }

  /** The feeds that one of the changes may concern: by its new values or by the old ones. */
  concerned(changes: readonly LoggedChange[]): ReadonlySet<Feed> {
    const found = new Set(this.#all)
    for (const { shape, feeds } of this.#filtered.values()) {
      for (const change of changes) {
        for (const value of shape.valuesOf(change)) for (const feed of feeds.get(value) ?? []) found.add(feed)
      }
    }
    return found
  }
}
