/** What `freshet check` asks of the schema freshet: whether it may be made, is current, and may be used by this role. */
import { pendingMigrations } from '../database/migrate.ts'
import { assertOurs } from '../database/provenance.ts'
import { ok, problem, warning, type Finding, type Subject } from './findings.ts'
import { missingGrants } from './grants.ts'

export interface Schema {
  readonly role: string
  readonly database: string
  readonly may_create_schema: boolean
  readonly exists: boolean
  /** Ours, and not another schema of this name. */
  readonly is_installed: boolean
  readonly relations: number
  readonly owns: boolean
  readonly may_use: boolean
  readonly may_read_migrations: boolean
}

/** From the catalog alone: without usage on the schema even a lookup by name would fail. */
const SCHEMA = `
select quote_ident(current_user) as role, quote_ident(current_database()) as database,
  has_database_privilege(current_database(), 'create') as may_create_schema, schema.oid is not null as exists,
  (select count(*) from pg_class where relnamespace = schema.oid)::int as relations,
  migrations.oid is not null as is_installed, coalesce(has_table_privilege(migrations.oid, 'select'), false) as may_read_migrations,
  coalesce(pg_has_role(schema.nspowner, 'usage'), false) as owns, coalesce(has_schema_privilege(schema.oid, 'usage'), false) as may_use
from (select) as always
left join pg_namespace schema on nspname = 'freshet'
left join pg_class migrations on migrations.relnamespace = schema.oid and migrations.relname = 'migrations'`

export async function readSchema({ pool }: Subject): Promise<Schema> {
  const { rows: [schema] } = await pool.query<Schema>(SCHEMA)
  if (schema === undefined) throw new Error('the server said nothing of the schema')
  return schema
}

/** Where it is not installed: whether this role could. Throws StartupError where the schema is somebody else's. */
export async function checkInstallable({ pool }: Subject, { role, database, may_create_schema, exists, relations, owns }: Schema): Promise<Finding> {
  const next = 'start the server, or run "freshet migrate"'
  if (!exists) {
    return may_create_schema ? ok(`the schema freshet is not installed yet, and role ${role} may create it: ${next}`)
      : problem(`the schema freshet is not installed, and role ${role} may not create it`, `grant create on database ${database} to ${role}, or create schema freshet authorization ${role}, or run "freshet migrate" as another role`)
  }
  if (relations > 0) return problem('a schema called freshet is there, and it is not Freshet\'s', 'alter schema freshet rename to another name, or use another database')
  await assertOurs(pool, { migrates: true })
  return owns ? ok(`the schema freshet is empty, and role ${role} owns it: ${next}`)
    : problem(`the schema freshet is empty, and role ${role} does not own it`, `alter schema freshet owner to ${role}, or run "freshet migrate" as its owner`)
}

/** Where it is installed: anything but ok means that the rest of it cannot be judged. */
export async function checkCurrent({ pool, config }: Subject, { role, owns, may_use, may_read_migrations }: Schema): Promise<readonly Finding[]> {
  if (!may_use) {
    return [problem(`role ${role} may not use the schema freshet`, `run "freshet check --grants ${role}" as its owner, for all that the role needs`)]
  }
  if (!may_read_migrations) return missingGrants(pool, role)
  const pending = await pendingMigrations(pool)
  if (pending.length === 0) return [ok('the schema is up to date')]
  const text = `not applied yet: ${pending.join(', ')}`
  return [owns && config.migrates ? warning(text, 'start the server, or run "freshet migrate"')
    : problem(text, owns ? 'run "freshet migrate"' : 'run "freshet migrate" as the owner of the schema')]
}

export async function checkGrants({ pool }: Subject, { role, owns }: Schema): Promise<readonly Finding[]> {
  if (owns) return []
  const missing = await missingGrants(pool, role)
  return missing.length > 0 ? missing : [ok(`role ${role} has the grants that a server needs`)]
}

/** Whether writers notify, which is what a new installation begins with. */
export async function readWake({ pool }: Subject): Promise<boolean> {
  const { rows } = await pool.query<{ value: string }>(`select value from freshet.settings where name = 'wake'`)
  return rows[0]?.value !== 'poll'
}
