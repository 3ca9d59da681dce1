/**
 * The columns that some windows filter by: which values of them a change speaks of. What is routed or split by these values costs the same
 * however many filters there are. Promise: a window that a change says something to has a value that the change speaks of.
 */
import type { ColumnDefinition, FoldedChange, Window } from '../contract/change.ts'
import { canonicalValue } from './fold.ts'
import { pickerOf, type Picker } from './render.ts'

/** Between values: no text that PostgreSQL renders as JSON has it. */
const BETWEEN = '\x1f'

export class Shape {
  readonly #pick: Picker
  readonly #columns: readonly (ColumnDefinition | undefined)[]

  constructor({ channel, filters }: Window) {
    const names = [...filters.keys()]
    this.#pick = pickerOf(names)
    this.#columns = names.map((name) => channel.table.columns.find((column) => column.name === name))
  }

  /** Windows on one table with equal names are of one shape. */
  static nameOf({ filters }: Window): string {
    return [...filters.keys()].map((name) => JSON.stringify(name)).join()
  }

  static valueOf({ filters }: Window): string {
    return [...filters.values()].join(BETWEEN)
  }

  /** The values of the row and those before the change, each once. */
  valuesOf({ newRow, oldFilters }: Pick<FoldedChange, 'newRow' | 'oldFilters'>): readonly string[] {
    const values: string[] = newRow === null ? [] : [this.#valueIn(newRow)]
    for (const old of oldFilters) {
      const value = this.#valueIn(old)
      if (!values.includes(value)) values.push(value)
    }
    return values
  }

  #valueIn(raw: string): string {
    const values = this.#pick(raw)
    let text = canonicalValue(values[0] ?? 'null', this.#columns[0])
    for (let index = 1; index < values.length; index += 1) text += BETWEEN + canonicalValue(values[index] ?? 'null', this.#columns[index])
    return text
  }
}
