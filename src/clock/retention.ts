/**
 * Keeps the log bounded. Two plain tables take turns: when the one in use is old or large enough, the other is emptied and
 * becomes the one in use. Promise: nothing waits for it; what an open transaction could have written is not emptied; the
 * floor is raised, and committed, before anything goes.
 */
import type { PoolClient } from 'pg'
import { sqlState, withClient, type Pool } from '../database/pool.ts'

export interface RetentionOptions {
  readonly pool: Pool
  /** A change is kept at least this long, at most about twice. */
  readonly keepMs: number
  /** A log table larger than this is left at once. */
  readonly maxBytes: number
}

const DUE = `
select pg_sequence_last_value('freshet.slot')::int as slot,
  extract(epoch from clock_timestamp() - turned_at) * 1000 > $1::float8 or pg_relation_size(
    case when pg_sequence_last_value('freshet.slot') = 0 then 'freshet.changes_0'::regclass else 'freshet.changes_1'::regclass end) > $2::float8 as due,
  turn_fence is null or pg_snapshot_xmin(pg_current_snapshot()) > turn_fence as may_empty
from freshet.state`

/** The newest version that does not see all of the table to be emptied; versions above it need nothing of it. */
const raiseFloor = (table: string): string => `
update freshet.state set floor = greatest(floor, coalesce((
  select number + 1 from freshet.versions
  where exists (select from ${table} where xid >= pg_snapshot_xmin(snapshot) and not pg_visible_in_snapshot(xid, snapshot))
  order by number desc limit 1), 0))`

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
    const { rows: [state] } = await client.query<{ slot: number; due: boolean; may_empty: boolean }>(DUE, [keepMs, maxBytes])
    if (state?.due !== true || !state.may_empty) return false
    const idle = 1 - state.slot
    await rememberTouched(client)
    await client.query(raiseFloor(`freshet.changes_${idle}`))
    await client.query(`delete from freshet.versions where number < (select floor from freshet.state) and leapt_from is null
      and number < (select max(number) from freshet.versions)`)
    if (!await emptied(client, idle)) return false
    await client.query(`select setval('freshet.slot', $1)`, [idle])
    // Every writer that read the old slot has an id below one taken after the switch committed.
    await client.query('update freshet.state set turned_at = clock_timestamp(), turn_fence = pg_current_xact_id()')
    return true
  })
}

async function emptied(client: PoolClient, slot: number): Promise<boolean> {
  try {
    await client.query(`set lock_timeout = '200ms'`)
    await client.query(`truncate freshet.changes_${slot}`)
    return true
  } catch (error) {
    // A reader is in it; the next round tries again.
    if (sqlState(error) === '55P03') return false
    throw error
  } finally {
    await client.query(`set lock_timeout = '2s'`)
  }
}
