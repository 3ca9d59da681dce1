/**
 * The recent versions, whole, bounded in bytes. Promise: `since(v)` is everything after v or nothing at all.
 */
import type { LoggedChange, LoggedVersion } from '../contract/change.ts'

interface Held {
  readonly version: LoggedVersion
  readonly bytes: number
}

export class Ring {
  readonly #maxBytes: number
  #held: Held[] = []
  #first = 0
  #bytes = 0
  /** Per table, the last version that touched it and is not here: quiet tables are complete however far one looks back. */
  readonly #gone: Map<number, number>

  constructor(maxBytes: number, touched: ReadonlyMap<number, { readonly version: number }>) {
    this.#maxBytes = maxBytes
    this.#gone = new Map([...touched].map(([tableId, { version }]) => [tableId, version]))
  }

  get bytes(): number {
    return this.#bytes
  }

  get length(): number {
    return this.#held.length - this.#first
  }

  push(version: LoggedVersion): void {
    const bytes = sizeOf(version)
    this.#held.push({ version, bytes })
    this.#bytes += bytes
    while (this.#bytes > this.#maxBytes && this.length > 1) this.#dropOldest()
  }

  /** The changes of one table in (since, upTo], in the order of the log's versions; null when some are not here. */
  changes(tableId: number, since: number, upTo: number): readonly LoggedChange[] | null {
    if (since < (this.#gone.get(tableId) ?? 0)) return null
    const found: LoggedChange[] = []
    for (let index = this.#indexAfter(since); index < this.#held.length; index += 1) {
      const version = this.#held[index]?.version
      if (version === undefined || version.number > upTo) break
      if (!version.touched.includes(tableId)) continue
      if (version.changes === null) return null
      for (const change of version.changes) if (change.tableId === tableId) found.push(change)
    }
    return found
  }

  /** The greatest number in whose place `since` may be given: the table had no version from the one to the other, as far as is known here. */
  startOf(tableId: number, since: number): number {
    if (since < (this.#gone.get(tableId) ?? 0)) return since
    for (let index = this.#indexAfter(since); index < this.#held.length; index += 1) {
      const version = this.#held[index]?.version
      if (version?.touched.includes(tableId) === true) return version.number - 1
    }
    return since
  }

  /** Index of the oldest held version above `number`: nearly always near the end. */
  #indexAfter(number: number): number {
    let low = this.#first
    let high = this.#held.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#held[middle]?.version.number ?? Infinity) > number) high = middle
      else low = middle + 1
    }
    return low
  }

  #dropOldest(): void {
    const oldest = this.#held[this.#first]
    if (oldest === undefined) return
    for (const tableId of oldest.version.touched) this.#gone.set(tableId, oldest.version.number)
    this.#bytes -= oldest.bytes
    this.#first += 1
    // Shifting an array costs its length: once in a while is enough.
    if (this.#first > 1_000) {
      this.#held = this.#held.slice(this.#first)
      this.#first = 0
    }
  }
}

/** Roughly what a version costs in memory. */
function sizeOf({ changes }: LoggedVersion): number {
  let bytes = 200
  for (const { key, newRow, oldFilters } of changes ?? []) bytes += 120 + (key?.length ?? 0) + (newRow?.length ?? 0) + oldFilters.reduce((sum, old) => sum + old.length, 0)
  return bytes
}
