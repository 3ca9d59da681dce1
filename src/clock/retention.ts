/**
 * Keeps the log bounded. Two plain tables take turns: when the one in use is old or large enough, the other is emptied and
 * becomes the one in use. Promise: nothing waits for it; only what a version has numbered, and no cursor above the floor needs, is
 * emptied; the floor is raised, and committed, before anything goes.
 */
import { sqlState, withClient, type Pool, type PoolClient } from '../database/pool.ts'

export interface RetentionOptions {
  readonly pool: Pool
  /** A change is kept at least this long, at most about twice. */
  readonly keepMs: number
  /** A log table larger than this, with its index and what is too long for its lines, is left at once. */
  readonly maxBytes: number
}

/** What a version costs in the table of versions, about. Versions since the last turn count too: their numbers have no gap but the leaps. */
const VERSION_BYTES = 150
/** So many versions go in one statement. */
const VERSIONS_A_ROUND = 200_000

/** Later than now is as good as long ago: the clock of the machine was ahead. */
const DUE = `
select 1 - pg_sequence_last_value('freshet.slot')::int as idle,
  extract(epoch from clock_timestamp() - turned_at) * 1000 not between 0 and $1::float8
    or pg_total_relation_size(case when pg_sequence_last_value('freshet.slot') = 0 then 'freshet.changes_0'::regclass else 'freshet.changes_1'::regclass end) > $2::float8
    or ((select max(number) from freshet.versions) - greatest(turned_version, (select max(number) from freshet.versions where leapt_from is not null)))
      * ${VERSION_BYTES} > $2::float8 as due
from freshet.state`

/** Whether `version` sees every row of a log table; then no version after it needs any of them. */
const seesAll = (table: string): string =>
  `not exists (select from ${table} where xid >= pg_snapshot_xmin(version.snapshot) and not pg_visible_in_snapshot(xid, version.snapshot))`

/** The first version that sees all of the table to be emptied. What one version sees, the next sees too: half of the range goes in each step. */
const raiseFloor = (table: string): string => `
with recursive search (low, high) as (
  select floor, (select max(number) from freshet.versions) from freshet.state
  union all
  select case when sees_all then low else number + 1 end, case when sees_all then (low + high) / 2 else high end
  from search cross join lateral (
    select number, ${seesAll(table)} as sees_all from freshet.versions version where number >= (low + high) / 2 order by number limit 1) middle
  where low < high
)
update freshet.state set floor = greatest(floor, (select max(low) from search))
from (select snapshot from freshet.versions order by number desc limit 1) version
where ${seesAll(table)}`

/** Whether the version at the floor sees all of the table, also what was committed since the floor was found; and nobody else has turned to it meanwhile. */
const mayEmpty = (table: string, slot: number): string => `
select pg_sequence_last_value('freshet.slot') <> ${slot} and coalesce((
  select ${seesAll(table)} from freshet.versions version
  where number >= (select floor from freshet.state) order by number limit 1), false) as may_empty`

const FORGET_VERSIONS = `
delete from freshet.versions where number in (
  select number from freshet.versions
  where number < (select floor from freshet.state) and leapt_from is null and number < (select max(number) from freshet.versions)
  order by number limit ${VERSIONS_A_ROUND})`

const REMEMBER_TOUCHED = `
insert into freshet.touched (table_id, version, born)
select table_id, max(number), coalesce(max(number) filter (where table_id = any (reset)), 0)
from freshet.versions, unnest(touched) table_id, freshet.state where number > state.touched_at group by table_id
on conflict (table_id) do update set version = greatest(touched.version, excluded.version), born = greatest(touched.born, excluded.born)`

/** Saves what each table was last touched by, up to now: what a starting node must not have to count. */
export async function rememberTouched(client: PoolClient): Promise<void> {
  await client.query('begin isolation level repeatable read')
  try {
    await client.query(REMEMBER_TOUCHED)
    await client.query('update freshet.state set touched_at = coalesce((select max(number) from freshet.versions), touched_at)')
    await client.query('commit')
  } catch (error) {
    await client.query('rollback')
    throw error
  }
}

/** Turns the log to its other table when that is due and possible; true if it did. */
export async function turnLog({ pool, keepMs, maxBytes }: RetentionOptions): Promise<boolean> {
  return withClient(pool, async (client) => {
    const { rows: [state] } = await client.query<{ idle: number; due: boolean }>(DUE, [keepMs, maxBytes])
    if (state?.due !== true) return false
    const table = `freshet.changes_${state.idle}`
    await rememberTouched(client)
    await client.query(raiseFloor(table))
    if (!await emptied(client, table, state.idle)) return false
    await client.query(`select setval('freshet.slot', $1)`, [state.idle])
    await client.query('update freshet.state set turned_at = clock_timestamp(), turn_fence = pg_current_xact_id(), turned_version = coalesce((select max(number) from freshet.versions), 0)')
    return true
  })
}

/** Drops versions below the floor, some at a time; leaps are kept for ever. */
export async function forgetVersions(pool: Pool): Promise<void> {
  await pool.query(FORGET_VERSIONS)
}

/**
 * Under its lock nobody writes the table or has written it and is still open: what is there is committed. A writer who
 * was told to use this table and has not begun finds it empty, and in use again.
 */
async function emptied(client: PoolClient, table: string, slot: number): Promise<boolean> {
  await client.query('begin')
  try {
    await client.query(`set local lock_timeout = '100ms'`)
    await client.query(`lock table ${table} in access exclusive mode`)
    const { rows: [checked] } = await client.query<{ may_empty: boolean }>(mayEmpty(table, slot))
    if (checked?.may_empty === true) await client.query(`truncate ${table}`)
    await client.query('commit')
    return checked?.may_empty === true
  } catch (error) {
    await client.query('rollback')
    // A reader is in it, or an open writer was; the next round tries again.
    if (sqlState(error) === '55P03') return false
    throw error
  }
}
