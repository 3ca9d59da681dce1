/**
 * Nobody becomes more than they are. Mallory owns something of what Freshet reads, or had it, or only writes; whatever he puts there, it never runs
 * with the rights of Freshet: he is no superuser afterwards, has read nothing that is not his, and has written nothing into the schema freshet.
 */
import { randomBytes } from 'node:crypto'
import pg, { type Client } from 'pg'
import { describe, expect, it } from 'vitest'
import { DatabaseSource } from '../../src/clock/source.ts'
import { migrate } from '../../src/database/migrate.ts'
import { createPool, type Pool } from '../../src/database/pool.ts'
import { closeAtEnd } from '../support/cleanup.ts'
import { createDatabase, hasExtension, hasPostgres, type TestDatabase } from '../support/database.ts'
import { Ticker } from '../support/ticker.ts'

interface Stage {
  readonly database: TestDatabase
  /** As whom Freshet is installed, runs, and owns the tables of its own. */
  readonly keeper: Client
  readonly mallory: Client
  readonly writer: Client
  readonly names: { readonly mallory: string; readonly writer: string }
  /** Reads everything that can be read of a channel over HTTP: its state, and what a filter may be. */
  readonly browse: (channel: string) => Promise<void>
}

/** Statements one by one, as far as they are allowed. A mistake of the test's own is none of the answers. */
async function attempt(client: { query(sql: string): Promise<unknown> }, ...statements: readonly string[]): Promise<void> {
  for (const statement of statements) {
    try {
      await client.query(statement)
    } catch (error) {
      await client.query('rollback')
      if (error instanceof pg.DatabaseError && /^(42601|42703|42P01|42883|42704)$/.test(error.code ?? '')) throw error
    }
  }
}

async function createStage(isSuperuser: boolean): Promise<Stage> {
  const database = await createDatabase({ migrated: false })
  const suffix = randomBytes(4).toString('hex')
  const [keeper, mallory, writer] = [`keeper_${suffix}`, `mallory_${suffix}`, `writer_${suffix}`]
  await database.query(`create role ${keeper} login password 'secret' ${isSuperuser ? 'superuser' : ''}; create role ${mallory} login password 'secret'; create role ${writer} login password 'secret';
    create schema app authorization ${keeper}; grant usage on schema app to public; create schema lair authorization ${mallory}; grant usage on schema lair to public`)
  await database.query(`do $$ begin execute format('grant create on database %I to ${keeper}', current_database()); end $$`)
  const pool = createPool({ url: urlOf(database, keeper), max: 6, onError: () => undefined })
  closeAtEnd(() => pool.end())
  await migrate(pool)
  const stage = { database, keeper: await connect(database, keeper), mallory: await connect(database, mallory), writer: await connect(database, writer), names: { mallory, writer } }
  await stage.keeper.query(`create table app.secrets (id int primary key, secret text); insert into app.secrets values (1, 'of others'); select freshet.watch('app.secrets')`)
  await stage.mallory.query(`
    create table lair.loot (what text); grant insert on lair.loot to public;
    create function lair.harm() returns void language plpgsql as $$ begin
      begin execute 'alter role ${mallory} superuser'; exception when others then null; end;
      begin insert into lair.loot select secret from app.secrets; exception when others then null; end;
      begin insert into freshet.settings values ('evil', 'evil'); exception when others then null; end;
    end $$;
    create function lair.evil(int) returns int immutable language plpgsql as 'begin perform lair.harm(); return $1; end'`)
  return { ...stage, browse: (channel) => browse(stage.database, pool, channel) }
}

function urlOf({ url }: TestDatabase, role: string): string {
  const as = new URL(url)
  as.username = role
  as.password = 'secret'
  return as.href
}

async function connect(database: TestDatabase, role: string): Promise<Client> {
  const client = new pg.Client({ connectionString: urlOf(database, role) })
  client.on('error', () => undefined)
  await client.connect()
  closeAtEnd(() => client.end())
  return client
}

async function browse(database: TestDatabase, pool: Pool, name: string): Promise<void> {
  const ticker = await Ticker.start(database)
  const source = new DatabaseSource(pool)
  const channel = (await source.readCatalog()).channels.find((each) => each.name === name)
  if (channel === undefined) return
  for (const column of channel.table.columns) await source.castFilter(column, 'ok').catch(() => undefined)
  try {
    const reading = await source.openState([{ channel, filters: new Map() }], ticker.versionAfter)
    try {
      for await (const rows of reading.rows({ channel, filters: new Map() })) expect(rows).toBeDefined()
    } finally {
      await reading.close()
    }
  } catch (error) {
    if (error instanceof pg.DatabaseError && error.code === '42601') throw error
  }
}

/** What Mallory has gained. */
async function gains({ database, names }: Stage): Promise<unknown> {
  const [gained] = await database.query(`select (select rolsuper from pg_roles where rolname = '${names.mallory}') as is_superuser, array(select what from lair.loot) as loot,
    (select count(*)::int from freshet.settings where name = 'evil') + (select count(*)::int from freshet.changes where changes::text like '%evil%') as forged`)
  return gained
}

const NOTHING = { is_superuser: false, loot: [], forged: 0 }

/** Rows written once, twice, and in the isolation levels in which the catalog looks older than it is. */
function writes(table: string, filler = ''): readonly string[] {
  const [columns, values] = filler === '' ? ['', ''] : [`, ${filler.split('=')[0] ?? ''}`, `, ${filler.split('=')[1] ?? ''}`]
  return ['read committed', 'repeatable read'].flatMap((level, index) => {
    const insert = (id: number): string => `insert into ${table} (id${columns}) values (${id + 10 * index}${values})`
    return [insert(1), `update ${table} set id = id where id = ${1 + 10 * index}`,
      `begin isolation level ${level}; ${insert(2)}; update ${table} set id = id where id = ${2 + 10 * index}; update ${table} set id = id; delete from ${table} where id = ${2 + 10 * index}; commit`]
  })
}

const CASTS = [
  `create function lair.to_json(lair.mood) returns json language plpgsql as $$ begin perform lair.harm(); return '"ok"'; end $$`, 'create cast (lair.mood as json) with function lair.to_json(lair.mood)',
  `create function lair.to_text(lair.mood) returns text language plpgsql as $$ begin perform lair.harm(); return 'ok'; end $$`, 'create cast (lair.mood as text) with function lair.to_text(lair.mood) as assignment',
  `create function lair.of_text(text) returns lair.mood language sql as $$ select lair.harm(); select 'ok'::lair.mood $$`, 'create cast (text as lair.mood) with function lair.of_text(text) as assignment',
]
const MOOD = `create type lair.mood as enum ('ok', 'sad'); grant usage on type lair.mood to public`
const EVIL_INDEX = 'create index on T (id) where lair.evil(1) > 0; create index on T (lair.evil(id))'

/** What the README gives to those who may watch. */
const watching = (role: string): string => `grant usage on schema freshet to ${role}; grant execute on function freshet.watch, freshet.unwatch to ${role}`

/** Mallory's function is in the table of Freshet's own role, and becomes another one afterwards. */
function functionIn(where: string): (stage: Stage) => Promise<void> {
  return async ({ keeper, mallory, writer, names, browse }) => {
    await mallory.query(`create function lair.calm(int) returns int immutable language sql as 'select $1'`)
    await keeper.query(`${where}; grant select, insert, update, delete on app.t to ${names.writer}`)
    await attempt(keeper, `select freshet.watch('app.t')`)
    await mallory.query(`create or replace function lair.calm(int) returns int immutable language plpgsql as 'begin perform lair.harm(); return $1; end'`)
    await attempt(writer, ...writes('app.t'))
    await attempt(keeper, 'select freshet.detect_drift()')
    await browse('t')
  }
}

/** One after another, each on a stage of its own. */
const CELLS: Readonly<Record<string, (stage: Stage) => Promise<void>>> = {
  async 'the owner of a table'({ keeper, mallory, names, browse }) {
    await keeper.query(watching(names.mallory))
    await mallory.query(`${MOOD}; create table lair.t (id int primary key, m lair.mood); grant all on lair.t to public`)
    await attempt(keeper, `select freshet.watch('lair.t', filters => '{m}')`)
    await attempt(mallory, EVIL_INDEX.replaceAll('T', 'lair.t'), ...CASTS, ...writes('lair.t', `m='sad'`), `select freshet.watch('lair.t')`, `select freshet.trust('${names.mallory}')`)
    await attempt(keeper, 'select freshet.detect_drift()', `select freshet.watch('lair.t')`)
    await browse('t')
  },
  async 'the owner of a type'({ keeper, mallory, writer, names, browse }) {
    await mallory.query(MOOD)
    await keeper.query(`create table app.t (id int primary key, m lair.mood, ms lair.mood[]); grant all on app.t to ${names.writer}`)
    await attempt(keeper, `select freshet.watch('app.t', filters => '{m}')`)
    await attempt(mallory, ...CASTS)
    await attempt(writer, ...writes('app.t', `m='sad'`))
    await attempt(keeper, 'select freshet.detect_drift()')
    await browse('t')
  },
  'the owner of a function in an index': functionIn('create table app.t (id int primary key); create index on app.t (lair.calm(id)); create index on app.t (lair.calm(1))'),
  'the owner of a function in the predicate of an index': functionIn('create table app.t (id int primary key); create index on app.t (id) where lair.calm(1) > 0'),
  'the owner of a function in statistics': functionIn('create table app.t (id int primary key); create statistics app.s on lair.calm(id), lair.calm(1) from app.t'),
  'the owner of a function in a default': functionIn('create table app.t (id int primary key, v int default lair.calm(1))'),
  'the owner of a function in a generated column': functionIn('create table app.t (id int primary key, v int generated always as (lair.calm(id)) stored)'),
  'the owner of a function in a domain': functionIn('create domain app.d as int check (lair.calm(1) > 0); create table app.t (id int primary key, v app.d)'),
  'the owner of a function in the check of a partition': functionIn('create table app.t (id int primary key) partition by list (id); create table app.t_1 partition of app.t default; alter table app.t_1 add check (lair.calm(1) > 0)'),

  async 'a new owner, before anybody has looked'({ database, keeper, mallory, writer, names, browse }) {
    await keeper.query(`create table app.t (id int primary key, v int); grant all on app.t to ${names.writer}; select freshet.watch('app.t')`)
    // This transaction sees for ever whose it was.
    await writer.query('begin isolation level repeatable read; select 1')
    await database.query(`grant create on schema app to ${names.mallory}; alter table app.t owner to ${names.mallory}`)
    await attempt(mallory, EVIL_INDEX.replaceAll('T', 'app.t'))
    await mallory.query(`grant all on app.t to ${names.writer}`)
    await attempt(mallory, ...writes('app.t'))
    await browse('t')
    await attempt(keeper, 'select freshet.detect_drift()')
    await attempt(mallory, ...writes('app.t').map((sql) => sql.replaceAll(/\b([12]+)\b/g, '5$1')))
    await browse('t')
    await writer.query('rollback')
  },
  async 'a new owner of a type, before anybody has looked'({ database, keeper, mallory, writer, names, browse }) {
    await mallory.query(MOOD)
    await database.query(`do $$ begin execute format('alter type lair.mood owner to %I', (select nspowner::regrole from pg_namespace where nspname = 'freshet')); end $$`)
    await keeper.query(`create table app.t (id int primary key, m lair.mood, ms lair.mood[]); grant all on app.t to ${names.writer}; select freshet.watch('app.t', filters => '{m}')`)
    await database.query(`alter type lair.mood owner to ${names.mallory}`)
    await attempt(mallory, ...CASTS)
    await attempt(writer, ...writes('app.t', `m='sad'`))
    await browse('t')
  },
  async 'who may create in the schema of a key\'s type'({ database, keeper, mallory, writer, names, browse }) {
    if (!await hasExtension(database, 'citext')) return
    await database.query(`create schema ext; create extension citext schema ext; grant usage on schema ext to public; grant create on schema ext to ${names.mallory}`)
    await keeper.query(`create domain app.email as ext.citext; create table app.t (id app.email primary key, v int); grant all on app.t to ${names.writer}; select freshet.watch('app.t')`)
    // It fits a domain better than the one of the type under it.
    await mallory.query(`create function lair.same(app.email, app.email) returns boolean language sql as 'select lair.harm(); select $1::text = $2::text'; create operator ext.= (leftarg = app.email, rightarg = app.email, function = lair.same)`)
    await attempt(writer, ...writes('app.t').map((sql) => sql.replaceAll(/\b([12]+)\b/g, `'$1'`)), `insert into app.t values ('a', 1); update app.t set v = 2; delete from app.t; insert into app.t values ('a', 3)`)
    await browse('t')
  },
  async 'a former owner'({ database, keeper, mallory, names }) {
    await mallory.query('create table lair.t (id int primary key, v text); grant all on lair.t to public')
    await keeper.query(`${watching(names.mallory)}; select freshet.trust('${names.mallory}')`)
    await database.query(`do $$ begin execute format('grant ${names.mallory} to %I', (select nspowner::regrole from pg_namespace where nspname = 'freshet')); end $$`)
    await keeper.query(`select freshet.watch('lair.t', 'was_his')`)
    await keeper.query(`alter table lair.t owner to current_user; alter table lair.t set schema app; select freshet.distrust('${names.mallory}')`)
    await keeper.query(`revoke all on app.t from public`)
    await mallory.query('create table lair.ghost (id int primary key, v text)')
    const { rows } = await database.pool.query<{ name: string }>(`select proname as name from pg_proc where pronamespace = 'freshet'::regnamespace and proname ~ '^capture_(row_)?[0-9]+$'`)
    for (const [index, { name }] of rows.entries()) {
      await attempt(mallory, `create trigger ghost_row_${index} after insert or update or delete on lair.ghost for each row execute function freshet.${name}()`,
        `create trigger ghost_${index} after insert on lair.ghost referencing new table as new_rows for each statement execute function freshet.${name}()`)
    }
    await attempt(mallory, `insert into lair.ghost values (666, 'evil')`, `update lair.ghost set v = 'evil, twice'`, `select freshet.unwatch('was_his')`, `select freshet.forget_channel('was_his')`)
  },
  async 'a writer'({ keeper, mallory, names }) {
    await keeper.query(`create table app.t (id int primary key, v text, n numeric); grant select, insert, update, delete on app.t to ${names.mallory}; select freshet.watch('app.t', filters => '{v}')`)
    await attempt(mallory,
      'create function lair.same(int, int) returns boolean language plpgsql as $$ begin perform lair.harm(); return true; end $$', 'create operator lair.= (function = lair.same, leftarg = int, rightarg = int)',
      'create function lair.to_json(int) returns json language plpgsql as $$ begin perform lair.harm(); return null; end $$',
      'create function lair.row_to_json(app.t) returns json language plpgsql as $$ begin perform lair.harm(); return null; end $$',
      'create temp table changes_0 (like app.t)', 'create temp table t (id int, v text)',
      'set search_path = lair, pg_temp, pg_catalog, freshet', ...writes('app.t', `v='sad'`),
      `select set_config('freshet.captured_1', 'evil', false), set_config('freshet.rung', 'evil', false)`, `update app.t set v = 'x'`,
      `insert into freshet.changes values ('evil')`, `truncate freshet.changes_0`, `select setval('freshet.slot', 1)`)
  },
}

describe.skipIf(!hasPostgres).each([['a superuser', true], ['a plain owner', false]])('where Freshet is installed by %s, it gains nothing:', (_, isSuperuser) => {
  if (!hasPostgres) return
  it.each(Object.entries(CELLS))('%s', async (_name, attack) => {
    const stage = await createStage(isSuperuser)
    await attack(stage)
    expect(await gains(stage)).toEqual(NOTHING)
  })

  it('a squatter', async () => {
    const database = await createDatabase({ migrated: false })
    const suffix = randomBytes(4).toString('hex')
    const [keeper, mallory] = [`keeper_${suffix}`, `mallory_${suffix}`]
    await database.query(`create role ${keeper} login password 'secret' ${isSuperuser ? 'superuser' : ''}; create role ${mallory} login password 'secret';
      create table public.secrets (secret text); insert into public.secrets values ('of others'); grant select on public.secrets to ${keeper};
      do $$ begin execute format('grant create on database %I to ${keeper}, ${mallory}', current_database()); end $$`)
    const squatter = await connect(database, mallory)
    await squatter.query(`create schema freshet; grant all on schema freshet to public; create table freshet.loot (what text); grant insert on freshet.loot to public;
      create table freshet.migrations (id int primary key, name text, checksum text, applied_at timestamptz default now()); grant all on freshet.migrations to public;
      create function freshet.trap() returns trigger language plpgsql as $$ begin
        begin execute 'alter role ${mallory} superuser'; exception when others then null; end;
        begin insert into freshet.loot select secret from public.secrets; exception when others then null; end;
        return new; end $$;
      create trigger trap before insert on freshet.migrations for each row execute function freshet.trap()`)
    const pool = createPool({ url: urlOf(database, keeper), max: 1, onError: () => undefined })
    await expect(migrate(pool)).rejects.toThrow(`the schema freshet belongs to role ${mallory}`)
    await pool.end()
    expect(await database.query(`select rolsuper as is_superuser, array(select what from freshet.loot) as loot from pg_roles where rolname = '${mallory}'`)).toEqual([{ is_superuser: false, loot: [] }])
  })
})
