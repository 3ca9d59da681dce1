/**
 * A poller that exists only on paper. Each predictor has one that follows its advice; what the shadows would have paid, in requests
 * and in delay, tells which predictor understands the channel.
 */
import type { Price } from './plan.ts'

/** Seconds after which a payment has faded to a third. */
const MEMORY = 60_000
/** Polls caught up with at once, so that none waits for a long silence to be replayed; what is due beyond them is paid at the last pace. */
const CATCH_UP = 12

export class Shadow {
  #next = 1
  #last = 0
  /** Commits since the last poll, and the moments of their times after it. */
  #count = 0
  #sum = 0
  #squares = 0
  cost = 0

  observe(at: number): void {
    const since = at - this.#last
    this.#count++
    this.#sum += since
    this.#squares += since * since
  }

  /** Polls, on paper, until `now`. */
  catchUp(now: number, price: Price, step: (at: number) => number): void {
    let length = 1
    for (let polls = 0; this.#next <= now && polls < CATCH_UP; polls++) {
      this.#pay(price)
      length = step(this.#next)
      this.#next += length
    }
    if (this.#next > now) return
    this.cost += (price.request * (now - this.#next)) / length
    this.#next = now
    this.#pay(price)
    this.#next = now + length
  }

  /** Stands in for another one that pays the least so far. */
  copy(other: Shadow, cost: number): void {
    this.load(other.save())
    this.cost = cost
  }

  save(): number[] {
    return [this.#next, this.#last, this.#count, this.#sum, this.#squares, this.cost]
  }

  load(state: readonly number[]): void {
    [this.#next = 1, this.#last = 0, this.#count = 0, this.#sum = 0, this.#squares = 0, this.cost = 0] = state
  }

  #pay({ request, patience }: Price): void {
    const elapsed = this.#next - this.#last
    const delay = this.#count * elapsed - this.#sum
    const squares = this.#count * elapsed * elapsed - 2 * elapsed * this.#sum + this.#squares
    this.cost = this.cost * Math.exp(-elapsed / MEMORY) + request + delay + squares / (2 * patience)
    this.#last = this.#next
    this.#count = this.#sum = this.#squares = 0
  }
}
