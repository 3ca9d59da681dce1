/** Changes of the catalog that change how rows read, without one being written; and those that do not. */
import { describe, expect, it } from 'vitest'
import { createDatabase, hasPostgres, postgresMajor } from '../support/database.ts'

describe.skipIf(!hasPostgres)('what changes how rows read and writes none', async () => {
  if (!hasPostgres) return
  const database = await createDatabase()
  const query: typeof database.query = (sql, values) => database.query(sql, values)
  const detect = async () => (await query<{ outcome: string }>('select outcome from freshet.detect_drift()')).map(({ outcome }) => outcome)
  let tables = 0

  /** A watched table T of these columns; E, C and D are types of its own. */
  async function watched(setup: string): Promise<(sql: string) => string> {
    tables += 1
    const number = tables
    const own = (sql: string): string => sql.replaceAll(/\b([TECDR])\b/g, (_, name: string) => `public.${name.toLowerCase()}${number}`)
    await query(own(setup))
    await query(own(`insert into T (id) values (1); select freshet.watch('T')`))
    return own
  }

  it.each<[what: string, setup: string, change: string]>([
    ['a rewrite of the same type', 'create table T (id int primary key, price int)', 'alter table T alter price type int using price * 100'],
    ['a rewrite of a partitioned table', 'create table T (id int primary key, price int) partition by list (id); create table R partition of T default', 'alter table T alter price type int using price * 100'],
    ['a label renamed', `create type E as enum ('a', 'b'); create table T (id int primary key, e E)`, `alter type E rename value 'a' to 'c'`],
    ['a label renamed in an array', `create type E as enum ('a', 'b'); create table T (id int primary key, e E[])`, `alter type E rename value 'a' to 'c'`],
    ['a label renamed in a composite in an array', `create type E as enum ('a', 'b'); create type C as (x int, e E); create table T (id int primary key, c C[])`, `alter type E rename value 'a' to 'c'`],
    ['a label renamed under a domain', `create type E as enum ('a', 'b'); create domain D as E; create table T (id int primary key, d D)`, `alter type E rename value 'a' to 'c'`],
    ['a label renamed in a range', `create type E as enum ('a', 'b'); create type R as range (subtype = E); create table T (id int primary key, r R)`, `alter type E rename value 'a' to 'c'`],
    ['a label renamed in the row type of a table', `create type E as enum ('a', 'b'); create table C (e E[]); create table T (id int primary key, c C)`, `alter type E rename value 'a' to 'c'`],
    ['an attribute renamed', 'create type C as (x int, y int); create table T (id int primary key, c C)', 'alter type C rename attribute x to z'],
    ['an attribute added', 'create type C as (x int, y int); create table T (id int primary key, c C)', 'alter type C add attribute z int'],
    ['an attribute dropped, deep down', 'create type C as (x int, y int); create type D as (c C); create table T (id int primary key, d D[])', 'alter type C drop attribute x'],
    ['a type renamed, by which filters are compared', `create type E as enum ('a', 'b'); create table T (id int primary key, e E)`, 'alter type E rename to renamed_1; alter type public.renamed_1 rename to renamed_2'],
  ])('%s: a reset, once', async (_, setup, change) => {
    const own = await watched(setup)
    expect(await detect()).toEqual([])
    await query(own(change))
    expect(await detect()).toEqual(['reset'])
    expect(await detect()).toEqual([])
  })

  it.skipIf(postgresMajor < 17).each(['stored', ...postgresMajor < 18 ? [] : ['virtual']])('another expression of a %s column: a reset, once', async (kind) => {
    const own = await watched(`create table T (id int primary key, v int generated always as (id + 1) ${kind})`)
    await query(own('alter table T alter v set expression as (id + 2)'))
    expect(await detect()).toEqual(['reset'])
    expect(await detect()).toEqual([])
  })

  it.each([
    ['a grant on a column', 'grant select (price) on T to public'],
    ['statistics of a column', 'alter table T alter price set statistics 50'],
    ['another default', 'alter table T alter price set default 7'],
    ['CLUSTER', 'cluster T using PKEY'],
    ['VACUUM FULL', 'vacuum full T'],
    ['a grant, and later VACUUM FULL', 'grant update (price) on T to public', 'vacuum full T'],
    ['VACUUM FULL, and later a grant', 'vacuum full T', 'grant insert (price) on T to public'],
    ['ANALYZE', 'analyze T'],
    ['a type that is not of the table', `create type E as enum ('a'); alter type E rename value 'a' to 'b'`],
  ])('%s: nothing is said', async (_, ...changes) => {
    const own = await watched('create table T (id int primary key, price int)')
    for (const change of changes) {
      await query(own(change.replace('PKEY', `t${tables}_pkey`)))
      expect(await detect(), change).toEqual([])
    }
  })

  it('one table that cannot be mended is parked with the cause, and the others are looked at all the same', async () => {
    const stuck = await watched('create table T (id int primary key)')
    const other = await watched('create table T (id int primary key)')
    const third = await watched('create table T (id int primary key)')
    await query(`create function public.forbid() returns event_trigger language plpgsql as $$ begin raise exception 'DDL only by migrations'; end $$;
      create event trigger forbidding on ddl_command_start when tag in ('CREATE FUNCTION') execute function public.forbid()`)
    await query(stuck('alter table T add column n int'))
    await query(other('alter table T disable trigger user'))
    await query(third('alter table T enable row level security'))
    const parked = 'parked: its definition has changed, and the functions cannot be made anew (DDL only by migrations)'
    expect(await detect()).toEqual([parked, expect.stringMatching(/^parked: trigger .* is disabled/), expect.stringMatching(/^parked: .*row-level security/)])
    expect(await detect()).toEqual([])
    await query('drop event trigger forbidding')
    expect(await detect()).toEqual(['reset'])
    await query(other('drop table T'))
    await query(third('drop table T'))
    await detect()
  })

  it('another table under the watched name: parked, and it says so; watch and unwatch mend it', async () => {
    const own = await watched('create table T (id int primary key)')
    const t = own('T')
    await query(`create table public.fresh_one (id int primary key); begin; alter table ${t} rename to old_one; alter table public.fresh_one rename to ${t.slice(7)}; commit`)
    const reason = `the table was renamed to public.old_one, and another one is called ${t} by now; watch the one that is meant`
    expect(await detect()).toEqual([`parked: ${reason}`])
    expect(await detect()).toEqual([])
    // What makes functions anew does not choose for anybody.
    await query(`select freshet.configure('bulk_rows', '100000')`)
    expect(await detect()).toEqual([])
    await query(`select freshet.watch('public.old_one', '${t.slice(7)}')`)
    expect(await detect()).toEqual([])
    expect(await query(`select name, parked from freshet.tables where relation = 'public.old_one'::regclass`)).toEqual([{ name: 'public.old_one', parked: null }])
    await query(`select freshet.unwatch('${t.slice(7)}'), freshet.watch('${t}')`)
    expect(await query(`select parked from freshet.tables where name = '${t}' and relation = '${t}'::regclass`)).toEqual([{ parked: null }])
  })

  it('no other table under the watched name: it follows, and says so', async () => {
    const own = await watched('create table T (id int primary key)')
    await query(own(`alter table T rename to "Followed One"`))
    expect(await detect()).toEqual([`reset: ${own('T')} is called public."Followed One" by now`])
    expect(await detect()).toEqual([])
  })

  it('a stranger\'s advisory lock holds up neither watch nor the look for drift', async () => {
    const stranger = await database.connect()
    await stranger.query(`select pg_advisory_lock(hashtextextended('freshet.watch', 0))`)
    const own = await watched('create table T (id int primary key)')
    await query(own('alter table T add column n int'))
    expect(await detect()).toEqual(['reset'])
    await stranger.end()
  })
})
