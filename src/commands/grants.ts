/**
 * The least that a server needs to run under a role that does not own the schema (MIGRATE=0). One table serves the script
 * that grants it, `freshet check --grants`, and the check that misses it.
 */
import type { Pool } from '../database/pool.ts'
import { assertOurs } from '../database/provenance.ts'
import { problem, type Finding } from './findings.ts'

interface Grant {
  readonly kind: 'table' | 'sequence' | 'function'
  readonly name: string
  readonly privileges: readonly string[]
}

const GRANTS: readonly Grant[] = [
  { kind: 'table', name: 'freshet.migrations', privileges: ['select'] },
  { kind: 'table', name: 'freshet.settings', privileges: ['select'] },
  { kind: 'table', name: 'freshet.tables', privileges: ['select'] },
  { kind: 'table', name: 'freshet.channels', privileges: ['select'] },
  { kind: 'table', name: 'freshet.changes', privileges: ['select'] },
  { kind: 'table', name: 'freshet.state', privileges: ['select', 'update'] },
  // Retention and a new epoch empty these; `delete` where an open writer keeps TRUNCATE from its lock.
  { kind: 'table', name: 'freshet.changes_0', privileges: ['select', 'insert', 'delete', 'truncate'] },
  { kind: 'table', name: 'freshet.changes_1', privileges: ['select', 'insert', 'delete', 'truncate'] },
  { kind: 'table', name: 'freshet.versions', privileges: ['select', 'insert', 'delete', 'truncate'] },
  { kind: 'table', name: 'freshet.touched', privileges: ['select', 'insert', 'update', 'delete', 'truncate'] },
  { kind: 'sequence', name: 'freshet.slot', privileges: ['usage', 'update'] },
  { kind: 'sequence', name: 'freshet.abandoned_after', privileges: ['usage', 'update'] },
  { kind: 'sequence', name: 'freshet.awake_until', privileges: ['update'] },
  { kind: 'function', name: 'freshet.quoted_name(oid)', privileges: ['execute'] },
  { kind: 'function', name: 'freshet.rendered_value(oid, text, boolean)', privileges: ['execute'] },
  { kind: 'function', name: 'freshet.rendered_key(oid, text)', privileges: ['execute'] },
  { kind: 'function', name: 'freshet.detect_drift()', privileges: ['execute'] },
]

/** `table` is the default of GRANT, and so of its text. */
function target({ kind, name }: Grant): string {
  return kind === 'table' ? name : `${kind} ${name}`
}

const WATCHED = `
select distinct quote_ident(nspname) as schema, freshet.quoted_name(relation) as table
from freshet.tables join pg_class on pg_class.oid = relation join pg_namespace on pg_namespace.oid = relnamespace order by 1, 2`

/** The statements, in the order to run them in. */
export async function grantScript(pool: Pool, wantedRole: string): Promise<readonly string[]> {
  const { rows: [found] } = await pool.query<{ role: string; database: string; exists: boolean; installed: boolean }>(`
    select quote_ident($1) as role, quote_ident(current_database()) as database, exists (select from pg_roles where rolname = $1) as exists,
      exists (select from pg_class where relnamespace = to_regnamespace('freshet') and relname = 'migrations') as installed`, [wantedRole])
  if (found === undefined) throw new Error('the server said nothing of the role')
  const { role, database } = found
  await assertOurs(pool, { migrates: false })
  const watched = found.installed ? (await pool.query<{ schema: string; table: string }>(WATCHED)).rows : []
  return [
    ...found.exists ? [] : [`-- There is no such role yet: create role ${role} login password '…';`],
    ...found.installed ? [] : ['-- The schema is not installed yet: run "freshet migrate" first.'],
    `grant connect on database ${database} to ${role};`,
    `grant usage on schema freshet to ${role};`,
    ...GRANTS.map((grant) => `grant ${grant.privileges.join(', ')} on ${target(grant)} to ${role};`),
    '-- The watched tables; grant the same for each that is watched later.',
    ...[...new Set(watched.map(({ schema }) => schema))].map((schema) => `grant usage on schema ${schema} to ${role};`),
    ...watched.map(({ table }) => `grant select on ${table} to ${role};`),
    '-- Start the server with MIGRATE=0; run "freshet migrate" as the owner of the schema.',
  ]
}

const MISSING = `
select position, privilege from unnest($1::int[], $2::text[], $3::text[], $4::text[]) as needed (position, kind, name, privilege)
where not case kind
  when 'table' then has_table_privilege(name, privilege)
  when 'sequence' then has_sequence_privilege(name, privilege)
  else has_function_privilege(name, privilege) end
order by position`

/** What of this the role of the pool lacks, with the statement that grants it. */
export async function missingGrants(pool: Pool, role: string): Promise<readonly Finding[]> {
  const needed = GRANTS.flatMap((grant, position) => grant.privileges.map((privilege) => ({ ...grant, position, privilege })))
  const { rows } = await pool.query<{ position: number; privilege: string }>(MISSING,
    [needed.map(({ position }) => position), needed.map(({ kind }) => kind), needed.map(({ name }) => name), needed.map(({ privilege }) => privilege)])
  return GRANTS.flatMap((grant, position) => {
    const privileges = rows.filter((row) => row.position === position).map(({ privilege }) => privilege).join(', ')
    return privileges === '' ? [] : [problem(`role ${role} lacks ${privileges} on ${grant.name}`, `grant ${privileges} on ${target(grant)} to ${role}`)]
  })
}
