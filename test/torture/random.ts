/** Chance that repeats: one generator for each actor and each of its deeds, so that a seed gives the same plan whatever the timing. */
import { createHash } from 'node:crypto'

export class Random {
  #state: number

  constructor(seed: number, actor: string) {
    this.#state = createHash('md5').update(`${seed}/${actor}`).digest().readUInt32LE(0)
  }

  /** From 0 up to but not 1 (mulberry32). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }

  /** A whole number, both ends included. */
  between(least: number, most: number): number {
    return least + Math.floor(this.next() * (most - least + 1))
  }

  chance(share: number): boolean {
    return this.next() < share
  }

  /** Throws on an empty list. */
  pick<T>(list: readonly T[]): T {
    const picked = list[Math.floor(this.next() * list.length)]
    if (picked === undefined) throw new Error('there is nothing to pick from')
    return picked
  }

  /** The list in another order. */
  shuffled<T>(list: readonly T[]): T[] {
    return list.map((item) => ({ item, place: this.next() })).sort((a, b) => a.place - b.place).map(({ item }) => item)
  }
}
