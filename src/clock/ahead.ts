/** Large readings in pieces: PostgreSQL works on the next piece while this one is used, so two or more are in memory. */

/** About how large a piece is. */
export const BATCH_BYTES = 1_000_000

/** All pieces in order, of which so many are under way while one is used. `ask` is told the last piece that came; null: there is no further one. */
export async function* ahead<T>(ask: (last: T | null) => Promise<T> | null, atOnce = 1): AsyncGenerator<T> {
  const coming: Promise<T>[] = []
  const askMore = (last: T | null): void => {
    for (let next = coming.length < atOnce ? ask(last) : null; next !== null; next = coming.length < atOnce ? ask(last) : null) {
      // Whoever stops here is not told of its end: that there is one must not end the process.
      next.catch(() => undefined)
      coming.push(next)
    }
  }
  try {
    askMore(null)
    for (let next = coming.shift(); next !== undefined; next = coming.shift()) {
      const piece = await next
      askMore(piece)
      yield piece
    }
  } finally {
    await Promise.allSettled(coming)
  }
}
