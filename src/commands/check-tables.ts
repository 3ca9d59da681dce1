/** What `freshet check` asks of each watched table and of the log: whether changes are captured, may be read, and fit. */
import { logSize } from '../status.ts'
import { megabytes, ok, problem, warning, type Finding, type Subject } from './findings.ts'

interface WatchedTable {
  readonly name: string
  readonly exists: boolean
  readonly parked: string | null
  readonly fault: string | null
  readonly channels: readonly string[]
  /** The statement that watches it as it is watched now. */
  readonly watch: string
  readonly unreadable: readonly { readonly role: string; readonly schema: string }[]
  readonly subscriptions: readonly string[]
  /** Channels with a name that is reserved by now, and those with a filter of such a name. */
  readonly reserved: readonly string[]
  readonly filtered: readonly { readonly channel: string; readonly filter: string }[]
}

/** Capture reads the table as the owner of the schema, a server as its own role. */
const TABLES = `
select coalesce(freshet.quoted_name(relation), tables.name) as name, pg_class.oid is not null as exists, parked,
  case when pg_class.oid is not null then freshet.table_fault(tables) end as fault,
  array(select channels.name from freshet.channels where table_id = tables.id order by 1) as channels,
  coalesce((select format('select freshet.watch(%L, channel => %L, filters => %L, columns => %L, public => %s)',
      freshet.quoted_name(relation), channels.name, channels.filters, channels.columns, channels.public::text)
    from freshet.channels where table_id = tables.id order by channels.name limit 1), '') as watch,
  coalesce((select json_agg(json_build_object('role', quote_ident(reader.rolname), 'schema', quote_ident(nspname)))
    from pg_roles reader
    where reader.rolname in (current_user, (select nspowner::regrole::text from pg_namespace where nspname = 'freshet')) and pg_class.oid is not null
      and not (has_table_privilege(reader.oid, pg_class.oid, 'select') and has_schema_privilege(reader.oid, relnamespace, 'usage'))), '[]') as unreadable,
  array(select distinct subname::text from pg_subscription_rel join pg_subscription on pg_subscription.oid = srsubid
    where srrelid = relation or srrelid in (select relid from pg_partition_tree(relation)) order by 1) as subscriptions,
  array(select channels.name from freshet.channels where table_id = tables.id and channels.name like 'freshet.%' order by 1) as reserved,
  coalesce((select json_agg(json_build_object('channel', channels.name, 'filter', filter) order by channels.name, filter)
    from freshet.channels, unnest(filters) filter where table_id = tables.id and freshet.is_reserved(filter)), '[]') as filtered
from freshet.tables
left join pg_class on pg_class.oid = relation
left join pg_namespace on pg_namespace.oid = relnamespace
order by tables.id`

export async function checkTables({ pool }: Subject): Promise<readonly Finding[]> {
  const { rows } = await pool.query<WatchedTable>(TABLES)
  if (rows.length === 0) return [ok('no table is watched yet: run "freshet watch <table>"')]
  return rows.flatMap(checkTable)
}

function checkTable(table: WatchedTable): readonly Finding[] {
  const { name, channels, subscriptions } = table
  const findings = [...checkCapture(table), ...checkReadable(table), ...checkNames(table)]
  if (findings.length > 0) return findings
  const note = subscriptions.length === 0 ? '' : `; rows that subscription ${subscriptions.join(', ')} applies are captured one by one`
  return [ok(`${name} is captured for ${channels.join(', ')}${note}`)]
}

function checkCapture({ name, exists, parked, fault, channels, watch }: WatchedTable): readonly Finding[] {
  const named = `channel ${channels.join(', ')}`
  if (!exists) return [problem(`${named}: the table ${name} was dropped`, channels.map((channel) => `freshet unwatch ${channel}`).join('; '))]
  if (fault !== null) {
    // The cure is said below, with the very statement.
    return [problem(`${named} does not capture ${name}: ${fault.replace('; watch the table again', '')}${parked === null ? '' : ' (parked)'}`, `mend that if it was not meant, then ${watch}`)]
  }
  if (parked !== null) return [warning(`${named} is parked: ${parked}, which is mended by now`, `a running server takes it back within a minute; or ${watch}`)]
  return []
}

function checkNames({ reserved, filtered }: WatchedTable): readonly Finding[] {
  return [
    ...reserved.map((channel) => problem(`channel ${channel}: names that begin with freshet. are reserved`, `freshet unwatch ${channel}, and watch the table under another name`)),
    ...filtered.map(({ channel, filter }) => problem(`channel ${channel} filters by ${filter}, which is a parameter of the API`, 'rename the column, and watch the table again')),
  ]
}

function checkReadable({ name, unreadable }: WatchedTable): readonly Finding[] {
  return unreadable.map(({ role, schema }) =>
    problem(`role ${role} may not read ${name}`, `grant usage on schema ${schema} to ${role}; grant select on ${name} to ${role}`))
}

interface Log {
  readonly is_abandoned: boolean
  /** A transaction that may still write the table to be emptied next. */
  readonly is_held: boolean
  readonly holder: string | null
}

const LOG = `
select pg_sequence_last_value('freshet.abandoned_after') < extract(epoch from clock_timestamp()) * 1000 as is_abandoned,
  coalesce(pg_snapshot_xmin(pg_current_snapshot()) <= turn_fence, false) as is_held,
  (select format('process %s, open since %s', pid, date_trunc('second', xact_start)) from pg_stat_activity
    where backend_xid is not null order by age(backend_xid) desc limit 1) as holder
from freshet.state`

export async function checkLog({ pool, config }: Subject): Promise<readonly Finding[]> {
  const { rows: [log] } = await pool.query<Log>(LOG)
  if (log === undefined) throw new Error('freshet.state is empty')
  const bytes = await logSize(pool)
  const size = `the log holds ${megabytes(bytes)}`
  // Two tables in turn, each with an index of about half its size.
  const most = config.retentionBytes * 3
  const findings: Finding[] = []
  if (log.is_abandoned) findings.push(warning('no server has run for a day, so changes are no longer captured', 'start one; every client then begins anew with the whole state'))
  if (bytes <= most) findings.push(ok(`${size} (RETENTION_BYTES ${megabytes(config.retentionBytes)})`))
  else if (log.is_held) findings.push(warning(`${size}, and an open transaction keeps it from being emptied (${log.holder ?? 'perhaps a prepared one'})`, 'end that transaction'))
  else findings.push(warning(`${size}, far more than RETENTION_BYTES (${megabytes(config.retentionBytes)})`, 'let a server run, which empties it; or raise RETENTION_BYTES'))
  return findings
}
