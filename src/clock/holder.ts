/**
 * Who holds the clock's lock. Anybody who may connect can take an advisory lock, so holding it proves nothing: a node is a session of a role
 * that may number versions. Promise: anybody else is named, so that an administrator can end them.
 */
import type { Connection, Pool } from '../database/pool.ts'

/** The clock's key among advisory locks. */
export const CLOCK_KEY = `hashtextextended('freshet.clock', 0)`

export interface Holder {
  readonly isNode: boolean
  /** As it is told to an administrator. */
  readonly name: string
}

interface HolderRow {
  readonly pid: number | null
  readonly role: string | null
  readonly application: string | null
  readonly prepared: string | null
  readonly is_node: boolean
}

/** A prepared transaction has no process, and keeps what it locked. A node takes the lock for itself alone. Strangers first. */
const HOLDER = `
select pg_locks.pid, coalesce(usename, owner) as role, application_name as application, gid as prepared,
  mode = 'ExclusiveLock' and coalesce(has_table_privilege(usesysid, 'freshet.versions', 'insert'), false) as is_node
from pg_locks
left join pg_stat_activity on pg_stat_activity.pid = pg_locks.pid
left join pg_prepared_xacts on pg_locks.pid is null and virtualtransaction = '-1/' || transaction
where locktype = 'advisory' and granted and objsubid = 1 and (classid::bigint << 32) | objid::bigint = ${CLOCK_KEY}
  and pg_locks.database = (select oid from pg_database where datname = current_database())
order by is_node limit 1`

/** Null: nobody. */
export async function readHolder(client: Pick<Pool | Connection, 'query'>): Promise<Holder | null> {
  const { rows: [row] } = await client.query<HolderRow>(HOLDER)
  if (row === undefined) return null
  const session = row.pid === null ? `the prepared transaction ${JSON.stringify(row.prepared ?? '?')}` : `process ${row.pid}`
  const application = row.application === null || row.application === '' ? '' : `, application ${JSON.stringify(row.application)}`
  return { isNode: row.is_node, name: `${session} (role ${row.role ?? '?'}${application})` }
}
