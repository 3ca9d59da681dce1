/**
 * What travels between the stages of the server: definitions, logged changes, versions, and the source
 * that the hub asks for what it does not hold. Shapes only; the SQL behind them is the clock's.
 */

/** One line of the log. `key` null: the whole table starts anew, and `newRow` says why. */
export interface LoggedChange {
  /** Where it stands in the log: greater is later. For one key it is the order of commits; the changes of one statement may share it. */
  readonly order: bigint
  readonly tableId: number
  /** The key as JSON: the identity of the row. */
  readonly key: string | null
  /** The captured columns as JSON; null: the key is gone. */
  readonly newRow: string | null
  /** The filter columns before the change, as JSON, and, folded, before any of the changes; none: nothing was there. */
  readonly oldFilters: readonly string[]
}

/** The last state of a key after several changes. */
export type FoldedChange = Pick<LoggedChange, 'key' | 'newRow' | 'oldFilters'>

/** One numbered snapshot, with what it sees and its predecessor did not. */
export interface LoggedVersion {
  readonly number: number
  /** `pg_snapshot` as text. */
  readonly snapshot: string
  /** When the clock numbered it, ms since 1970 on the clock of the database. */
  readonly mintedAtMs: number
  /** Set on the first version of a leader: the number before the leap. */
  readonly leaptFrom: number | null
  /** Tables with changes, and those of them that start anew. */
  readonly touched: readonly number[]
  readonly reset: readonly number[]
  /** In the order of the log; null: too large to hold, read it from the log. */
  readonly changes: readonly LoggedChange[] | null
}

/** How a column's JSON, as it is captured and read, must be rewritten to say its value exactly. */
export type Conversion = 'none' | 'quote-numbers' | 'base64'

export interface ColumnDefinition {
  readonly name: string
  /** As PostgreSQL writes it: `character varying(20)`. */
  readonly type: string
  readonly nullable: boolean
  readonly conversion: Conversion
  /** Whether it is captured, and read for a state, as its text: numbers that JSON would not keep. */
  readonly isText: boolean
  /** Whether the log has it. */
  readonly isCaptured: boolean
  /** The type, without length or scale, in which values of a filter are compared with it; null: nothing of its type can be compared. */
  readonly comparedAs: string | null
  /** Whether `comparedAs` is an enumeration, a type of the host's, to which nothing may be cast. */
  readonly isEnum: boolean
  /** The number of its type. */
  readonly typeId: number
  /** How its value is written in SQL, of `t`, and its JSON in a key, of `published`; null: as any other's. */
  readonly rendering: string | null
  readonly keyed: string | null
}

export interface TableDefinition {
  readonly id: number
  /** Schema-qualified and quoted, ready for SQL. */
  readonly name: string
  readonly isPartitioned: boolean
  readonly keyColumns: readonly string[]
  /** Every column, in the order of the table. */
  readonly columns: readonly ColumnDefinition[]
  /** Why it cannot be served, if so. */
  readonly parked: string | null
}

export interface ChannelDefinition {
  readonly name: string
  readonly table: TableDefinition
  /** Published columns, in the order of the table. */
  readonly columns: readonly ColumnDefinition[]
  readonly filters: readonly string[]
  readonly isPublic: boolean
}

/** Everything a node must know before it can answer. */
export interface Catalog {
  readonly epoch: string
  /** Oldest version whose successors are all in the log. */
  readonly floor: number
  readonly channels: readonly ChannelDefinition[]
  /** Per table id, the last version that touched it and the last that reset it. */
  readonly touched: ReadonlyMap<number, { readonly version: number; readonly born: number }>
  /** The newest version. */
  readonly head: number
  /** Issued numbers run without a gap from each leap to the `leaptFrom` of the next, or to the head. */
  readonly leaps: readonly { readonly number: number; readonly leaptFrom: number }[]
  /** On a standby: when the newest of the commits that are here was made, at least, ms since 1970. Null: a primary, where nothing is missing. */
  readonly replayedMs: number | null
}

/** Equality conditions by column, values as JSON in their one canonical form. */
export type CanonicalFilters = ReadonlyMap<string, string>

/** One channel seen through its filters. */
export interface Window {
  readonly channel: ChannelDefinition
  readonly filters: CanonicalFilters
}

/** A row of a state as JSON, and its key: the published columns. */
export type StateRow = readonly [key: string, row: string]

/** The rows of some windows at one version. */
export interface StateReading {
  readonly version: number
  /** Batches, window by window, in the order asked. */
  rows(window: Window): AsyncIterable<readonly StateRow[]>
  /** The same as runs of upserts, up to a thousand in each, where PostgreSQL can write them down by itself; else null. */
  runs(window: Window): Promise<AsyncIterable<string> | null>
  /** What happened between the rows and `version`: the last state of each key, by the key's JSON. */
  readonly later: ReadonlyMap<number, ReadonlyMap<string, LoggedChange>>
  close(): Promise<void>
}

/** The log or the table does not hold what a reader needs: its only way on is a reset, or another try at one. */
export class RangeLost extends Error {
  override readonly name = 'RangeLost'
}

/** The changes of one table in (since, version]. */
export interface ChangeRange {
  readonly since: number
  readonly version: number
  readonly tableId: number
  /** Whether the reader looks at old filter values; else there are none. */
  readonly isFiltered: boolean
}

/** Where the hub reads what it does not remember. Every method may reject when the database is away. */
export interface ChangeSource {
  readCatalog(): Promise<Catalog>
  /** The changes of one table in a range, folded by key, oldest first. Rejects with RangeLost if the log no longer has them all. */
  readChanges(range: ChangeRange): AsyncIterable<readonly FoldedChange[]>
  /** The same as runs of changes, up to a thousand in each, as the log's rows are: for channels that publish all of them. */
  readRuns(range: Omit<ChangeRange, 'isFiltered'>): AsyncIterable<string>
  /** Opens a state of all windows at one version; `versionAfter` resolves to the newest version once it is above its argument. */
  openState(windows: readonly Window[], versionAfter: (number: number) => Promise<number>): Promise<StateReading>
  /** The JSON of a filter value, as its column compares it; throws ApiError invalid_filter when it does not cast. */
  castFilter(column: ColumnDefinition, value: string): Promise<string>
}
