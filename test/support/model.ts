/**
 * A database in memory for tests of what lies downstream of it: one log of versions, the rows at each of them, and a ChangeSource
 * that answers from both. Rows are as PostgreSQL renders them.
 */
import { RangeLost } from '../../src/contract/change.ts'
import type { Catalog, ChangeSource, ChannelDefinition, ColumnDefinition, LoggedChange, LoggedVersion, StateReading, TableDefinition, Window } from '../../src/contract/change.ts'
import { byOrder } from '../../src/hub/fold.ts'
import { deletion, upsert } from '../../src/hub/render.ts'

export interface ModelRow {
  readonly id: number
  readonly g: string
  readonly v: number
}

export function column(name: string, type: string, conversion: ColumnDefinition['conversion'] = 'none'): ColumnDefinition {
  return { name, type, nullable: true, conversion, isText: false, isCaptured: true, comparedAs: type, isEnum: false, typeId: 0, rendering: null, keyed: null }
}

export function table(id: number, name = `public.t${id}`): TableDefinition {
  return {
    id, name, isPartitioned: false, keyColumns: ['id'], parked: null,
    columns: [column('id', 'integer'), column('g', 'text'), column('v', 'integer')],
  }
}

export function channel(name: string, of: TableDefinition): ChannelDefinition {
  return { name, table: of, columns: of.columns, filters: ['g', 'v'], isPublic: true }
}

export function windowOf(definition: ChannelDefinition, filters: Readonly<Record<string, string>> = {}): Window {
  return { channel: definition, filters: new Map(Object.entries(filters)) }
}

/** A write to a table of the model: a new row, or an id to delete. */
export type Write = { readonly tableId: number; readonly row: ModelRow } | { readonly tableId: number; readonly id: number }

/** The log as the clock would number it, and every table at every version. */
export class Model {
  readonly versions: LoggedVersion[] = []
  channels: readonly ChannelDefinition[]
  epoch = 'aaaa'
  floor = 0
  readonly #founders: readonly ChannelDefinition[]
  readonly #log = new Map<number, readonly LoggedChange[]>()
  readonly #epochs = new Map<number, string>()
  readonly #unnumbered: LoggedChange[] = []
  #seq = 0
  readonly #states = new Map<number, ReadonlyMap<number, ReadonlyMap<number, ModelRow>>>()
  #tables: ReadonlyMap<number, ReadonlyMap<number, ModelRow>> = new Map()

  constructor(channels: readonly ChannelDefinition[]) {
    this.channels = channels
    this.#founders = channels
    this.leap(1_000)
  }

  get head(): number {
    return this.versions.at(-1)?.number ?? 0
  }

  /** The first version of another leader. */
  leap(number: number): LoggedVersion {
    return this.#push(number, this.#unnumbered.splice(0), { leaptFrom: this.head })
  }

  /** One transaction, numbered. `isCarried` false: too large to be carried along. */
  commit(writes: readonly Write[], { isCarried = true } = {}): LoggedVersion {
    const changes = writes.map((write): LoggedChange => {
      const id = 'row' in write ? write.row.id : write.id
      const old = this.#tables.get(write.tableId)?.get(id)
      const rows = new Map(this.#tables.get(write.tableId))
      if ('row' in write) rows.set(id, write.row)
      else rows.delete(id)
      this.#tables = new Map(this.#tables).set(write.tableId, rows)
      this.#seq += 1
      return {
        order: BigInt(this.#seq), tableId: write.tableId, key: JSON.stringify({ id }), newRow: 'row' in write ? JSON.stringify(write.row) : null,
        oldFilters: old === undefined ? [] : [JSON.stringify({ g: old.g, v: old.v })],
      }
    })
    return this.#push(this.head + 1, changes, { isCarried })
  }

  /** TRUNCATE, or whatever else makes a table start anew. */
  startAnew(tableId: number): LoggedVersion {
    this.#tables = new Map(this.#tables).set(tableId, new Map())
    this.#seq += 1
    return this.#push(this.head + 1, [{ order: BigInt(this.#seq), tableId, key: null, newRow: 'truncate', oldFilters: [] }])
  }

  /** The newest `count` versions are gone, as after a crash. What they saw is still there, for the next leap to number. */
  lose(count: number): void {
    for (const { number } of this.versions.splice(-count)) this.#unnumbered.push(...this.#log.get(number) ?? [])
  }

  /** The epoch that a number was issued in. */
  epochOf(number: number): string | undefined {
    return this.#epochs.get(number)
  }

  rowsAt(number: number, window: Window): readonly ModelRow[] {
    const rows = [...this.#states.get(number)?.get(window.channel.table.id)?.values() ?? []]
    return rows.filter((row) => [...window.filters].every(([name, value]) => JSON.stringify(row[name as keyof ModelRow]) === value))
  }

  catalog(): Catalog {
    // Those that were there when the epoch began; a table that is watched later begins anew first.
    const touched = new Map(this.#founders.map(({ table: { id } }) => [id, { version: 0, born: 0 }]))
    for (const version of this.versions) {
      for (const tableId of version.touched) {
        touched.set(tableId, { version: version.number, born: version.reset.includes(tableId) ? version.number : touched.get(tableId)?.born ?? 0 })
      }
    }
    const leaps = this.versions.flatMap(({ number, leaptFrom }) => leaptFrom === null ? [] : [{ number, leaptFrom }])
    return { epoch: this.epoch, floor: this.floor, channels: this.channels, touched, head: this.head, leaps, replayedMs: null }
  }

  #push(number: number, changes: readonly LoggedChange[], { leaptFrom = null, isCarried = true }: { leaptFrom?: number | null; isCarried?: boolean } = {}): LoggedVersion {
    const version = {
      number, snapshot: `${number}:${number}:`, mintedAtMs: number, leaptFrom,
      reset: [...new Set(changes.filter(({ key }) => key === null).map(({ tableId }) => tableId))],
      touched: [...new Set(changes.map(({ tableId }) => tableId))], changes: isCarried ? changes : null,
    }
    this.#log.set(number, changes)
    this.#epochs.set(number, this.epoch)
    this.versions.push(version)
    this.#states.set(number, this.#tables)
    return version
  }

  /** As the log folds it: the last state of each key and all its old values, in the order of the last states. */
  folded(tableId: number, since: number, upTo: number): readonly LoggedChange[] {
    const changes = this.versions.filter(({ number }) => number > since && number <= upTo)
      .flatMap(({ number }) => this.#log.get(number) ?? []).filter((change) => change.tableId === tableId).sort(byOrder)
    return changes.filter((change, index) => !changes.slice(index + 1).some(({ key }) => key === change.key))
      .map((change) => ({ ...change, oldFilters: changes.filter(({ key }) => key === change.key).flatMap(({ oldFilters }) => oldFilters) }))
  }
}

/** Answers from the model; each kind of question can be held up or counted. */
export class ModelSource implements ChangeSource {
  readonly model: Model
  readonly asked = { catalog: 0, changes: 0, state: 0 }
  /** Awaited before each answer: a test's way to hold the database up. */
  gate: (kind: 'catalog' | 'changes' | 'state') => Promise<void> = () => Promise.resolve()

  constructor(model: Model) {
    this.model = model
  }

  /** What the database says is decided when it is asked; when it is heard, by the gate. */
  async readCatalog(): Promise<Catalog> {
    this.asked.catalog += 1
    const catalog = this.model.catalog()
    await this.gate('catalog')
    return catalog
  }

  async *readChanges({ since, version, tableId }: { since: number; version: number; tableId: number }): AsyncIterable<readonly LoggedChange[]> {
    this.asked.changes += 1
    await this.gate('changes')
    if (since < this.model.floor || !this.model.versions.some(({ number }) => number === version)) throw new RangeLost('not in the log')
    const changes = this.model.folded(tableId, since, version)
    // In batches, as through a cursor.
    for (let at = 0; at < changes.length; at += 2) yield await Promise.resolve(changes.slice(at, at + 2))
  }

  async *readRuns(range: { since: number; version: number; tableId: number }): AsyncIterable<string> {
    for await (const changes of this.readChanges(range)) {
      yield changes.map(({ key, newRow }) => newRow === null ? deletion(key ?? '') : upsert(key ?? '', newRow)).join(',')
    }
  }

  async openState(windows: readonly Window[]): Promise<StateReading> {
    this.asked.state += 1
    const { model } = this
    const version = model.head
    const read = new Map(windows.map((window) => [window, model.rowsAt(version, window).map((row) => [JSON.stringify({ id: row.id }), JSON.stringify(row, window.channel.columns.map(({ name }) => name))] as const)]))
    await this.gate('state')
    return {
      version, later: new Map(),
      // eslint-disable-next-line @typescript-eslint/require-await -- as the interface has it
      async *rows(window) { yield read.get(window) ?? [] },
      runs: () => Promise.resolve(null),
      close: () => Promise.resolve(),
    }
  }

  castFilter(_column: ColumnDefinition, value: string): Promise<string> {
    return Promise.resolve(JSON.stringify(Number(value)))
  }
}
