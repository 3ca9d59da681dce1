/** Folded changes: as the source reads them from the log, and as memory folds those of the versions between. */
import type { ChangeRange, ChangeSource, FoldedChange, LoggedVersion } from '../../src/contract/change.ts'
import { foldChanges } from '../../src/hub/fold.ts'

/** `isFiltered`, unless said otherwise. */
export type Range = Omit<ChangeRange, 'isFiltered'> & Partial<ChangeRange>

export async function readFolded(source: Pick<ChangeSource, 'readChanges'>, range: Range): Promise<readonly FoldedChange[]> {
  const changes: FoldedChange[] = []
  for await (const batch of source.readChanges({ isFiltered: true, ...range })) changes.push(...batch)
  return changes
}

export function foldedBy(versions: readonly LoggedVersion[], { since, version, tableId, isFiltered = true }: Range): readonly FoldedChange[] {
  const between = versions.filter(({ number }) => number > since && number <= version).flatMap(({ changes }) => changes ?? [])
  return foldChanges(between.filter((change) => change.tableId === tableId))
    .map(({ key, newRow, oldFilters }) => ({ key, newRow, oldFilters: isFiltered ? oldFilters : [] }))
}
