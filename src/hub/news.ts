/** Waiting for the next thing to happen to something that many read. Promise: whoever waits is woken once, by the first news after that. */
export class News {
  readonly #waiting = new Set<() => void>()

  next(): Promise<void> {
    return new Promise((resolve) => this.#waiting.add(resolve))
  }

  announce(): void {
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const wake of waiting) wake()
  }
}
