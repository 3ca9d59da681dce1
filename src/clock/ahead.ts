/** Large readings in pieces: PostgreSQL works on the next piece while this one is used, so two are in memory. */

/** About how large a piece is. */
export const BATCH_BYTES = 1_000_000

/** All pieces from the first on. `next` asks for the one after another; null: there is none. */
export async function* ahead<T>(first: Promise<T> | null, next: (piece: T) => Promise<T> | null): AsyncGenerator<T> {
  let coming = first
  try {
    while (coming !== null) {
      const piece: T = await coming
      coming = next(piece)
      // Whoever stops here is not told of its end: that there is one must not end the process.
      coming?.catch(() => undefined)
      yield piece
    }
  } finally {
    await coming?.catch(() => undefined)
  }
}
