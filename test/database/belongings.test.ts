/**
 * Everything of ours in the catalog has a line here: who may use it, and what a stranger's attempt is. An object without a line fails, so that none
 * is forgotten; so does one whose rights are not those of its line. What uninstall leaves, and what default privileges of the host add, is nothing.
 */
import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { grantScript } from '../../src/commands/grants.ts'
import { migrate } from '../../src/database/migrate.ts'
import { createPool } from '../../src/database/pool.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'

/** Of the functions: who may call them; and the call that a stranger is refused. Where they run with the rights of their owner, they must ask. */
const FUNCTIONS: readonly (readonly [name: string, who: 'owner' | 'whom it is granted' | 'anybody, with their own rights' | 'anybody: it asks who called' | 'anybody: it tells nothing', call?: string])[] = [
  ['adopt_partitions(freshet.tables)', 'anybody, with their own rights'],
  ['adoption_fault(freshet.tables)', 'anybody, with their own rights'],
  ['are_most(regclass,bigint,bigint)', 'anybody, with their own rights'],
  ['assert_columns(regclass,text[],text)', 'anybody, with their own rights'],
  ['assert_filter_names(text[])', 'anybody, with their own rights'],
  ['assert_filters(regclass,text[])', 'anybody, with their own rights'],
  ['assert_may_watch()', 'anybody, with their own rights'],
  ['assert_owner(regclass)', 'anybody, with their own rights'],
  ['assert_trusted(regclass)', 'anybody, with their own rights'],
  ['assert_watchable(regclass)', 'anybody, with their own rights'],
  ['attributes_now(regclass,smallint[])', 'anybody, with their own rights'],
  ['base_type(oid)', 'anybody, with their own rights'],
  ['caller()', 'anybody, with their own rights'],
  ['capture_body(freshet.tables,text)', 'anybody, with their own rights'],
  ['capture_fault(regclass,integer)', 'anybody, with their own rights'],
  ['capture_guard(freshet.tables)', 'anybody, with their own rights'],
  ['capture_plainly(freshet.tables,text)', 'anybody, with their own rights'],
  ['capture_side(freshet.tables,text,text)', 'anybody, with their own rights'],
  ['captured_columns(freshet.tables)', 'anybody, with their own rights'],
  ['captured_mark(freshet.tables)', 'anybody, with their own rights'],
  ['channel_table(text)', 'anybody: it tells nothing'],
  ['client_statement()', 'anybody, with their own rights'],
  ['closed_body(freshet.tables)', 'anybody, with their own rights'],
  ['columns_not_of(regclass,text[],regtype[])', 'anybody, with their own rights'],
  ['composites_in(oid)', 'anybody, with their own rights'],
  ['configure(text,text)', 'owner', `configure('wake', 'poll')`],
  ['create_shapes(regclass)', 'anybody, with their own rights'],
  ['create_trigger(regclass,text,integer,text,text)', 'anybody, with their own rights'],
  ['create_triggers(regclass,integer)', 'anybody, with their own rights'],
  ['create_truncate_trigger(regclass,integer)', 'anybody, with their own rights'],
  ['define_channel(regclass,text,text[],text[],boolean)', 'anybody: it asks who called', `define_channel('app.t', 't', '{}', null, true)`],
  ['detect_drift()', 'owner', `detect_drift()`],
  ['differs(text,text)', 'anybody, with their own rights'],
  ['distrust(regrole)', 'owner', `distrust('STRANGER')`],
  ['drop_functions(integer)', 'anybody, with their own rights'],
  ['drop_triggers(regclass)', 'anybody, with their own rights'],
  ['element_type(pg_type)', 'anybody, with their own rights'],
  ['equal_keys(freshet.tables,text,text)', 'anybody, with their own rights'],
  ['equality_guard(freshet.tables)', 'anybody, with their own rights'],
  ['fingerprint(regclass)', 'anybody, with their own rights'],
  ['fingerprints(regclass[])', 'anybody, with their own rights'],
  ['forget_channel(text)', 'anybody: it asks who called', `forget_channel('t')`],
  ['forget_table(regclass)', 'anybody: it asks who called', `forget_table('app.t')`],
  ['generate_capture(freshet.tables)', 'anybody, with their own rights'],
  ['has_trusted_owners(oid)', 'anybody: it tells nothing'],
  ['has_virtual_columns(regclass)', 'anybody, with their own rights'],
  ['if_trusted(freshet.tables,text)', 'anybody, with their own rights'],
  ['insert_reset(integer,text)', 'anybody, with their own rights'],
  ['is_ambiguous(oid)', 'anybody, with their own rights'],
  ['is_as_watched(regclass,oid,smallint[],oid,text)', 'anybody, with their own rights'],
  ['is_built_in(oid)', 'anybody, with their own rights'],
  ['is_marked(text)', 'anybody, with their own rights'],
  ['is_ours(xid)', 'anybody, with their own rights'],
  ['is_own_table(freshet.tables)', 'anybody, with their own rights'],
  ['is_partitioned(regclass)', 'anybody, with their own rights'],
  ['is_reserved(text)', 'anybody, with their own rights'],
  ['is_shaped(regclass,smallint[],text)', 'anybody, with their own rights'],
  ['is_swapped(freshet.tables)', 'anybody, with their own rights'],
  ['is_trusted(oid)', 'anybody, with their own rights'],
  ['is_watched_as(integer,oid)', 'anybody, with their own rights'],
  ['key_columns(regclass)', 'anybody, with their own rights'],
  ['key_equality(regclass,text)', 'anybody, with their own rights'],
  ['key_operators(regclass)', 'anybody, with their own rights'],
  ['keys_stay(freshet.tables)', 'anybody, with their own rights'],
  ['keys_written_alike(freshet.tables,text,text)', 'anybody, with their own rights'],
  ['leads_to(oid,oid)', 'anybody, with their own rights'],
  ['leave_mark(text)', 'anybody, with their own rights'],
  ['lock_definitions()', 'anybody, with their own rights'],
  ['lock_holders(regclass[],text)', 'anybody, with their own rights'],
  ['lock_table(regclass,text,integer)', 'anybody, with their own rights'],
  ['log_lines(freshet.tables,text,text,text,text,text)', 'anybody, with their own rights'],
  ['log_touched(freshet.tables,text,text,text)', 'anybody, with their own rights'],
  ['made_of(oid)', 'anybody, with their own rights'],
  ['mark(integer,text)', 'anybody, with their own rights'],
  ['may_read(oid)', 'anybody, with their own rights'],
  ['mend(freshet.tables,text,text,boolean)', 'anybody, with their own rights'],
  ['mirror(oid)', 'anybody, with their own rights'],
  ['names_now(regclass,smallint[],oid)', 'anybody, with their own rights'],
  ['needs_text(oid)', 'anybody, with their own rights'],
  ['object_owner(oid,oid)', 'anybody, with their own rights'],
  ['pinned_formats(freshet.tables)', 'anybody, with their own rights'],
  ['planned_by_key(freshet.tables,text)', 'anybody, with their own rights'],
  ['prepare_capture(regclass)', 'anybody: it asks who called', `prepare_capture('app.t')`],
  ['quoted_name(oid)', 'anybody, with their own rights'],
  ['regenerate(integer)', 'anybody, with their own rights'],
  ['rendered(freshet.tables,text,text[],boolean)', 'anybody, with their own rights'],
  ['rendered_column(freshet.tables,text,text)', 'anybody, with their own rights'],
  ['rendered_filters(freshet.tables,text)', 'anybody, with their own rights'],
  ['rendered_key(oid,text)', 'anybody: it tells nothing'],
  ['rendered_row(freshet.tables,text)', 'anybody, with their own rights'],
  ['rendered_value(oid,text,boolean)', 'anybody: it tells nothing'],
  ['renders_alike(freshet.tables)', 'anybody, with their own rights'],
  ['row_bytes(freshet.tables,text)', 'anybody, with their own rights'],
  ['same_key(freshet.tables)', 'anybody, with their own rights'],
  ['seal(regclass)', 'anybody: it asks who called', `seal('app.t')`],
  ['shape_fault(freshet.tables)', 'anybody, with their own rights'],
  ['shape_guard(oid)', 'anybody, with their own rights'],
  ['shape_name(oid)', 'anybody, with their own rights'],
  ['shape_of(oid)', 'anybody, with their own rights'],
  ['strangers(regclass[])', 'anybody, with their own rights'],
  ['table_fault(freshet.tables)', 'anybody, with their own rights'],
  ['table_id(regclass)', 'anybody: it tells nothing'],
  ['trigger_name(text,integer)', 'anybody, with their own rights'],
  ['trust(regrole)', 'owner', `trust('STRANGER')`],
  ['trust_faults(regclass[])', 'anybody: it tells nothing'],
  ['truth(freshet.tables,text)', 'anybody, with their own rights'],
  ['type_guard(freshet.tables)', 'anybody, with their own rights'],
  ['type_shape(oid)', 'anybody, with their own rights'],
  ['uninstall()', 'owner', `uninstall()`],
  ['unwatch(text)', 'whom it is granted', `unwatch('t')`],
  ['watch(regclass,text,text[],text[],boolean)', 'whom it is granted', `watch('app.t')`],
  ['widened(xid)', 'anybody, with their own rights'],
  ['with_partitions(regclass)', 'anybody, with their own rights'],
]

/** Of the tables, sequences and views: what a server of a role of its own may. Nobody else than the owner may anything. */
const RELATIONS: Readonly<Record<string, string>> = {
  abandoned_after: 'update,usage', awake_until: 'update', slot: 'update,usage', tables_id_seq: '',
  changes: 'select', changes_0: 'delete,insert,select,truncate', changes_1: 'delete,insert,select,truncate', channels: 'select', migrations: 'select', settings: 'select',
  state: 'select,update', tables: 'select', touched: 'delete,insert,select,truncate,update', trusted: '', versions: 'delete,insert,select,truncate',
}

/** They become part of the query that calls them, which settings of their own would forbid. */
const WITHOUT_SETTINGS = ['is_ours(xid)', 'widened(xid)']

/** What watching a table adds: functions that only a trigger can call. */
const GENERATED = /^capture_(row_)?\d+\(\)$/

describe.skipIf(!hasPostgres)('everything in the schema', async () => {
  if (!hasPostgres) return
  const database = await createDatabase()
  const suffix = randomBytes(4).toString('hex')
  const [stranger, server] = [`stranger_${suffix}`, `server_${suffix}`]
  await database.query(`create role ${stranger}; create role ${server}; grant usage on schema freshet to ${stranger}; create schema app; create table app.t (id int primary key); select freshet.watch('app.t')`)
  const attacker = await database.connect()
  await attacker.query(`set session authorization ${stranger}`)

  it('has a line, and only what is there has one', async () => {
    const functions = await database.query<{ name: string }>(`select substr(oid::regprocedure::text, 9) as name from pg_proc where pronamespace = 'freshet'::regnamespace`)
    expect(functions.map(({ name }) => name).filter((name) => !GENERATED.test(name)).sort()).toEqual(FUNCTIONS.map(([name]) => name).sort())
    const relations = await database.query<{ name: string }>(`select relname as name from pg_class where relnamespace = 'freshet'::regnamespace and relkind <> 'i'`)
    expect(relations.map(({ name }) => name).sort()).toEqual(Object.keys(RELATIONS).sort())
    // Nothing else than these and what belongs to them.
    expect(await database.query(`select pg_describe_object(classid, objid, 0) as object from pg_depend where refclassid = 'pg_namespace'::regclass and refobjid = 'freshet'::regnamespace
      and classid not in ('pg_class'::regclass, 'pg_proc'::regclass)`)).toEqual([])
  })

  it('of functions may be called as its line says, runs with the rights that it says, and with names of its own choice', async () => {
    const found = await database.query<{ name: string; is_definer: boolean; is_public: boolean; others: boolean; settings: string | null }>(`
      select substr(oid::regprocedure::text, 9) as name, prosecdef as is_definer, has_function_privilege('public', oid, 'execute') as is_public,
        exists (select from aclexplode(proacl) where grantee not in (0, proowner)) as others, array_to_string(proconfig, ' ') as settings
      from pg_proc where pronamespace = 'freshet'::regnamespace order by 1`)
    for (const { name, is_definer: isDefiner, is_public: isPublic, others, settings } of found.filter((each) => !GENERATED.test(each.name))) {
      const who = FUNCTIONS.find(([each]) => each === name)?.[1] ?? 'owner'
      expect(isPublic, name).toBe(who.startsWith('anybody'))
      if (isPublic) expect(isDefiner, name).toBe(who !== 'anybody, with their own rights')
      expect(others, name).toBe(false)
      if (!WITHOUT_SETTINGS.includes(name)) expect(settings, name).toMatch(/^search_path=pg_catalog, pg_temp/)
    }
  })

  it.each(FUNCTIONS.flatMap(([name, who, call]) => who === 'anybody, with their own rights' || who === 'anybody: it tells nothing' ? [] : [{ name, call }]))('is not for a stranger: $name', async ({ call }) => {
    await expect(attacker.query(`select freshet.${(call ?? '').replace('STRANGER', stranger)}`)).rejects.toMatchObject({ code: '42501' })
  })

  it('of tables and sequences is for the owner, and for a server by the grants that check prints', async () => {
    for (const name of Object.keys(RELATIONS)) {
      await expect(attacker.query(`select * from freshet.${name}`), name).rejects.toMatchObject({ code: '42501' })
      expect(await rightsOf(database, stranger, name), name).toBe('')
    }
    for (const statement of await grantScript(database.pool, server)) await database.query(statement)
    for (const [name, rights] of Object.entries(RELATIONS)) expect(await rightsOf(database, server, name), name).toBe(rights)
    await database.query(`drop owned by ${server}; drop role ${server}`)
  })

  it('is gone after uninstall', async () => {
    const bare = await createDatabase({ migrated: false })
    const traces = (of: TestDatabase) => of.query(`select (select count(*)::int from pg_class where oid >= 16384) as relations, (select count(*)::int from pg_proc where oid >= 16384) as functions,
      (select count(*)::int from pg_type where oid >= 16384) as types, (select count(*)::int from pg_trigger) as triggers, (select count(*)::int from pg_namespace) as schemas,
      (select count(*)::int from pg_default_acl) as privileges, (select count(*)::int from pg_event_trigger) as events, (select count(*)::int from pg_depend where objid >= 16384) as dependencies`)
    await bare.query('create table public.t (id int primary key, v text)')
    const before = await traces(bare)
    const pool = createPool({ url: bare.url, max: 1, onError: () => undefined })
    await migrate(pool)
    await pool.end()
    await bare.query(`select freshet.watch('t', filters => '{v}'), freshet.trust('${stranger}'); insert into public.t values (1, 'a')`)
    await bare.query('select freshet.uninstall()')
    expect(await traces(bare)).toEqual(before)
  })

  it.each([
    ['revoke what functions are by default', 'alter default privileges revoke execute on functions from public'],
    ['give away everything', `alter default privileges grant all on tables to ROLE; alter default privileges grant all on sequences to ROLE; alter default privileges grant all on functions to ROLE;
      alter default privileges grant all on tables to public`],
  ])('has the rights of its line also where the default privileges of the host %s', async (_, privileges) => {
    const hardened = await createDatabase({ migrated: false })
    await hardened.query(privileges.replaceAll('ROLE', stranger))
    const pool = createPool({ url: hardened.url, max: 1, onError: () => undefined })
    await migrate(pool)
    await pool.end()
    for (const name of Object.keys(RELATIONS)) expect(await rightsOf(hardened, stranger, name), name).toBe('')
    for (const [name, who] of FUNCTIONS) {
      const [right] = await hardened.query<{ may: boolean }>(`select has_function_privilege('${stranger}', 'freshet.${name}', 'execute') as may`)
      expect(right?.may, name).toBe(who.startsWith('anybody'))
    }
    // The two grants of the README are enough.
    const owner = `owner_${randomBytes(4).toString('hex')}`
    await hardened.query(`create role ${owner}; grant create, usage on schema public to ${owner}; grant usage on schema freshet to ${owner}; grant execute on function freshet.watch, freshet.unwatch to ${owner};
      select freshet.trust('${owner}')`)
    const client = await hardened.connect()
    await client.query(`set session authorization ${owner}`)
    await client.query(`create table public.watched (id int primary key); select freshet.watch('watched'); insert into public.watched values (1); select freshet.unwatch('watched')`)
  })
})

/** What a role may do with a table or sequence of ours, sorted. */
async function rightsOf(database: TestDatabase, role: string, name: string): Promise<string> {
  const [found] = await database.query<{ rights: string }>(`
    select coalesce(string_agg(right_name, ',' order by right_name), '') as rights from pg_class cross join lateral unnest(
      case relkind when 'S' then array['select', 'update', 'usage'] else array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger'] end) right_name
    where relnamespace = 'freshet'::regnamespace and relname = '${name}' and case relkind
      when 'S' then has_sequence_privilege('${role}', pg_class.oid, case relkind when 'S' then right_name else 'select' end)
      else has_table_privilege('${role}', pg_class.oid, right_name) end`)
  return found?.rights ?? '?'
}
