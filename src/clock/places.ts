/**
 * Places for large readings, each of which holds a connection: so many at once, the others wait their turn. Promise: channels do not wait for
 * each other. No table has more than half of the places, nor have all readings of the log; one that becomes free goes to the table that has
 * fewest, in turns.
 */

export interface Reading {
  readonly tableIds: readonly number[]
  readonly of: 'log' | 'state'
}

/** Readings that may enter at the same moments, first come, first served. */
interface Queue {
  readonly reading: Reading
  readonly waiting: (() => void)[]
}

export class Places {
  readonly #total: number
  readonly #atMost: number
  /** Those that were served last come last. */
  readonly #queues = new Map<string, Queue>()
  readonly #byTable = new Map<number, number>()
  #taken = 0
  #ofLog = 0

  constructor(total: number) {
    this.#total = total
    this.#atMost = Math.ceil(total / 2)
  }

  /** Resolves once there is a place for the reading, to the way to give it back, which may be called twice. */
  async take(reading: Reading): Promise<() => void> {
    if (this.#isFree(reading)) this.#count(reading, 1)
    else await new Promise<void>((enter) => { this.#wait(reading, enter) })
    let isHeld = true
    return () => {
      if (isHeld) this.#leave(reading)
      isHeld = false
    }
  }

  #isFree({ tableIds, of }: Reading): boolean {
    return this.#taken < this.#total && (of === 'state' || this.#ofLog < this.#atMost) && this.#held(tableIds) < this.#atMost
  }

  /** The places of that table which has most. */
  #held(tableIds: readonly number[]): number {
    return tableIds.reduce((most, id) => Math.max(most, this.#byTable.get(id) ?? 0), 0)
  }

  #wait(reading: Reading, enter: () => void): void {
    const name = `${reading.of} ${reading.tableIds.join()}`
    const queue = this.#queues.get(name)
    if (queue === undefined) this.#queues.set(name, { reading, waiting: [enter] })
    else queue.waiting.push(enter)
  }

  #leave(reading: Reading): void {
    this.#count(reading, -1)
    for (let name = this.#next(); name !== null; name = this.#next()) this.#admitOne(name)
  }

  /** The queue whose turn it is: of those that may enter, one whose tables have fewest places. */
  #next(): string | null {
    let next: string | null = null
    let fewest = Infinity
    for (const [name, { reading }] of this.#queues) {
      const held = this.#held(reading.tableIds)
      if (held >= fewest || !this.#isFree(reading)) continue
      next = name
      fewest = held
    }
    return next
  }

  #admitOne(name: string): void {
    const queue = this.#queues.get(name)
    const enter = queue?.waiting.shift()
    this.#queues.delete(name)
    if (queue === undefined || enter === undefined) return
    if (queue.waiting.length > 0) this.#queues.set(name, queue)
    this.#count(queue.reading, 1)
    enter()
  }

  #count({ tableIds, of }: Reading, more: 1 | -1): void {
    this.#taken += more
    if (of === 'log') this.#ofLog += more
    for (const id of tableIds) {
      const held = (this.#byTable.get(id) ?? 0) + more
      if (held === 0) this.#byTable.delete(id)
      else this.#byTable.set(id, held)
    }
  }
}
