/**
 * What this node knows of versions: which numbers were issued, what each touched last, and the recent ones whole.
 * Promise: it only moves forward, one version after another, until it is begun anew from a catalog.
 */
import type { Catalog, LoggedVersion, Window } from '../contract/change.ts'
import { ApiError } from '../errors.ts'
import { Ring } from './ring.ts'

interface Waiter {
  readonly above: number
  resolve(head: number): void
}

export class History {
  readonly #ringBytes: number
  readonly #waiters = new Set<Waiter>()
  #head = 0
  #leaps: { readonly number: number; readonly leaptFrom: number }[] = []
  #touched = new Map<number, { readonly version: number; readonly born: number }>()
  #ring = new Ring(0, new Map())

  constructor(ringBytes: number) {
    this.#ringBytes = ringBytes
  }

  /** The newest version. */
  get head(): number {
    return this.#head
  }

  get ring(): Ring {
    return this.#ring
  }

  begin({ head, leaps, touched }: Catalog): void {
    this.#head = head
    this.#leaps = [...leaps]
    this.#touched = new Map(touched)
    this.#ring = new Ring(this.#ringBytes, touched)
    this.#announce()
  }

  /** The next version, which must be above the head. */
  add(version: LoggedVersion): void {
    this.#ring.push(version)
    this.#head = version.number
    if (version.leaptFrom !== null) this.#leaps.push({ number: version.number, leaptFrom: version.leaptFrom })
    for (const tableId of version.touched) {
      const born = version.reset.includes(tableId) ? version.number : this.#touched.get(tableId)?.born ?? 0
      this.#touched.set(tableId, { version: version.number, born })
    }
    this.#announce()
  }

  /** Numbers run from each leap to the last before the next; one in between was never issued, or was lost in a crash. */
  wasIssued(number: number): boolean {
    if (number > this.#head) return false
    const leap = this.#leaps.findLastIndex((candidate) => candidate.number <= number)
    const next = this.#leaps[leap + 1]
    return leap >= 0 && (next === undefined || number <= next.leaptFrom)
  }

  /** The first version after one that was lost in a crash; 0 if it was not. */
  leapOver(number: number): number {
    return this.wasIssued(number) ? 0 : this.#leaps.find((leap) => leap.number > number)?.number ?? 0
  }

  /** Whether the version that each of the windows' tables begins at has arrived: the catalog may be ahead of the versions. */
  knows(windows: readonly Window[]): boolean {
    return windows.every(({ channel }) => this.#touched.has(channel.table.id))
  }

  /** The last version that touched any of the windows' tables; `upTo` itself when that one is later. */
  lastTouched(windows: readonly Window[], upTo = Infinity): number {
    // A table that nothing has touched is as it was at the first version of the epoch.
    let last = this.#leaps[0]?.number ?? 0
    for (const { channel } of windows) last = Math.max(last, this.#touched.get(channel.table.id)?.version ?? 0)
    return Math.min(last, upTo)
  }

  touchedSince(windows: readonly Window[], since: number): readonly Window[] {
    return windows.filter(({ channel }) => (this.#touched.get(channel.table.id)?.version ?? 0) > since)
  }

  /** The last version that any of the windows' tables started anew at: no delta crosses it. */
  born(windows: readonly Window[]): number {
    return Math.max(0, ...windows.map(({ channel }) => this.#touched.get(channel.table.id)?.born ?? 0))
  }

  /** Resolves to the head once it is above `number`; rejects with ApiError database_unreachable after `patienceMs`. */
  versionAfter(number: number, patienceMs: number): Promise<number> {
    if (this.#head > number) return Promise.resolve(this.#head)
    return new Promise((resolve, reject) => {
      const waiter: Waiter = { above: number, resolve: (head) => { clearTimeout(timer); resolve(head) } }
      const timer = setTimeout(() => {
        this.#waiters.delete(waiter)
        reject(new ApiError('database_unreachable', 'The clock has not numbered the latest changes yet.'))
      }, patienceMs)
      this.#waiters.add(waiter)
    })
  }

  #announce(): void {
    for (const waiter of this.#waiters) {
      if (this.#head <= waiter.above) continue
      this.#waiters.delete(waiter)
      waiter.resolve(this.#head)
    }
  }
}
