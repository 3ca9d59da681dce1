/**
 * The epoch: whose numbers these are. Renewed whenever they could lie: another cluster, timeline or database (a restore, a
 * promotion, a copy), or a log that nobody served for so long that capture stopped.
 * The lease of service says that somebody serves; past it capture stops. Nobody renews it without having seen that it had not run out.
 * Promise: a new epoch begins with an empty log, since the transaction ids of another cluster would match for ever; what was
 * written while capture stopped is never missed, also by a transaction that is still open.
 */
import { sqlState, type Connection } from '../database/pool.ts'

const IDENTITY = `
select concat_ws('/', (select system_identifier from pg_control_system()), left(pg_walfile_name(pg_current_wal_lsn()), 8),
    (select oid from pg_database where datname = current_database())) as identity,
  state.identity as known
from freshet.state`

/** How long capture goes on when no server renews it, ms. */
const ABANDONED_AFTER_MS = 24 * 3_600_000

/** As capture reads it. */
const NOW_MS = `1000 * date_part('epoch', clock_timestamp())`
const EXTEND = `setval('freshet.abandoned_after', (${NOW_MS})::bigint + ${ABANDONED_AFTER_MS})`

const BEGIN_SERVICE = `select ${EXTEND}`

/**
 * Looked at before it is extended and once more behind that, by when no capture can find the old lease any more. If it ran out in between, it is
 * given up (1), so that the next who looks finds that, even if it is not us. Capture gives it up in the same way when it finds it run out:
 * a clock that was ahead for a while and has gone back must not hide it.
 */
const RENEW_SERVICE = `
with lease as materialized (
  select pg_sequence_last_value('freshet.abandoned_after') as until
), extended as materialized (
  select until, ${EXTEND} as extended_until from lease where until >= ${NOW_MS}
)
select coalesce((select case when until >= ${NOW_MS} then extended_until > 0 else setval('freshet.abandoned_after', 1) = 0 end from extended), false) as is_served`

/** Renews the lease of service. False: it had run out, capture may have stopped meanwhile, and only a new epoch is true. */
export async function renewService(client: Pick<Connection, 'query'>): Promise<boolean> {
  const { rows: [lease] } = await client.query<{ is_served: boolean }>(RENEW_SERVICE)
  return lease?.is_served === true
}

/** Stands behind the identity until nobody is left who may have written without being captured: no leader may take it for whole. */
const RESUMING = ' resuming'

/**
 * On the connection that holds the lock: starts a new epoch where the numbers of the old one could lie. Returns a transaction id
 * while writers older than it are open, whose changes nobody captured; when they have ended, call `resumeCapture`.
 */
export async function renewIdentity(connection: Connection): Promise<bigint | null> {
  const { rows: [found] } = await connection.query<{ identity: string; known: string | null }>(IDENTITY)
  if (found === undefined) throw new Error('freshet.state is empty')
  const isServed = await renewService(connection)
  if (found.known === found.identity && isServed) return null
  // Said before capture goes on: if we die on the way, the next leader must not find everything in order.
  await connection.query('update freshet.state set identity = $1', [found.identity + RESUMING])
  await connection.query(BEGIN_SERVICE)
  const { rows: [fence] } = await connection.query<{ id: string }>('select pg_current_xact_id()::text as id')
  // A log without an identity was never served: it is only named.
  if (found.known !== null) await emptyLog(connection)
  // Every table has a version that it begins at, here the first of the epoch; one that is watched from now on has none until it is numbered.
  // With the epoch at once: a node that loads in between would wait for the beginning of each until something is written to it.
  await connection.query(`
    update freshet.state set epoch = substr(md5(gen_random_uuid()::text), 1, 6), floor = 0, touched_at = 0, turned_version = 0;
    insert into freshet.touched (table_id, version, born) select id, 0, 0 from freshet.tables on conflict do nothing`)
  const isWhole = isServed && found.known?.endsWith(RESUMING) !== true
  const { rows: [oldest] } = await connection.query<{ id: string }>('select pg_snapshot_xmin(pg_current_snapshot())::text as id')
  if (!isWhole && BigInt(oldest?.id ?? 0) <= BigInt(fence?.id ?? 0)) return BigInt(fence?.id ?? 0)
  await connection.query('update freshet.state set identity = $1', [found.identity])
  return null
}

/** Nobody is left who wrote without being captured: every table starts anew, and the identity is whole. */
export async function resumeCapture(connection: Connection): Promise<void> {
  await connection.query(`
    select freshet.mark(id, 'resumed') from freshet.tables;
    update freshet.state set identity = replace(identity, '${RESUMING}', '')`)
}

/** TRUNCATE is quick, but an open writer holds it back; then what has been committed is deleted, which waits for nobody. */
async function emptyLog(connection: Connection): Promise<void> {
  try {
    await connection.query(`set lock_timeout = '200ms'`)
    await connection.query('truncate freshet.changes_0, freshet.changes_1, freshet.versions, freshet.touched')
  } catch (error) {
    if (sqlState(error) !== '55P03') throw error
    await connection.query('delete from freshet.changes_0; delete from freshet.changes_1; delete from freshet.versions; delete from freshet.touched')
  } finally {
    await connection.query(`set lock_timeout = '2s'`)
  }
}
