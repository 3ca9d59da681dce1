/**
 * The readings of the log that filtered windows share: one for each range of a table. Promise: while one is under way, and a while after,
 * nobody reads the same again.
 */
import type { ChangeRange, ChangeSource, FoldedChange, Window } from '../contract/change.ts'
import type { Bucket } from './bucket.ts'
import { Split } from './split.ts'

/** Those who poll ask one after another: what nobody reads any more is kept so long, and so many of them. */
const KEPT_MS = 30_000
const MAX_KEPT = 4
export type SplitRange = Omit<ChangeRange, 'isFiltered'>

interface Kept {
  readonly key: string
  readonly timer: NodeJS.Timeout
}

interface Joined {
  readonly split: Split
  readonly bucket: Bucket
}

export class Splits {
  readonly #source: Pick<ChangeSource, 'readChanges'>
  readonly #splits = new Map<string, Split>()
  /** Those that nobody reads, oldest first. */
  readonly #kept = new Map<Split, Kept>()

  constructor(source: Pick<ChangeSource, 'readChanges'>) {
    this.#source = source
  }

  /** The changes of a range that may concern the window, folded, oldest first, as `readChanges` has them. Rejects as it does. */
  async *read(window: Window, range: SplitRange): AsyncGenerator<readonly FoldedChange[]> {
    const { split, bucket } = this.#join(window, range)
    try {
      yield* split.read(bucket)
    } finally {
      split.leave()
    }
  }

  /** What is being read is read to its end by those who have it, and by nobody else. */
  clear(): void {
    this.#splits.clear()
    for (const split of [...this.#kept.keys()]) this.#drop(split)
  }

  #join(window: Window, range: SplitRange): Joined {
    const key = `${range.tableId} ${range.since} ${range.version}`
    const known = this.#splits.get(key)
    const bucket = known?.join(window) ?? null
    if (known !== undefined && bucket !== null) {
      clearTimeout(this.#kept.get(known)?.timer)
      this.#kept.delete(known)
      return { split: known, bucket }
    }
    const split = new Split(this.#source.readChanges({ ...range, isFiltered: true }), { onIdle: () => { this.#keep(key, split) } })
    this.#splits.set(key, split)
    const own = split.join(window)
    if (own === null) throw new Error('a reading of the log had ended before it began')
    return { split, bucket: own }
  }

  /** For who comes later, unless another reading has taken its place. */
  #keep(key: string, split: Split): void {
    if (this.#splits.get(key) !== split || !split.isSound) {
      this.#forget(key, split)
      split.close()
      return
    }
    void split.rest()
    this.#kept.set(split, { key, timer: setTimeout(() => { this.#drop(split) }, KEPT_MS).unref() })
    const [oldest] = this.#kept.keys()
    if (this.#kept.size > MAX_KEPT && oldest !== undefined) this.#drop(oldest)
  }

  #drop(split: Split): void {
    const kept = this.#kept.get(split)
    if (kept === undefined) return
    clearTimeout(kept.timer)
    this.#kept.delete(split)
    this.#forget(kept.key, split)
    split.close()
  }

  #forget(key: string, split: Split): void {
    if (this.#splits.get(key) === split) this.#splits.delete(key)
  }
}
