/**
 * The SQL on the log and its versions, all of it. Snapshots decide: a change belongs to the first version whose
 * snapshot sees its transaction. Promise: every statement is one snapshot, so what it returns existed together.
 */
import type { FoldedChange, LoggedChange, LoggedVersion } from '../contract/change.ts'
import type { Connection } from '../database/pool.ts'

/** Above either, a version is not carried along but read from the log by whoever needs it. */
const MAX_CARRIED_CHANGES = 5_000
const MAX_CARRIED_BYTES = 4 * 1024 * 1024

/** The transactions that a snapshot does not see: all from xmax on, and those in progress below it. */
export interface SnapshotBounds {
  readonly xmin: string
  readonly xmax: string
  readonly inProgress: readonly string[]
}

/** What comes before the first version: 3 is the first ordinary transaction id. */
export const SEES_NOTHING = '3:3:'

/** Takes `xmin:xmax:xip,xip` apart. Transaction ids stay text: they are 64 bits wide. */
export function parseSnapshot(snapshot: string): SnapshotBounds {
  const [xmin = '', xmax = '', inProgress = ''] = snapshot.split(':')
  return { xmin, xmax, inProgress: inProgress === '' ? [] : inProgress.split(',') }
}

/**
 * Changes that this statement's snapshot sees and the given one does not. The ids in progress are first narrowed to
 * those that have ended: the rows of an open bulk transaction are not walked again and again.
 */
const unseen = `(xid >= $1::xid8 or xid = any ((select array(select id from unnest($2::xid8[]) id where pg_visible_in_snapshot(id, pg_current_snapshot())))::xid8[]))`

/** How much memory the rows of a query take, bytes. */
const BYTES = `coalesce(sum(coalesce(octet_length(new_row), 0) + coalesce(octet_length(key), 0) + coalesce(octet_length(old_filters::text), 0)), 0)`

/** Between changes, and between what a change is made of, in a text of them: no text that PostgreSQL renders as JSON has them. */
const CHANGE_SEPARATOR = '\x1e'
const FIELD_SEPARATOR = '\x1f'
const BETWEEN_CHANGES = `e'\\x1e'`
const BETWEEN_FIELDS = `e'\\x1f'`

/**
 * The order of the log. Transactions that ran side by side may have read the same place in the WAL, and so do all rows of one statement: then
 * the transaction, then the key. Whoever folds in memory has the same order, of which `fromLines` makes one number (the rows of a
 * statement come in order).
 */
const ORDER = 'lsn, xid, key'

/** The rows of `name` in the order of the log, as one text: row by row they cost both sides several times as much. See `fromLines`. */
const lines = (name: string, oldFilters = 'old_filters'): string => `
(select string_agg(concat_ws(${BETWEEN_FIELDS}, lsn, xid, table_id, coalesce(key, ''), coalesce(new_row, ''), ${oldFilters}), ${BETWEEN_CHANGES} order by ${ORDER}) from ${name})`

/** Whether the rows of a query are few and small enough to be carried along. */
const CARRIED = `count(*) <= ${MAX_CARRIED_CHANGES} and ${BYTES} <= ${MAX_CARRIED_BYTES} as carried`

/**
 * Capture found the lease of service run out and wrote nothing, perhaps in the middle of a transaction. Asked behind the snapshot, which sees only
 * transactions that had said so by then: no part of one is ever numbered.
 */
const IS_GIVEN_UP = `coalesce(pg_sequence_last_value('freshet.abandoned_after') <= 1, false)`

/** Numbers $3 and announces what `summary` sums up: `changes`, `touched` and `reset`. */
const minted = (condition: string): string => `
insert into freshet.versions (number, snapshot, leapt_from, touched, reset, changes)
select $3::bigint, pg_current_snapshot(), $5::bigint, coalesce(touched, '{}'), coalesce(reset, '{}'), changes from summary where (changes > 0 or $4::boolean)${condition} and not ${IS_GIVEN_UP}
returning number, minted_at, leapt_from, touched, reset, pg_notify('freshet', 'version')`

const VERSION = `pg_current_snapshot()::text as snapshot, minted.number, extract(epoch from minted.minted_at) * 1000 as minted_at_ms, minted.leapt_from,
  minted.touched, minted.reset, ${IS_GIVEN_UP} as is_given_up`

/**
 * Reads what is new since the bounds ($1, $2) and, if there is anything or $4 forces it (a leap from $5), numbers it $3 and announces it.
 * Numbers nothing where there is too much for one reading: see MINT_MANY.
 */
const MINT = {
  name: 'freshet-mint',
  text: `
with fresh as materialized (
  select lsn, xid, table_id, kind, key, new_row, old_filters from freshet.changes where ${unseen} limit ${MAX_CARRIED_CHANGES + 1}
), summary as materialized (
  select count(*) as changes, ${CARRIED},
    array_agg(distinct table_id) as touched, array_agg(distinct table_id) filter (where kind = 'r') as reset
  from fresh
), minted as (${minted(` and changes <= ${MAX_CARRIED_CHANGES}`)}
)
select ${VERSION}, changes > ${MAX_CARRIED_CHANGES} as exceeds, carried, case when carried then ${lines('fresh')} end as lines
from summary left join minted on true`,
}

/** As MINT, for any number of changes, of which it carries none. */
const MINT_MANY = {
  name: 'freshet-mint-many',
  text: `
with tables as (
  select table_id, count(*) as changes, bool_or(kind = 'r') as starts_anew from freshet.changes where ${unseen} group by table_id
), summary as materialized (
  select coalesce(sum(changes), 0) as changes, array_agg(table_id) as touched, array_agg(table_id) filter (where starts_anew) as reset from tables
), minted as (${minted('')}
)
select ${VERSION}, false as exceeds, false as carried, null as lines from summary left join minted on true`,
}

export interface VersionRow {
  readonly snapshot: string
  readonly number: string | null
  readonly minted_at_ms: string | null
  readonly leapt_from: string | null
  readonly touched: number[] | null
  readonly reset: number[] | null
}

interface MintedRow extends VersionRow {
  /** There is too much for one reading, and nothing was numbered. */
  readonly exceeds: boolean
  readonly is_given_up: boolean
  readonly carried: boolean
  readonly lines: string | null
}

/** What the reading of a mint found. */
export interface Minted {
  /** As this reading saw it: the bounds of the next. */
  readonly bounds: SnapshotBounds
  /** Null: there was nothing to number. */
  readonly version: LoggedVersion | null
}

/** Something may not have been captured: what the log has is numbered no more. */
export class Lapsed extends Error {
  override readonly name = 'Lapsed'

  constructor() {
    super('the lease of service had run out, so that something may not have been captured: a new epoch begins')
  }
}

/**
 * Numbers what is new since the bounds; with `leaptFrom` there is a version in any case, a leap from that one. Rejects when the database is away,
 * and with Lapsed.
 */
export async function mint(client: Pick<Connection, 'query'>, { bounds, number, leaptFrom }: {
  readonly bounds: SnapshotBounds; readonly number: number; readonly leaptFrom: number | null
}): Promise<Minted> {
  const values = [bounds.xmax, bounds.inProgress, number, leaptFrom !== null, leaptFrom]
  let { rows: [row] } = await client.query<MintedRow>({ ...MINT, values })
  if (row?.exceeds === true) ({ rows: [row] } = await client.query<MintedRow>({ ...MINT_MANY, values }))
  if (row === undefined) throw new Error('the mint returned no row')
  if (row.number === null && row.is_given_up) throw new Lapsed()
  return { bounds: parseSnapshot(row.snapshot), version: toVersion(row) }
}

/** Null when nothing was minted. */
function toVersion({ carried, lines: text, ...row }: MintedRow): LoggedVersion | null {
  if (row.number === null) return null
  return {
    number: Number(row.number),
    snapshot: row.snapshot,
    mintedAtMs: Number(row.minted_at_ms),
    leaptFrom: row.leapt_from === null ? null : Number(row.leapt_from),
    touched: row.touched ?? [],
    reset: row.reset ?? [],
    changes: carried ? fromLines(text) : null,
  }
}

/** What a text of `lines` tells of. Null: of nothing. */
export function fromLines(text: string | null): readonly LoggedChange[] {
  return text === null ? [] : text.split(CHANGE_SEPARATOR).map((line) => {
    const [lsn = '', xid = '', tableId, key, newRow, ...oldFilters] = line.split(FIELD_SEPARATOR)
    return { order: toOrder(lsn, xid), tableId: Number(tableId), key: orNull(key), newRow: orNull(newRow), oldFilters }
  })
}

/** `lsn` is two numbers of 32 bits, in hexadecimal digits and without leading zeros. */
function toOrder(lsn: string, xid: string): bigint {
  const slash = lsn.indexOf('/')
  return BigInt(`0x${lsn.slice(0, slash)}${lsn.slice(slash + 1).padStart(8, '0')}`) << 64n | BigInt(xid)
}

function orNull(text: string | undefined): string | null {
  return text === undefined || text === '' ? null : text
}

/** The newest version; a new leader begins after it. */
export const LAST_VERSION = `select number, snapshot::text from freshet.versions order by number desc limit 1`

/** Versions above $1, oldest first; whether $1 itself is still known (a crash may have taken it), and whether there are changes in no version. */
export const VERSIONS_AFTER = {
  name: 'freshet-versions-after',
  text: `
select state.epoch, exists (select from freshet.versions where number = $1::bigint) as known, unnumbered,
  previous.snapshot::text as previous_snapshot, versions.number, versions.snapshot::text, extract(epoch from versions.minted_at) * 1000 as minted_at_ms,
  versions.leapt_from, versions.touched, versions.reset, versions.changes
from freshet.state
cross join lateral (select exists (
  select from freshet.changes where xid >= (select pg_snapshot_xmax(snapshot) from freshet.versions order by number desc limit 1)) as unnumbered) log
left join lateral (select * from freshet.versions where number > $1::bigint order by number limit 100) versions on true
left join lateral (select snapshot from freshet.versions earlier where earlier.number < versions.number order by earlier.number desc limit 1) previous on true
order by versions.number`,
}

/** Unseen below the bounds ($1, $2), seen by the snapshot $3; its xmax ends the walk through the index. */
const between = `(xid >= $1::xid8 or xid = any ($2::xid8[])) and xid < pg_snapshot_xmax($3::text::pg_snapshot) and pg_visible_in_snapshot(xid, $3::text::pg_snapshot)`

/** Changes between two snapshots: a text of `lines`, null where there are none, or they are too many or too large to be carried. */
export const CHANGES_BETWEEN = {
  name: 'freshet-changes-between',
  text: `
with between as materialized (
  select lsn, xid, table_id, key, new_row, old_filters from freshet.changes
  where ${between} limit ${MAX_CARRIED_CHANGES + 1}
), size as (select ${CARRIED} from between)
select case when carried then ${lines('between')} end as lines from size`,
}

/**
 * The last state of each key and all its old filter values, between two snapshots. The keys are grouped first and by hash, without
 * the rows: only those that remain are sorted (a third less time than a window over the rows). Changes of several keys and tables share
 * their place in the log.
 */
const folded = (lines: string): string => `
select lsn, xid, table_id, key, new_row, last.old_filters from freshet.changes join (
  select table_id as of_table, coalesce(key, '') as of_key, max(lsn) as at_lsn, array_agg(old_filters) filter (where old_filters is not null) as old_filters from (
    select table_id, key, old_filters, max(lsn) as lsn from freshet.changes where ${between} and ${lines} group by table_id, key, old_filters
  ) by_filters group by table_id, key
) last on at_lsn = lsn and of_key = coalesce(key, '') and of_table = table_id
where ${between} and ${lines}`

/** A run is about so long: rows one by one cost a reader several times as much as their text. */
const RUN_BYTES = 65_536
/** What each change counts for at least: less than a thousand make a run, as they may make a part. */
const CHANGE_BYTES = 66

/** The changes of `folded` in runs, each a text, in the order of the last states; null: one of them is larger than $5 bytes. */
const inRuns = (folded: string, change: string, separator: string, bytes = 'coalesce(octet_length(new_row), 0)'): string => `
select case when bool_and(is_fit) then string_agg(${change}, ${separator} order by ${ORDER}) filter (where is_fit) end as changes from (
  select *, ${bytes} <= $5::bigint as is_fit,
    sum(${CHANGE_BYTES} + octet_length(key) + coalesce(octet_length(new_row), 0)) over (order by ${ORDER} rows unbounded preceding) / ${RUN_BYTES} as run
  from (${folded}) folded
) in_runs group by run order by run`

const IN_FIELDS = `key || ${BETWEEN_FIELDS} || coalesce(new_row, '')`

/** The changes of table $4, folded. */
export const FOLDED_CHANGES = inRuns(folded(`table_id = $4::int and kind = 'c'`), `${IN_FIELDS} || coalesce(${BETWEEN_FIELDS} || array_to_string(old_filters, ${BETWEEN_FIELDS}), '')`, BETWEEN_CHANGES,
  'coalesce(octet_length(new_row), 0) + coalesce(pg_column_size(old_filters), 0)')

/**
 * Without the old filter values, sorting all changes takes two thirds of the time of grouping and joining, up to a million of them; beyond,
 * it is slower, on disk.
 */
const sorted = `
select distinct on (key) lsn, xid, key, new_row from freshet.changes where ${between} and table_id = $4::int and kind = 'c' order by key, lsn desc`

/** As FOLDED_CHANGES, without the old filter values. */
export const FOLDED_ROWS = inRuns(sorted, IN_FIELDS, BETWEEN_CHANGES)

/** As FOLDED_ROWS, but each run is text of the contract: the inside of a `changes` array. */
export const FOLDED_RUNS = inRuns(sorted,
  `case when new_row is null then '{"op":"delete","key":' || key || '}' else '{"op":"upsert","key":' || key || ',"row":' || new_row || '}' end`, `','`)

/** What a run of FOLDED_CHANGES or FOLDED_ROWS tells of. */
export function fromRun(run: string): readonly FoldedChange[] {
  return run.split(CHANGE_SEPARATOR).map((change) => {
    const [key = '', newRow, ...oldFilters] = change.split(FIELD_SEPARATOR)
    return { key, newRow: orNull(newRow), oldFilters }
  })
}

/** The changes of tables $4 by others than the transactions $5, folded, and whether they start anew: a text of `lines`; or `carried` false: too many or too large. */
export const LATER_CHANGES = `
with later as materialized (${folded(`table_id = any ($4::int[]) and kind in ('c', 'r') and xid <> all ($5::xid8[])`)} limit ${MAX_CARRIED_CHANGES + 1}), size as (select ${CARRIED} from later)
select carried, case when carried then ${lines('later', `array_to_string(old_filters, ${BETWEEN_FIELDS})`)} end as lines from size`

/** What a reader of the range ($1, $2] needs; no row: one of them is unknown or below the floor. Ask again after reading. */
export const RANGE_SNAPSHOTS = `
select since.snapshot::text as since, version.snapshot::text as version
from freshet.state, freshet.versions since, freshet.versions version
where since.number = (select max(number) from freshet.versions where number <= $1::bigint) and version.number = $2::bigint and $1::bigint >= state.floor`
