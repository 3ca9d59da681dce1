import { setTimeout as delay } from 'node:timers/promises'
import type { Client } from 'pg'
import { describe, expect, it } from 'vitest'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { captured, expectReplayEqualsTable, linesOf } from '../support/replay.ts'

/** Everything of Freshet's in a database that a refused or undone call must leave as it was. */
async function traces(database: TestDatabase): Promise<unknown> {
  return database.query(`select (select json_agg(channels order by name) from freshet.channels) as channels, (select json_agg(tables order by id) from freshet.tables) as tables,
    (select count(*) from freshet.changes) as changes, (select count(*) from pg_trigger where tgname ~ '^freshet_') as triggers,
    (select count(*) from pg_proc where proname ~ '^capture_(row_)?[0-9]') as functions`)
}

async function processId(client: Client): Promise<number> {
  const { rows: [row] } = await client.query<{ id: number }>('select pg_backend_pid() as id')
  return row?.id ?? 0
}

describe.skipIf(!hasPostgres)('watch and unwatch', async () => {
  if (!hasPostgres) return
  const database = await createDatabase()
  const query: typeof database.query = (sql, values) => database.query(sql, values)
  const hasForeignTables = (await query(`select from pg_available_extensions where name = 'file_fdw'`)).length > 0
  const hasIcu = (await query(`select from pg_collation where collprovider = 'i'`)).length > 0

  it('names the channel after the table, and answers with the name', async () => {
    await query('create table public.options (id int primary key, label text)')
    expect(await query(`select freshet.watch('options') as name`)).toEqual([{ name: 'options' }])
    expect(await query(`select freshet.watch('options', 'other.name-1') as name`)).toEqual([{ name: 'other.name-1' }])
    expect(await query(`select name, filters, columns, public from freshet.channels order by name`)).toEqual([
      { name: 'options', filters: [], columns: null, public: true }, { name: 'other.name-1', filters: [], columns: null, public: true }])
  })

  it('takes the columns that a primary key only includes for what they are', async () => {
    await query('create table public.including (id int, note text, primary key (id) include (note))')
    await query(`select freshet.watch('including')`)
    expect(await captured(database, 'public.including', 'insert into public.including values (1, null)')).toEqual(['{"id":1} → {"id":1,"note":null}'])
  })

  it('does nothing at all the second time, and waits for nobody', async () => {
    await query(`create table public.twice (id int primary key, a text, b text)`)
    const call = `select freshet.watch('twice', filters => '{a,b}', columns => '{a}')`
    await query(call)
    const writer = await database.connect()
    await writer.query(`begin; insert into public.twice values (1)`)
    const before = await traces(database)
    await query(call)
    await query(`select freshet.watch('twice', filters => '{b,a,b}', columns => '{id,a}')`)
    await writer.query('rollback')
    expect(await traces(database)).toEqual(before)
  })

  it('resets when columns, filters or the public flag change', async () => {
    await query(`create table public.changing (id int primary key, a text, b text)`)
    await query(`select freshet.watch('changing')`)
    for (const change of [`filters => '{a}'`, `filters => '{a}', columns => '{b}'`, `filters => '{a}', columns => '{b}', public => false`]) {
      expect(await captured(database, 'public.changing', `select freshet.watch('changing', ${change})`)).toEqual(['watch'])
    }
  })

  it('lets no writer in flight say in the old columns what comes after the reset', async () => {
    await query(`create table public.flight (id int primary key, a text, b text)`)
    await query(`select freshet.watch('flight', columns => '{a}')`)
    const writer = await database.connect()
    await writer.query(`begin; insert into public.flight values (1, 'a', 'b')`)
    const watching = query(`select freshet.watch('flight', columns => '{a,b}')`)
    await expect.poll(() => query(`select from pg_locks where relation = 'public.flight'::regclass and not granted`)).toHaveLength(1)
    await writer.query(`update public.flight set a = 'a2'; commit`)
    await watching
    await query(`update public.flight set a = 'a3'`)
    expect((await linesOf(database, 'public.flight')).map(({ row }) => row)).toEqual([
      '{"id":1,"a":"a"}', '{"id":1,"a":"a2"}', 'watch', '{"id":1,"a":"a3","b":"b"}'])
  })

  it('is undone with the transaction it is called in', async () => {
    await query(`create table public.undone (id int primary key)`)
    const before = await traces(database)
    await query(`begin; select freshet.watch('undone'); insert into public.undone values (1); rollback`)
    expect(await traces(database)).toEqual(before)
  })

  it('unwatch removes the channel, and with the last one the triggers and functions', async () => {
    const before = await query(`select count(*) from pg_trigger where tgname ~ '^freshet_'`)
    for (const rest of ['', 'partition by list (id)']) {
      await query(`create table public.leaving (id int primary key, v text) ${rest}`)
      if (rest !== '') await query('create table public.leaving_1 partition of public.leaving default')
      await query(`select freshet.watch('leaving'), freshet.watch('leaving', 'leaving2')`)
      expect(await query(`select freshet.unwatch('leaving') as known`)).toEqual([{ known: true }])
      expect(await captured(database, 'public.leaving', `insert into public.leaving values (1)`)).toHaveLength(1)
      expect(await query(`select freshet.unwatch('leaving2') as known`)).toEqual([{ known: true }])
      expect(await query(`select freshet.unwatch('leaving2') as known`)).toEqual([{ known: false }])
      await query(`insert into public.leaving values (2); truncate public.leaving; drop table public.leaving`)
    }
    expect(await query(`select count(*) from pg_trigger where tgname ~ '^freshet_'`)).toEqual(before)
    expect(await query(`select from freshet.tables where name like '%leaving%'`)).toEqual([])
  })

  it('a table dropped and made anew takes its channel again', async () => {
    await query(`create table public.phoenix (id int primary key); select freshet.watch('phoenix'), freshet.watch('phoenix', 'ashes'); drop table public.phoenix`)
    await query(`create table public.phoenix (id int primary key, v text); select freshet.watch('phoenix')`)
    expect(await captured(database, 'public.phoenix', `insert into public.phoenix values (1, 'x')`)).toEqual(['{"id":1} → {"id":1,"v":"x"}'])
    await query(`select freshet.unwatch('ashes')`)
    expect(await query(`select name from freshet.tables where not exists (select from pg_class where oid = relation)`)).toEqual([])
  })

  it('one channel of a dropped table can be unwatched, and then the other', async () => {
    await query(`create table public.lost (id int primary key); select freshet.watch('lost', 'lost1'), freshet.watch('lost', 'lost2'); drop table public.lost`)
    expect(await query(`select freshet.unwatch('lost1') as known`)).toEqual([{ known: true }])
    expect(await query(`select freshet.unwatch('lost2') as known`)).toEqual([{ known: true }])
    expect(await query(`select from freshet.tables where name = 'public.lost'`)).toEqual([])
  })

  it('a channel whose column is gone does not make the unwatching of another one fail the writes', async () => {
    await query(`create table public.gap (id int primary key, a text, b text)`)
    await query(`select freshet.watch('gap', 'gap_a', filters => '{a}', columns => '{b}'), freshet.watch('gap', 'gap_all')`)
    await query(`alter table public.gap drop column a; select freshet.unwatch('gap_all')`)
    expect(await captured(database, 'public.gap', `insert into public.gap values (1, 'b')`)).toEqual(['drift'])
  })

  it('makes no difference between readers and no readers', async () => {
    await query(`create table public.dumped (id int primary key)`)
    const reader = await database.connect()
    await reader.query(`begin; select from public.dumped`)
    await query(`select freshet.watch('dumped')`)
    await reader.query('commit')
  })

  describe('refuses by name, with a hint, and changes nothing:', () => {
    const refusals: readonly (readonly [what: string, setup: string, call: string, message: string])[] = [
      ['a table without primary key', 'create table bare (id int)', `watch('bare')`, 'cannot watch public.bare: it has no primary key'],
      ['a deferrable primary key', 'create table later (id int primary key deferrable)', `watch('later')`, 'its primary key is deferrable'],
      ['a view', 'create view a_view as select 1 as id', `watch('a_view')`, 'it is a view'],
      ['a materialized view', 'create materialized view a_copy as select 1 as id', `watch('a_copy')`, 'it is a materialized view'],
      ['a foreign table', `create extension file_fdw; create server files foreign data wrapper file_fdw;
        create foreign table far (id int) server files options (filename '/dev/null')`, `watch('far')`, 'it is a foreign table'],
      ['an unlogged table', 'create unlogged table quick (id int primary key)', `watch('quick')`, 'it is unlogged and loses its rows'],
      ['an unlogged partition', 'create table mixed (id int primary key) partition by list (id); create unlogged table mixed_1 partition of mixed default',
        `watch('mixed')`, 'it has an unlogged partition'],
      ['a partition', 'create table whole (id int primary key) partition by list (id); create table piece partition of whole default', `watch('piece')`, 'it is a partition'],
      ['an inheritance parent', 'create table mother (id int primary key); create table child () inherits (mother)', `watch('mother')`, 'inheritance parent'],
      ['row-level security', 'create table guarded (id int primary key); alter table guarded enable row level security', `watch('guarded')`, 'row-level security'],
      ['an index', 'create table indexed (id int primary key)', `watch('indexed_pkey')`, 'it is an index'],
      ['a table of the system', '', `watch('pg_catalog.pg_class')`, 'it is a system table'],
      ['a table of its own', '', `watch('freshet.state')`, 'it is a system table'],
      ['no table', '', `watch(null)`, 'no such table'],
      ['no table of that number', '', `watch(1::oid::regclass)`, 'no such table'],
      ['an unknown column', 'create table plain (id int primary key, v text, f float8, since text, c text collate "C", g numeric(9,2), j jsonb)',
        `watch('plain', columns => '{v,w}')`, 'it has no column w to publish'],
      ['an unknown filter', '', `watch('plain', filters => '{w}')`, 'it has no column w to filter by'],
      ['a system column', '', `watch('plain', filters => '{xmin}')`, 'it has no column xmin to filter by'],
      ['a null column', '', `watch('plain', columns => '{null}')`, 'it has no column null to publish'],
      ['a filter called like a parameter', '', `watch('plain', filters => '{since}')`, 'cannot filter by since: the name is a parameter'],
      ['a filter of floating point', '', `watch('plain', filters => '{f}')`, 'type double precision may be written differently'],
      ['a filter of jsonb', '', `watch('plain', filters => '{j}')`, 'type jsonb may be written differently'],
      ['an illegal name', '', `watch('plain', 'Plain')`, `'Plain' is not a channel name`],
      ['an illegal default name', 'create table "Größe" (id int primary key)', `watch('"Größe"')`, `'Größe' is not a channel name`],
      ['a name too long', '', `watch('plain', repeat('x', 64))`, 'is not a channel name'],
      ['a name that is taken', `select freshet.watch('plain', 'taken'); create table rival (id int primary key)`, `watch('rival', 'taken')`, `channel 'taken' is taken by public.plain`],
    ]
    it.each(refusals.filter(([what]) => hasForeignTables || what !== 'a foreign table'))('%s', async (_, setup, call, message) => {
      if (setup !== '') await query(setup)
      const before = await traces(database)
      await expect(query(`select freshet.${call}`)).rejects.toMatchObject({
        message: expect.stringContaining(message) as string,
        hint: expect.stringMatching(/\w/) as string,
      })
      expect(await traces(database)).toEqual(before)
    })

    it('a temporary table', async () => {
      await expect(query(`create temporary table brief (id int primary key); select freshet.watch('brief')`)).rejects.toThrow('it is temporary')
    })

    it.skipIf(!hasIcu)('a filter whose collation calls different texts equal', async () => {
      await query(`create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false); create table loosely (id int primary key, v text collate loose)`)
      await expect(query(`select freshet.watch('loosely', filters => '{v}')`)).rejects.toThrow('cannot filter by v')
    })
  })
})

describe.skipIf(!hasPostgres)('a transaction that holds the table', async () => {
  if (!hasPostgres) return
  const databases = await Promise.all([createDatabase(), createDatabase(), createDatabase()])

  it('is named by watch, unwatch and uninstall within seconds, while writers hardly notice', async () => {
    const stalls = await Promise.all(databases.map(async (database, index) => {
      await database.query('create table public.held (id int primary key, v text)')
      if (index > 0) await database.query(`select freshet.watch('held')`)
      const before = await traces(database)
      const holder = await database.connect()
      await holder.query(`set application_name = 'a report'; begin; insert into public.held values (-1)`)
      const call = database.query(`select freshet.${['watch(\'held\')', 'unwatch(\'held\')', 'uninstall()'][index] ?? ''}`)
      const wait = { isOver: false }
      const refusal = expect(call).rejects.toMatchObject({
        code: '55P03', message: expect.stringContaining(`in use by process ${await processId(holder)} (a report)`) as string, hint: expect.stringContaining('Wait for that transaction') as string,
      })
      const settle = (): void => { wait.isOver = true }
      call.then(settle, settle)
      let worstMs = 0
      for (let id = 1; !wait.isOver; id += 1) {
        const atMs = performance.now()
        await database.query(`insert into public.held values (${id})`)
        worstMs = Math.max(worstMs, performance.now() - atMs)
        await delay(20)
      }
      await refusal
      await holder.query('rollback')
      if (index === 0) expect(await traces(database)).toEqual(before)
      else await expectReplayEqualsTable(database, 'public.held')
      return worstMs
    }))
    // 100 ms by design, and 6 s if writers queued behind it; the rest is for a busy machine.
    expect(Math.max(...stalls)).toBeLessThan(3_000)
  })
})

describe.skipIf(!hasPostgres)('uninstall', async () => {
  if (!hasPostgres) return
  const database = await createDatabase()
  const query: typeof database.query = (sql, values) => database.query(sql, values)

  it('refuses while somebody keeps tables of their own in the schema', async () => {
    await query('create table freshet.mine (id int)')
    await expect(query('select freshet.uninstall()')).rejects.toThrow(`holds tables that are not Freshet's`)
    await query('drop table freshet.mine')
  })

  it('leaves no trigger, function or schema, and the tables of the host as they were', async () => {
    const host = `select (select json_agg(a order by id) from public.a) as a, (select json_agg(p order by id) from public.p) as p,
      (select json_agg(tgname::text) from pg_trigger where not tgisinternal) as triggers,
      (select count(*) from pg_proc where pronamespace = 'public'::regnamespace) as functions`
    await query(`create table public.a (id int primary key, v text); create table public.p (id int primary key) partition by list (id);
      create table public.p1 partition of public.p default; insert into public.a values (1, 'x'); insert into public.p values (2);
      create function public.host() returns trigger language plpgsql as 'begin return new; end'; create trigger host before insert on public.a for each row execute function public.host()`)
    const before = await query(host)
    await query(`select freshet.watch('a'), freshet.watch('a', 'a2', filters => '{v}'), freshet.watch('p')`)
    await query('select freshet.uninstall()')
    expect(await query(host)).toEqual(before)
    expect(await query(`select from pg_namespace where nspname = 'freshet'`)).toEqual([])
    await query(`insert into public.a values (2, 'y'); insert into public.p values (3); truncate public.p`)
  })
})
