/**
 * Whose the schema freshet is. Whoever calls a function of a schema, or reads a table of it, runs code of its owner's; and a schema of this
 * name may have been there before us. Promise: asked of the catalog alone, before anything in the schema is called or read.
 */
import { StartupError } from '../errors.ts'
import type { Pool, PoolClient } from './pool.ts'

interface Schema {
  readonly role: string
  readonly owner: string
  readonly is_superuser: boolean
  readonly is_own: boolean
  readonly objects: number
  readonly is_installed: boolean
  /** The first object, and whose it is, that another role made than the owner of the schema, or one with the rights of that owner. */
  readonly stranger: { readonly object: string; readonly owner: string } | null
  readonly first: { readonly object: string; readonly owner: string } | null
  /** Somebody who may put more into it. */
  readonly creator: string | null
}

/**
 * Row types and arrays belong to their tables and elements, indexes to tables. Of a role that has all our rights, or is a superuser, nothing need
 * be feared. (pg_has_role says yes for every superuser.)
 */
const SCHEMA = `
with objects as (
  select 'pg_class'::regclass::oid as class, oid, relowner as owner from pg_class where relnamespace = to_regnamespace('freshet') and relkind <> 'i'
  union all select 'pg_proc'::regclass, oid, proowner from pg_proc where pronamespace = to_regnamespace('freshet')
  union all select 'pg_type'::regclass, oid, typowner from pg_type where typnamespace = to_regnamespace('freshet') and typrelid = 0 and typcategory <> 'A'
  union all select 'pg_operator'::regclass, oid, oprowner from pg_operator where oprnamespace = to_regnamespace('freshet')
  union all select 'pg_opclass'::regclass, oid, opcowner from pg_opclass where opcnamespace = to_regnamespace('freshet')
  union all select 'pg_collation'::regclass, oid, collowner from pg_collation where collnamespace = to_regnamespace('freshet')
), named as (select pg_describe_object(class, oid, 0) as object, quote_ident(pg_get_userbyid(owner)) as owner, owner as owner_id, class, oid from objects)
select quote_ident(current_user) as role, quote_ident(pg_get_userbyid(nspowner)) as owner, pg_has_role(nspowner, current_user, 'member') as is_own,
  (select rolsuper from pg_roles where rolname = current_user) as is_superuser,
  (select count(*) from objects)::int as objects,
  exists (select from pg_class where relnamespace = pg_namespace.oid and relname = 'migrations' and relkind = 'r') as is_installed,
  (select json_build_object('object', object, 'owner', owner) from named
    where owner_id <> nspowner and not pg_has_role(owner_id, nspowner, 'member') order by class, oid limit 1) as stranger,
  (select json_build_object('object', object, 'owner', owner) from named order by class, oid limit 1) as first,
  (select case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end from aclexplode(nspacl)
    where privilege_type = 'CREATE' and grantee <> nspowner and not (grantee <> 0 and pg_has_role(grantee, nspowner, 'member')) limit 1) as creator
from pg_namespace where nspname = 'freshet'`

/**
 * Whether the schema is there, and Freshet is installed in it. Throws StartupError where it is not ours: made by a role that has fewer rights than
 * the current one (only one that migrates, or is a superuser, runs its code with more than a server needs), or holding what its owner did not make.
 */
export async function assertOurs(client: Pick<Pool | PoolClient, 'query'>, { migrates }: { readonly migrates: boolean }): Promise<{ readonly exists: boolean; readonly isInstalled: boolean }> {
  const { rows: [schema] } = await client.query<Schema>(SCHEMA)
  if (schema === undefined) return { exists: false, isInstalled: false }
  if (!schema.is_own && (migrates || schema.is_superuser)) {
    throw new StartupError(`the schema freshet belongs to role ${schema.owner}, and what it holds would run with the rights of role ${schema.role}`,
      `run Freshet as role ${schema.owner}; or, if nobody has installed it, drop schema freshet cascade`)
  }
  if (schema.stranger !== null) throw notOurs(schema.stranger)
  if (!schema.is_installed && schema.first !== null) throw notOurs(schema.first)
  if (schema.creator !== null) {
    throw new StartupError(`role ${schema.creator} may create objects in the schema freshet, which would run with the rights of those who use it`,
      `revoke create on schema freshet from ${schema.creator}`)
  }
  return { exists: true, isInstalled: schema.is_installed }
}

function notOurs({ object, owner }: { readonly object: string; readonly owner: string }): StartupError {
  return new StartupError(`the schema freshet holds ${object} of role ${owner}, which Freshet did not make`, `drop it or move it to another schema, or use another database`)
}
