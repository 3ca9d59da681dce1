// The whole client side of Freshet: holds the rows of one channel and applies Deltas to them.
// It promises what the server promises: between two calls the rows are exactly a state that existed
// in the database, namely the one at `version`. It does no I/O and never throws on a valid Delta.

/**
 * One name for one row: the key's values in the order of the column names, so that two spellings of
 * the same key cannot become two rows.
 */
export function keyOf(key) {
  return JSON.stringify(Object.keys(key).sort().map((column) => key[column]))
}

export class Replica {
  /** Key text → row. Iterates from the row that has been quiet longest to the one changed last. */
  rows = new Map()
  /** The cursor: pass it as `since`, on any transport, to any node. Null until the first state. */
  version = null

  #parts = []

  /**
   * Takes one Delta. Returns null while its answer is incomplete or already held, else what is now different:
   * `{ reset, changed }`, where `changed` is the set of the keys that were written or deleted.
   */
  apply(delta) {
    // Parts of one answer carry equal versions. Another version means the earlier answer was never finished.
    if (this.#parts.length > 0 && this.#parts[0].version !== delta.version) this.#parts = []
    this.#parts.push(delta)
    if (delta.more) return null

    const parts = this.#parts
    this.#parts = []
    // A version is opaque, so "older" cannot be asked, nor needs to be: on one connection versions only grow.
    // "The same" can: after a reconnect the server may repeat what we hold.
    if (!delta.reset && delta.version === this.version) return null
    return this.#commit(parts, delta)
  }

  /** The connection ended: half an answer is no answer. The rows stay, at the version they had. */
  interrupted() {
    this.#parts = []
  }

  #commit(parts, { reset, version }) {
    const changed = new Set()
    if (reset) this.rows.clear()
    for (const change of parts.flatMap((part) => part.changes)) {
      const key = keyOf(change.key)
      this.rows.delete(key) // also before a write: a Map keeps the old place otherwise
      if (change.op === 'upsert') this.rows.set(key, change.row)
      changed.add(key)
    }
    this.version = version
    return { reset, changed }
  }
}
