/**
 * The rows of one channel as a client holds them, with a hash of the whole that costs no more than what changed, and a memory of the
 * last versions: to go back to one of them, or to show how it differs from somebody else's.
 */
import { createHash } from 'node:crypto'
import type { Row, TableModel } from './schema.ts'

export interface Change {
  readonly op: 'upsert' | 'delete'
  readonly key: Row
  readonly row?: Row
}

/** How to undo one version. */
interface Step {
  readonly from: string | null
  readonly to: string
  readonly before: ReadonlyMap<string, Row | undefined>
}

const REMEMBERED = 60
const MODULUS = 2 ** 48

export class Replica {
  readonly table: TableModel
  readonly filter: string | null
  readonly rows = new Map<string, Row>()
  /** By value of the filter column. */
  readonly #hashes = new Map<string, number>()
  readonly #probes = new Map<string, number>()
  #steps: Step[] = []

  /** `filter`: the only value of the table's filter column that is let in. */
  constructor(table: TableModel, filter: string | null = null) {
    this.table = table
    this.filter = filter
  }

  /** Equal for equal rows. `value`: of those alone that have it in the filter column. */
  hash(value?: string): number {
    if (value !== undefined) return this.#hashes.get(value) ?? 0
    let hash = 0
    for (const part of this.#hashes.values()) hash = (hash + part) % MODULUS
    return hash
  }

  /** The number of the last probe that it shows. */
  get probe(): number {
    let probe = 0
    for (const number of this.#probes.values()) probe = Math.max(probe, number)
    return probe
  }

  /** Rows that were dropped or replaced, by key; a reset is like deleting everything before. */
  apply(from: string | null, to: string, reset: boolean, changes: readonly Change[]): void {
    const before = new Map<string, Row | undefined>()
    if (reset) {
      for (const [key, row] of this.rows) before.set(key, row)
      this.rows.clear()
      this.#hashes.clear()
      this.#probes.clear()
    }
    for (const { op, key, row } of changes) {
      const name = JSON.stringify(key)
      if (!before.has(name)) before.set(name, this.rows.get(name))
      this.#put(name, op === 'upsert' ? row : undefined)
    }
    this.#steps.push({ from, to, before })
    if (this.#steps.length > REMEMBERED) this.#steps = this.#steps.slice(-REMEMBERED)
  }

  /** Versions that can be gone back to, oldest first. */
  get remembered(): readonly string[] {
    return this.#steps.flatMap(({ from }) => from ?? [])
  }

  /** The rows are again those of the last time that `version` was held. */
  rewind(version: string): void {
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      for (const [key, row] of step.before) this.#put(key, row)
      if (step.from === version) return
    }
    throw new Error(`${version} is not remembered`)
  }

  /** The rows at a version, or null if it is too long ago. */
  at(version: string): ReadonlyMap<string, Row> | null {
    const rows = new Map(this.rows)
    for (const step of [...this.#steps].reverse()) {
      if (step.to === version) return rows
      for (const [key, row] of step.before) {
        if (row === undefined) rows.delete(key)
        else rows.set(key, row)
      }
      if (step.from === version) return rows
    }
    return null
  }

  /** What the last versions did, for people to read. */
  describe(count: number): readonly string[] {
    return this.#steps.slice(-count).map(({ from, to, before }) => `${from ?? 'nothing'} → ${to}: ${before.size} rows`)
  }

  #put(key: string, row: Row | undefined): void {
    const old = this.rows.get(key)
    if (old !== undefined) this.#count(old, -1)
    this.#probes.delete(key)
    if (row === undefined) {
      this.rows.delete(key)
    } else {
      if (Number(row['probe']) > 0) this.#probes.set(key, Number(row['probe']))
      this.rows.set(key, row)
      this.#count(row, 1)
    }
  }

  #count(row: Row, sign: 1 | -1): void {
    const { columns, filter } = this.table
    const value = filter === null ? '' : String(row[filter.column])
    // The columns that writers know of: one that is added is not there for all at the same version.
    const digest = createHash('md5').update(JSON.stringify(columns.map((column) => row[column]))).digest().readUIntBE(0, 6)
    this.#hashes.set(value, ((this.#hashes.get(value) ?? 0) + sign * digest + MODULUS) % MODULUS)
  }
}
