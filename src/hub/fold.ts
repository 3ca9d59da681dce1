/**
 * Folds changes to the last state of each key and cuts the result into parts. Pure. Promise: the same changes give the same bytes,
 * whether they come from memory or, folded there already, from the log: in the order of each key's last change.
 */
import type { CanonicalFilters, ColumnDefinition, FoldedChange, LoggedChange, StateRow, Window } from '../contract/change.ts'
import { deletion, dress, pickerOf, planRow, planState, upsert, type Picker, type RowPlan } from './render.ts'

/**
 * A part is at most this many changes, or this many bytes (one larger change is a part of its own). The contract would allow a megabyte:
 * but each slow reader of a large answer holds two or three parts.
 */
const MAX_PART_CHANGES = 1_000
export const MAX_PART_BYTES = 128_000

/**
 * The last change of each key, bearing the filter values from before every one: A to B to C must reach A's readers as a delete. Which was
 * the first nobody can say: a trigger of the host's that writes the row again is logged before the statement that it belongs to.
 */
export function foldChanges(changes: Iterable<LoggedChange>): readonly LoggedChange[] {
  const last = new Map<string, LoggedChange>()
  for (const change of changes) {
    if (change.key === null) continue
    const earlier = last.get(change.key)
    // Deleting first moves the key to the end.
    last.delete(change.key)
    last.set(change.key, earlier === undefined ? change : { ...change, oldFilters: union(earlier.oldFilters, change.oldFilters) })
  }
  // Of several versions, a later one may hold what was logged earlier: a change is logged before its commit.
  return [...last.values()].sort(byOrder)
}

/** Equal ones stay as they came. */
export function byOrder(a: LoggedChange, b: LoggedChange): number {
  return a.order < b.order ? -1 : a.order > b.order ? 1 : 0
}

function union(some: readonly string[], others: readonly string[]): readonly string[] {
  const added = others.filter((value) => !some.includes(value))
  return added.length === 0 ? some : [...some, ...added]
}

/** Renders folded changes for one window: what its reader must apply. */
export class WindowRenderer {
  readonly #plan: RowPlan
  readonly #statePlan: RowPlan
  readonly #pick: Picker
  readonly #wanted: readonly string[]
  readonly #filterColumns: readonly (ColumnDefinition | undefined)[]

  constructor({ channel, filters }: Window) {
    this.#plan = planRow(channel)
    this.#statePlan = planState(channel)
    const names = [...filters.keys()]
    this.#pick = pickerOf(names)
    this.#wanted = [...filters.values()]
    this.#filterColumns = names.map((name) => channel.table.columns.find((column) => column.name === name))
  }

  /** Whether rows of a state are as they should be when PostgreSQL has written them. */
  get takesRuns(): boolean {
    return this.#statePlan === null
  }

  /** Whether all changes of the log are. */
  get takesLoggedRuns(): boolean {
    return this.#plan === null && this.#wanted.length === 0
  }

  /** The change as JSON; null when it does not concern the window. */
  change({ key, newRow, oldFilters }: FoldedChange): string | null {
    if (key === null) return null
    if (newRow !== null && this.#admits(newRow)) return upsert(dress(this.#plan, key), dress(this.#plan, newRow))
    // A row that leaves the filter is a delete, without its new values.
    const wasIn = this.#wanted.length === 0 || oldFilters.some((old) => this.#admits(old))
    return wasIn ? deletion(dress(this.#plan, key)) : null
  }

  /** A row of the table, which has passed the filter already, and its key as published. */
  row([rawKey, raw]: StateRow): { readonly text: string; readonly key: string } {
    const key = dress(this.#statePlan, rawKey)
    return { text: upsert(key, dress(this.#statePlan, raw)), key }
  }

  key(raw: string): string {
    return dress(this.#plan, raw)
  }

  #admits(raw: string): boolean {
    if (this.#wanted.length === 0) return true
    return this.#pick(raw).every((value, index) =>
      value !== undefined && canonicalValue(value, this.#filterColumns[index]) === this.#wanted[index])
  }
}

/** A value as rendered in a row, in the one form in which filter values are compared. */
export function canonicalValue(value: string, column: ColumnDefinition | undefined): string {
  switch (column?.comparedAs) {
    // Strings in a row, numbers where a filter is cast.
    case 'int8': return withoutQuotes(value)
    // As trim_scale: 1.50 is 1.5, 2.00 is 2.
    case 'numeric': return value.includes('.') ? withoutQuotes(value).replace(/\.?0+$/, '') : withoutQuotes(value)
    // Padded to its length, and equal without.
    case 'bpchar': return value.replace(/ +"$/, '"')
    default: return value
  }
}

function withoutQuotes(value: string): string {
  return value.startsWith('"') ? value.slice(1, -1) : value
}

/** The filters of a window as text: equal filters, equal text. */
export function filterKey(filters: CanonicalFilters): string {
  return JSON.stringify([...filters])
}

/** Collects rendered changes into parts: the inside of a `changes` array, ready to be framed. */
export class PartBuilder {
  #texts: string[] = []
  #bytes = 0

  /** The finished part, if this change began a new one. */
  add(text: string): Buffer | null {
    const bytes = Buffer.byteLength(text) + 1
    const isFull = this.#texts.length > 0 && (this.#texts.length >= MAX_PART_CHANGES || this.#bytes + bytes > MAX_PART_BYTES)
    const finished = isFull ? this.take() : null
    this.#texts.push(text)
    this.#bytes += bytes
    return finished
  }

  /** What has been collected; empty if nothing was. */
  take(): Buffer {
    const part = Buffer.from(this.#texts.join(','))
    this.#texts = []
    this.#bytes = 0
    return part
  }

  get isEmpty(): boolean {
    return this.#texts.length === 0
  }
}
