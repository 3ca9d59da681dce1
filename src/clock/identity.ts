/**
 * The epoch: whose numbers these are. Renewed whenever they could lie: another cluster, timeline or database (a restore, a
 * promotion, a copy), or a log that nobody served for so long that capture stopped.
 * Promise: a new epoch begins with an empty log, since the transaction ids of another cluster would match for ever.
 */
import { sqlState, type Connection } from '../database/pool.ts'

const IDENTITY = `
select concat_ws('/', (select system_identifier from pg_control_system()), left(pg_walfile_name(pg_current_wal_lsn()), 8),
    (select oid from pg_database where datname = current_database())) as identity,
  state.identity as known,
  pg_sequence_last_value('freshet.abandoned_after') < extract(epoch from clock_timestamp()) * 1000 as abandoned
from freshet.state`

/** How long capture goes on when no server renews it, ms. */
const ABANDONED_AFTER_MS = 24 * 3_600_000

export const RENEW_SERVICE = `select setval('freshet.abandoned_after', (extract(epoch from clock_timestamp()) * 1000)::bigint + ${ABANDONED_AFTER_MS})`

/** On the connection that holds the lock: starts a new epoch where the numbers of the old one could lie. */
export async function renewIdentity(connection: Connection): Promise<void> {
  const { rows: [found] } = await connection.query<{ identity: string; known: string | null; abandoned: boolean }>(IDENTITY)
  if (found === undefined) throw new Error('freshet.state is empty')
  if (found.known !== found.identity || found.abandoned) {
    // A log without an identity was never served: it is only named.
    if (found.known !== null) await emptyLog(connection)
    await connection.query(`update freshet.state set identity = $1, epoch = substr(md5(gen_random_uuid()::text), 1, 6), floor = 0, touched_at = 0`, [found.identity])
  }
  await connection.query(RENEW_SERVICE)
}

/** TRUNCATE is quick, but an open writer holds it back; then what has been committed is deleted, which waits for nobody. */
async function emptyLog(connection: Connection): Promise<void> {
  try {
    await connection.query(`set lock_timeout = '200ms'`)
    await connection.query('truncate freshet.changes_0, freshet.changes_1, freshet.versions, freshet.touched')
  } catch (error) {
    if (sqlState(error) !== '55P03') throw error
    await connection.query(`set statement_timeout = 0`)
    await connection.query('delete from freshet.changes_0; delete from freshet.changes_1; delete from freshet.versions; delete from freshet.touched')
    await connection.query(`set statement_timeout = '60s'`)
  } finally {
    await connection.query(`set lock_timeout = '2s'`)
  }
}
