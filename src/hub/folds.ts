/**
 * What memory holds of a range of a table, folded once for all windows that ask, and split once for all that filter by the same columns.
 */
import { LRUCache } from 'lru-cache'
import type { LoggedChange, Window } from '../contract/change.ts'
import { foldChanges } from './fold.ts'
import type { Ring } from './ring.ts'
import { Shape } from './shape.ts'

/** What is folded is asked for by many at the same time, and no more after that. */
const MAX_FOLDS = 8
/** So few changes are looked at by each window itself. */
const FEW_CHANGES = 8

export interface FoldRange {
  readonly since: number
  readonly version: number
}

interface Fold {
  readonly changes: readonly LoggedChange[]
  /** By the names of the columns, then by the values. */
  readonly shapes: Map<string, ReadonlyMap<string, readonly LoggedChange[]>>
}

const NONE: readonly LoggedChange[] = []

export class Folds {
  readonly #folds = new LRUCache<string, Fold>({ max: MAX_FOLDS })

  clear(): void {
    this.#folds.clear()
  }

  /** The folded changes of a range that may concern the window, in order; null: memory does not reach back that far. */
  changes(window: Window, range: FoldRange, ring: Ring): readonly LoggedChange[] | null {
    const fold = this.#fold(window.channel.table.id, range, ring)
    if (fold === null || window.filters.size === 0 || fold.changes.length <= FEW_CHANGES) return fold?.changes ?? null
    const name = Shape.nameOf(window)
    const split = fold.shapes.get(name) ?? splitChanges(fold.changes, new Shape(window))
    fold.shapes.set(name, split)
    return split.get(Shape.valueOf(window)) ?? NONE
  }

  #fold(tableId: number, { since, version }: FoldRange, ring: Ring): Fold | null {
    const key = `${tableId} ${since} ${version}`
    const known = this.#folds.get(key)
    if (known !== undefined) return known
    const changes = ring.changes(tableId, since, version)
    if (changes === null) return null
    const fold = { changes: foldChanges(changes), shapes: new Map() }
    this.#folds.set(key, fold)
    return fold
  }
}

function splitChanges(changes: readonly LoggedChange[], shape: Shape): ReadonlyMap<string, readonly LoggedChange[]> {
  const split = new Map<string, LoggedChange[]>()
  for (const change of changes) {
    for (const value of shape.valuesOf(change)) {
      const same = split.get(value)
      if (same === undefined) split.set(value, [change])
      else same.push(change)
    }
  }
  return split
}
