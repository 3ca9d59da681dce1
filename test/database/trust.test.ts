/** Who is trusted: a table is watched only if nobody outside of the circle can put code where its readers run it. */
import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { DatabaseSource } from '../../src/clock/source.ts'
import { createPool } from '../../src/database/pool.ts'
import { createDatabase, hasPostgres } from '../support/database.ts'
import { captured } from '../support/replay.ts'
import { Ticker } from '../support/ticker.ts'

/** What a stranger owns: in SQL, with BOB for the stranger, F for an immutable function (int) of his, and T for the table. */
const STRANGERS: readonly (readonly [what: string, setup: string, named: string])[] = [
  ['the table', 'create table T (id int primary key); alter table T owner to BOB', 'it'],
  ['a partition', 'create table T (id int primary key) partition by list (id); create table T_1 partition of T default; alter table T_1 owner to BOB', 'its partition T_1'],
  ['a function in an index', 'create table T (id int primary key); create index on T (F(id))', 'function F(integer)'],
  ['a function in the predicate of an index', 'create table T (id int primary key); create index on T (id) where F(id) > 0', 'function F(integer)'],
  ['a function in an index of a partition', 'create table T (id int primary key) partition by list (id); create table T_1 partition of T default; create index on T_1 (F(id))', 'function F(integer)'],
  ['a function in a check', 'create table T (id int primary key check (F(id) > 0))', 'function F(integer)'],
  ['a function in extended statistics', 'create table T (id int primary key); create statistics T_stats on F(id), id from T', 'function F(integer)'],
  ['a function in a policy', 'create table T (id int primary key); create policy p on T using (F(id) > 0)', 'function F(integer)'],
  ['a function in a default', 'create table T (id int primary key, v int default F(1))', 'function F(integer)'],
  ['a function in a generated column', 'create table T (id int primary key, v int generated always as (F(id)) stored)', 'function F(integer)'],
  ['a function in the check of a domain', 'create domain T_d as int check (F(value) > 0); create table T (id int primary key, v T_d)', 'function F(integer)'],
  ['a function in the default of a domain', 'create domain T_d as int default F(1); create table T (id int primary key, v T_d)', 'function F(integer)'],
  ['a function in the check of a domain in a composite in an array',
    'create domain T_d as int check (F(value) > 0); create type T_c as (d T_d); create table T (id int primary key, v T_c[])', 'function F(integer)'],
  ['a function that another one names', 'create function T_f(int) returns boolean immutable language sql begin atomic select F($1) > 0; end; create table T (id int primary key check (T_f(id)))', 'function F(integer)'],
  ['a function of an operator', 'create operator public.@@# (function = F, rightarg = int); create table T (id int primary key); create index on T ((operator(public.@@#) id))', 'function F(integer)'],
  ['an operator', `create function T_g(int, int) returns boolean immutable language sql as 'select true'; create operator public.<<<>>> (function = T_g, leftarg = int, rightarg = int);
    alter operator public.<<<>>> (int, int) owner to BOB; create table T (id int primary key check (id operator(public.<<<>>>) 1))`, 'operator public.<<<>>>(integer,integer)'],
  ['an enumeration', `create type T_e as enum ('a'); alter type T_e owner to BOB; create table T (id int primary key, v T_e)`, 'type T_e'],
  ['a domain', `create domain T_d as int; alter domain T_d owner to BOB; create table T (id int primary key, v T_d)`, 'type T_d'],
  ['a domain over a domain', `create domain T_d as int; alter domain T_d owner to BOB; create domain T_e as T_d; create table T (id int primary key, v T_e)`, 'type T_d'],
  ['the element of an array', `create type T_e as enum ('a'); alter type T_e owner to BOB; create table T (id int primary key, v T_e[])`, 'type T_e[]'],
  ['a range', `create type T_r as range (subtype = int); alter type T_r owner to BOB; create table T (id int primary key, v T_r)`, 'type T_r'],
  ['an attribute of a composite', `create type T_e as enum ('a'); alter type T_e owner to BOB; create type T_c as (e T_e); create table T (id int primary key, v T_c)`, 'type T_e'],
  ['a function of a cast to json', `create type T_e as enum ('a'); create function T_j(T_e) returns json language sql as 'select null::json'; alter function T_j(T_e) owner to BOB;
    create cast (T_e as json) with function T_j(T_e); create table T (id int primary key, v T_e)`, 'function T_j(T_e)'],
  ['a function of a cast from text', `create type T_e as enum ('a'); create function T_j(text) returns T_e language sql as 'select null::T_e'; alter function T_j(text) owner to BOB;
    create cast (text as T_e) with function T_j(text); create table T (id int primary key, v T_e)`, 'function T_j(text)'],
  ['a function of an operator class', `create function T_c(int, int) returns int immutable language sql as 'select $1 - $2';
    create operator class T_ops for type int using btree as operator 1 <, operator 2 <=, operator 3 =, operator 4 >=, operator 5 >, function 1 T_c(int, int);
    alter function T_c(int, int) owner to BOB; create table T (id int primary key, v int); create index on T (v T_ops)`, 'function T_c(integer,integer)'],
]

describe.skipIf(!hasPostgres)('the circle of trust', async () => {
  if (!hasPostgres) return
  const database = await createDatabase()
  const bob = `bob_${randomBytes(4).toString('hex')}`
  await database.query(`create role ${bob}; create schema lair authorization ${bob}; grant usage on schema lair to public;
    create function lair.f(int) returns int immutable language sql as 'select 1'; alter function lair.f(int) owner to ${bob}`)
  const detect = async () => (await database.query<{ outcome: string }>('select outcome from freshet.detect_drift()')).map(({ outcome }) => outcome)
  let tables = 0

  it.each(STRANGERS)('of somebody who is not in it: %s. watch refuses it by name, trust() accepts it, distrust() parks it', async (_, setup, named) => {
    tables += 1
    const t = `public.t${tables}`
    const inSql = (sql: string) => sql.replaceAll(/\bT(?=\b|_)/g, t).replaceAll(/\bBOB\b/g, bob).replaceAll(/\bF\b/g, 'lair.f')
    await database.query(inSql(setup).replaceAll(/statistics public\.(\w+)/g, 'statistics $1'))
    const refused = `cannot watch ${t}: ${inSql(named)} belongs to role ${bob}, whom Freshet does not trust`
    await expect(database.query(`select freshet.watch('${t}')`)).rejects.toMatchObject({
      code: '42501', message: refused,
      hint: `Start Freshet as the role that owns the tables; or, if ${bob} may do whatever Freshet's own role may: select freshet.trust('${bob}');`,
    })
    await database.query(`select freshet.trust('${bob}'), freshet.watch('${t}')`)
    expect(await captured(database, t, `insert into ${t} (id) values (1)`)).toHaveLength(1)
    expect(await detect()).toEqual([])
    await database.query(`select freshet.distrust('${bob}')`)
    expect(await database.query(`select parked from freshet.tables where name = '${t}'`)).toEqual([{ parked: refused }])
    expect(new Set(await captured(database, t, `insert into ${t} (id) values (2); delete from ${t}`))).toEqual(new Set(['drift']))
    await database.query(`select freshet.trust('${bob}')`)
    expect(await detect()).toEqual(['reset'])
    expect(await captured(database, t, `insert into ${t} (id) values (3)`)).toHaveLength(1)
    await database.query(`select freshet.distrust('${bob}'), freshet.unwatch('${t.slice(7)}')`)
  })

  it.each([
    ['another owner', 'alter table T owner to BOB', 'it'],
    ['an index of a function', 'create index on T (F(v))', 'function F(integer)'],
    ['a default', 'alter table T alter column v set default F(1)', 'function F(integer)'],
    ['a cast', `create function public.j(public.late_mood) returns json language sql as 'select null::json'; alter function public.j(public.late_mood) owner to BOB;
      create cast (public.late_mood as json) with function public.j(public.late_mood)`, 'function public.j(public.late_mood)'],
  ])('a watched table that gets %s of a stranger\'s is parked with the reason', async (_, change, named) => {
    await database.query(`create type public.late_mood as enum ('a'); create table public.late (id int primary key, v int, m public.late_mood); select freshet.watch('late')`)
    const inSql = (sql: string) => sql.replaceAll(/\bT\b/g, 'public.late').replaceAll(/\bBOB\b/g, bob).replaceAll(/\bF\b/g, 'lair.f')
    await database.query(inSql(change))
    expect(await detect()).toEqual([`parked: cannot watch public.late: ${inSql(named)} belongs to role ${bob}, whom Freshet does not trust`])
    expect(await detect()).toEqual([])
    await database.query(`select freshet.unwatch('late'); drop table public.late; drop type public.late_mood cascade`)
  })

  it('a member of a trusted role is trusted, and a member of the owner\'s; a superuser always is', async () => {
    const [member, group, chief] = [`member_${bob}`, `group_${bob}`, `chief_${bob}`]
    await database.query(`create role ${member}; create role ${group}; create role ${chief} superuser; create table public.theirs (id int primary key); alter table public.theirs owner to ${member}`)
    await expect(database.query(`select freshet.watch('theirs')`)).rejects.toThrow('whom Freshet does not trust')
    await database.query(`grant ${group} to ${member}; select freshet.trust('${group}'), freshet.watch('theirs')`)
    await database.query(`revoke ${group} from ${member}`)
    expect(await detect()).toEqual([expect.stringContaining(`it belongs to role ${member}`)])
    await database.query(`do $$ begin execute format('grant %I to ${member}', current_user); end $$`)
    expect(await detect()).toEqual(['reset'])
    await database.query(`do $$ begin execute format('revoke %I from ${member}', current_user); end $$; alter table public.theirs owner to ${chief}`)
    expect(await detect()).toEqual([])
    await database.query(`select freshet.unwatch('theirs'), freshet.distrust('${group}'); drop table public.theirs; drop role ${member}, ${group}, ${chief}`)
  })

  it('a cast that a stranger makes to a type of his own keeps nobody from watching', async () => {
    await database.query(`create type public.open_mood as enum ('a'); create table public.open (id int primary key, m public.open_mood); grant usage on type public.open_mood to ${bob}`)
    await database.query(`set role ${bob}; create type lair.his as enum ('a'); create function lair.to_his(public.open_mood) returns lair.his language sql as 'select null::lair.his';
      create cast (public.open_mood as lair.his) with function lair.to_his(public.open_mood); reset role`)
    await database.query(`select freshet.watch('open')`)
    expect(await detect()).toEqual([])
  })

  it('whom it no longer trusts unparks nothing, and keeps nobody from parking', async () => {
    const other = await createDatabase()
    await other.query(`create schema lair authorization ${bob}; grant usage on schema freshet to ${bob}; grant execute on function freshet.watch, freshet.unwatch to ${bob}; select freshet.trust('${bob}')`)
    const client = await other.connect()
    await client.query(`set session authorization ${bob}; create table lair.t (id int primary key); select freshet.watch('lair.t')`)
    await client.query(`begin; select freshet.watch('lair.t', 'again')`)
    expect(await other.query('select * from freshet.detect_drift()')).toEqual([{ table_name: 'every table', outcome: expect.stringMatching(/^postponed: what is watched is being changed by process \d+/) as string }])
    const distrusted = other.query(`select freshet.distrust('${bob}')`)
    await expect.poll(() => other.query(`select from pg_locks where not granted and relation = 'freshet.settings'::regclass`)).toHaveLength(1)
    await client.query('commit')
    await distrusted
    expect(await other.query('select parked is null as is_open from freshet.tables')).toEqual([{ is_open: false }])
    await expect(client.query(`select freshet.seal('lair.t')`)).rejects.toMatchObject({ code: '42501', message: expect.stringContaining('whom Freshet does not trust') as string })
    expect(await other.query('select parked is null as is_open from freshet.tables')).toEqual([{ is_open: false }])
  })

  it('nobody but the owner of the schema trusts, also not a role that is trusted', async () => {
    await database.query(`grant usage on schema freshet to ${bob}; select freshet.trust('${bob}')`)
    const client = await database.connect()
    await client.query(`set session authorization ${bob}`)
    for (const call of [`trust('${bob}')`, `distrust('${bob}')`]) await expect(client.query(`select freshet.${call}`), call).rejects.toMatchObject({ code: '42501' })
    await expect(client.query(`insert into freshet.trusted values ('${bob}')`)).rejects.toMatchObject({ code: '42501' })
    await database.query(`grant execute on function freshet.trust to ${bob}`)
    await expect(client.query(`select freshet.trust('${bob}')`)).rejects.toMatchObject({ code: '42501' })
    await database.query(`select freshet.distrust('${bob}')`)
    await expect(database.query(`select freshet.trust(null)`)).rejects.toThrow('no such role')
  })

  it('a state of a table whose owner changed since anybody looked is refused before it is read', async () => {
    const other = await createDatabase()
    const ticker = await Ticker.start(other)
    await other.query(`create table public.given (id int primary key); insert into public.given values (1); select freshet.watch('given')`)
    await ticker.tick()
    const pool = createPool({ url: other.url, max: 6, onError: () => undefined })
    const source = new DatabaseSource(pool)
    const [channel] = (await source.readCatalog()).channels
    if (channel === undefined) throw new Error('there is no channel')
    await other.query(`create schema lair authorization ${bob}; alter table public.given owner to ${bob}`)
    await expect(source.openState([{ channel, filters: new Map() }], ticker.versionAfter)).rejects.toThrow('belongs to a role that is not trusted')
    await other.query('alter table public.given owner to current_user')
    const reading = await source.openState([{ channel, filters: new Map() }], ticker.versionAfter)
    await reading.close()
    await pool.end()
  })
})
