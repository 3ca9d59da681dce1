/** What `freshet check` asks of the PostgreSQL server itself: version, encoding, settings, room for connections. */
import { ok, problem, warning, type Finding, type Subject } from './findings.ts'

const OLDEST_MAJOR = 14
const NEWEST_MAJOR = 18
/** The clock and the listener, beside the pool. */
const CONNECTIONS_BESIDE_POOL = 2

interface Server {
  readonly version: string
  readonly major: number
  readonly encoding: string
  readonly is_standby: boolean
  readonly is_read_only: boolean
  readonly role: string
}

const SERVER = `
select current_setting('server_version') as version, current_setting('server_version_num')::int / 10000 as major,
  current_setting('server_encoding') as encoding, pg_is_in_recovery() as is_standby,
  current_setting('default_transaction_read_only')::bool as is_read_only, quote_ident(current_user) as role`

/** `isUsable` false: nothing else can be said of this server. */
export async function checkServer({ pool }: Subject): Promise<{ readonly isUsable: boolean; readonly findings: readonly Finding[] }> {
  const { rows: [server] } = await pool.query<Server>(SERVER)
  if (server === undefined) throw new Error('the server said nothing of itself')
  const findings = [checkVersion(server), checkEncoding(server), checkWritable(server), ...server.is_standby ? [] : await checkOrder(pool, server.role)]
  return { isUsable: server.major >= OLDEST_MAJOR && !server.is_standby, findings }
}

function checkVersion({ version, major }: Server): Finding {
  if (major < OLDEST_MAJOR) return problem(`PostgreSQL ${version} is too old`, `use PostgreSQL ${OLDEST_MAJOR} or newer`)
  if (major > NEWEST_MAJOR) return warning(`PostgreSQL ${version} is newer than any that Freshet was tested with`, `use PostgreSQL ${OLDEST_MAJOR} to ${NEWEST_MAJOR}, or a newer Freshet`)
  return ok(`PostgreSQL ${version}`)
}

function checkEncoding({ encoding }: Server): Finding {
  if (encoding !== 'SQL_ASCII') return ok(`encoding ${encoding}`)
  return problem('the encoding of the database is SQL_ASCII, whose text may be of any encoding', 'use a database with the encoding UTF8')
}

function checkWritable({ is_standby, is_read_only, role }: Server): Finding {
  if (is_standby) return problem('this server is a standby: nothing can be written, and LISTEN does not work', 'point DATABASE_URL at the primary')
  if (is_read_only) return problem('transactions are read only by default', `alter role ${role} set default_transaction_read_only = off`)
  return ok('a primary, open for writing')
}

/** What each line of the log is ordered by: some services that speak for PostgreSQL have none, or let nobody ask. */
async function checkOrder(pool: Subject['pool'], role: string): Promise<readonly Finding[]> {
  try {
    await pool.query('select pg_current_wal_insert_lsn()')
    return []
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    return [problem(`the place in the WAL cannot be asked for, so that every write of a watched table would fail: ${why}`,
      `grant execute on function pg_current_wal_insert_lsn() to ${role}, or use a server that has it`)]
  }
}

interface Room {
  readonly most: number
  readonly reserved: number
  readonly others: number
  readonly role: string
  readonly role_limit: number
  readonly database: string
  readonly database_limit: number
  readonly is_superuser: boolean
}

const ROOM = `
select current_setting('max_connections')::int as most,
  current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0) as reserved,
  (select sum(numbackends) from pg_stat_database)::int
    - (select count(*) from pg_stat_activity where usename = current_user and application_name like 'freshet:%')::int as others,
  quote_ident(rolname) as role, rolconnlimit as role_limit, quote_ident(datname) as database, datconnlimit as database_limit, rolsuper as is_superuser
from pg_roles, pg_database where rolname = current_user and datname = current_database()`

export async function checkRoom({ pool, config }: Subject): Promise<readonly Finding[]> {
  const { rows: [room] } = await pool.query<Room>(ROOM)
  if (room === undefined) throw new Error('the server said nothing of its limits')
  const needed = config.poolMax + CONNECTIONS_BESIDE_POOL
  const free = room.most - (room.is_superuser ? 0 : room.reserved)
  if (free < needed) {
    return [problem(`max_connections leaves ${free} connections, and one server takes up to ${needed} (POOL_MAX + ${CONNECTIONS_BESIDE_POOL})`, 'raise max_connections, or lower POOL_MAX')]
  }
  if (!room.is_superuser && room.role_limit >= 0 && room.role_limit < needed) {
    return [problem(`role ${room.role} may have ${room.role_limit} connections, and one server takes up to ${needed}`, `alter role ${room.role} connection limit ${needed}, or lower POOL_MAX`)]
  }
  if (!room.is_superuser && room.database_limit >= 0 && room.database_limit < needed) {
    return [problem(`database ${room.database} takes ${room.database_limit} connections, and one server up to ${needed}`, `alter database ${room.database} connection limit ${needed}, or lower POOL_MAX`)]
  }
  if (room.others + needed > free) {
    return [warning(`of ${free} connections others hold ${room.others} just now, and one server takes up to ${needed}`, 'raise max_connections, or lower POOL_MAX')]
  }
  return [ok(`room for ${needed} connections a server`)]
}

interface Settings {
  readonly prepared: number
  readonly is_shadowed: boolean
}

/** A role that may log in and whose search_path begins with its own name meets the schema of that name first. */
const SETTINGS = `
select current_setting('max_prepared_transactions')::int as prepared,
  exists (select from pg_roles where rolname = 'freshet' and rolcanlogin and not exists (
    select from pg_db_role_setting, unnest(setconfig) setting
    where setrole in (0, pg_roles.oid) and setdatabase in (0, (select oid from pg_database where datname = current_database()))
      and setting like 'search\\_path=%' and setting not like '%$user%')) as is_shadowed`

/** `wakes`: whether writers notify; null where nothing is installed yet, and they would. */
export async function checkSettings({ pool }: Subject, wakes: boolean): Promise<readonly Finding[]> {
  const { rows: [settings] } = await pool.query<Settings>(SETTINGS)
  if (settings === undefined) throw new Error('the server said nothing of its settings')
  const findings: Finding[] = []
  if (settings.prepared > 0 && wakes) {
    findings.push(warning('max_prepared_transactions is not 0, and PREPARE TRANSACTION fails after NOTIFY: an application that uses it could not write a watched table',
      `if one does: select freshet.configure('wake', 'poll')`))
  }
  if (settings.is_shadowed) {
    findings.push(warning('a role called freshet has the schema freshet before public in its search_path: tables it creates land among Freshet\'s',
      'alter role freshet set search_path = public'))
  }
  return findings
}

interface Publication {
  readonly name: string
  readonly is_for_all: boolean
  /** Somebody has subscribed to a database like this one, by whatever publication. */
  readonly is_read: boolean
}

/** Those that publish our tables, or will as soon as there are any. */
const PUBLICATIONS = `
select quote_ident(pubname) as name, puballtables as is_for_all,
  exists (select from pg_replication_slots where plugin = 'pgoutput' and database = current_database()) as is_read
from pg_publication
where puballtables or pubname in (select pubname from pg_publication_tables where schemaname = 'freshet')
order by pubname`

/** A subscriber stops at the first change of a table that it does not have. */
export async function checkPublications({ pool }: Subject): Promise<readonly Finding[]> {
  const { rows } = await pool.query<Publication>(PUBLICATIONS)
  return rows.map(({ name, is_for_all, is_read }) => (is_read ? problem : warning)(
    `publication ${name} ${is_for_all ? 'is FOR ALL TABLES and ' : ''}publishes Freshet's own tables as well: native subscribers, which have none of them, stop replicating`,
    `publish by schema or by table (create publication … for tables in schema public, or for table …, then on each subscriber: alter subscription … set publication …) and drop publication ${name}`))
}
