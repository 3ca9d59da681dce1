/**
 * Which feeds a change concerns. Routing is by hash of filter values, so that a change costs the same however many filters are followed.
 */
import type { LoggedChange, Window } from '../contract/change.ts'
import type { Feed } from './feed.ts'
import { canonicalValue } from './fold.ts'
import { pickValues } from './render.ts'

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
