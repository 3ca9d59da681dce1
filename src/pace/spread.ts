/** Spreads a sequence evenly over a window: each value falls into the widest gap the earlier ones left [Knuth 6.4, golden ratio]. */
const GOLDEN = (Math.sqrt(5) - 1) / 2

export class Spread {
  #count = 0

  /** Above 0 and up to 1, the whole window first. */
  next(): number {
    const share = 1 - ((this.#count * GOLDEN) % 1)
    this.#count = (this.#count + 1) % 1e9
    return share
  }
}
