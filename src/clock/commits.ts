/**
 * When each channel was changed lately, out of the versions: what a node that starts must know of the past to advise as the one
 * before it did, and as its neighbours do. Bounded, however busy the past was.
 */
import type { Pool } from '../database/pool.ts'

/** Versions looked at, commits of one channel, and commits in all. */
const MAX_VERSIONS = 20_000
const MAX_A_CHANNEL = 400
const MAX_COMMITS = 4_000

const RECENT_COMMITS = `
with recent as (
  select number, minted_at, touched from freshet.versions order by number desc limit $1
), commits as (
  select channels.name, number, extract(epoch from statement_timestamp() - minted_at) * 1000 as age_ms,
    row_number() over (partition by channels.name order by number desc) as place
  from recent, unnest(touched) touched_id join freshet.channels on channels.table_id = touched_id
)
select name, age_ms from (select * from commits where place <= $2 order by place limit $3) newest order by number, name`

export interface RecentCommit {
  readonly channel: string
  /** On the clock of the database, whatever the time is here. */
  readonly ageMs: number
}

/** Oldest first. */
export async function readRecentCommits(pool: Pool): Promise<readonly RecentCommit[]> {
  const { rows } = await pool.query<{ name: string; age_ms: string }>(RECENT_COMMITS, [MAX_VERSIONS, MAX_A_CHANNEL, MAX_COMMITS])
  return rows.map(({ name, age_ms }) => ({ channel: name, ageMs: Math.max(0, Number(age_ms)) }))
}
