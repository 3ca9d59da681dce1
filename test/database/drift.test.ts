import { describe, expect, it } from 'vitest'
import { createDatabase, hasPostgres } from '../support/database.ts'
import { tableIdOf } from '../support/node.ts'
import { captured, CLOCKS, linesOf, replay, rowsOf, setClock } from '../support/replay.ts'
import { createRoleDatabase } from '../support/roles.ts'

describe.skipIf(!hasPostgres).each(CLOCKS)('a watched table that changes its shape, the clock %s', async (clock) => {
  if (!hasPostgres) return
  const database = await createDatabase()
  await setClock(database, clock)
  const query: typeof database.query = (sql, values) => database.query(sql, values)
  const detect = async () => (await query<{ outcome: string }>('select outcome from freshet.detect_drift()')).map(({ outcome }) => outcome)
  let tables = 0

  async function watchedTable(options = '', columns = 'id int primary key, label text, grp int, n int', rest = ''): Promise<string> {
    tables += 1
    const t = `public.t${tables}`
    await query(`create table ${t} (${columns}) ${rest}; select freshet.watch('${t}'${options})`)
    return t
  }

  it('nothing changed: nothing is said', async () => {
    await watchedTable()
    expect(await detect()).toEqual([])
  })

  it('a partition for a moment, written through its parent: a reset', async () => {
    const t = await watchedTable()
    await query(`insert into ${t} values (1, 'a', 1, 1), (2, 'a', 1, 1); create table ${t}_parent (like ${t} including all) partition by list (id)`)
    expect(await detect()).toEqual([])
    await query(`alter table ${t}_parent attach partition ${t} default; delete from ${t}_parent where id = 1; alter table ${t}_parent detach partition ${t}`)
    expect(await detect()).toEqual(['reset'])
    await query(`alter table ${t} alter column n set default 1; grant select (n) on ${t} to public`)
    expect(await detect()).toEqual([])
  })

  const filtered = `, filters => '{grp}', columns => '{label}'`
  it.each<[what: string, options: string, change: string, write: string, outcome: string | RegExp]>([
    ['a published column renamed', '', 'alter table T rename label to title', `insert into T (id, title) values (2, 'b'); update T set n = 1`, 'reset'],
    ['a column dropped', '', 'alter table T drop column n', `update T set label = 'x'`, 'reset'],
    ['a column added with a default', '', `alter table T add column extra timestamptz default now()`, `update T set label = 'x'`, 'reset'],
    ['a column retyped', '', 'alter table T alter column n type text', `update T set n = 'x'`, 'reset'],
    ['the key retyped', '', 'alter table T alter column id type numeric', `update T set id = 1.5`, 'reset'],
    ['the key renamed', '', 'alter table T rename id to number', `update T set n = 1; update T set number = 9; delete from T`, 'reset'],
    ['another key', '', 'alter table T drop constraint C; alter table T add primary key (grp)', `update T set grp = 5`, 'reset'],
    ['a column of the list renamed', filtered, 'alter table T rename label to title', `update T set title = 'x'`, /^parked: column label is gone; watch the table again$/],
    ['a filter dropped', filtered, 'alter table T drop column grp', `update T set label = 'x'`, /^parked: column grp is gone; watch the table again$/],
    ['a filter retyped to floating point', filtered, 'alter table T alter column grp type float8', `update T set grp = 0.1`, /^parked: cannot filter by grp: /],
    ['the key dropped, and keys twice', '', 'alter table T drop constraint C', `insert into T values (1, 'twice'), (1, 'thrice'); update T set n = 1; delete from T where n = 1`, /^parked: .* has no primary key$/],
    ['the key deferrable', '', 'alter table T drop constraint C; alter table T add primary key (id) deferrable', `update T set n = 1`, /^parked: .* primary key is deferrable$/],
  ])('%s: the host\'s writes go on, and a reset or a reason follows', async (_, options, change, write, outcome) => {
    const t = await watchedTable(options)
    await query(`insert into ${t} values (1, 'a', 1, 1)`)
    const inTable = (sql: string) => sql.replaceAll(/\bT\b/g, t).replaceAll(/\bC\b/g, `${t.slice(7)}_pkey`)
    // Connections of the pool have captured before: their plans and caches are the old ones.
    const writer = await database.connect()
    await writer.query(`update ${t} set n = 2`)
    await query(inTable(change))
    const newcomer = await database.connect()
    const lines = await captured(database, t, async () => {
      await newcomer.query(`begin; ${inTable(write)}`)
      await newcomer.query('rollback')
      await writer.query(inTable(write))
    })
    expect(new Set(lines)).toEqual(new Set(['drift']))
    const found = await detect()
    expect(found).toEqual([typeof outcome === 'string' ? outcome : expect.stringMatching(outcome)])
    expect(await detect()).toEqual([])
    if (outcome === 'reset') {
      const resetAt = (await linesOf(database, t)).length
      const key = change.includes('number') ? 'number' : change.includes('(grp)') ? 'grp' : 'id'
      await query(`delete from ${t}; insert into ${t} (${key === 'grp' ? 'id, grp' : key}) values (${key === 'grp' ? '7, 7' : '7'})`)
      expect([...replay((await linesOf(database, t)).slice(resetAt)).values()]).toEqual(await rowsOf(database, t))
    }
  })

  it.each([
    ['table', 'primary key', ''], ['partitioned table', 'primary key', 'partition by range (id)'],
  ])('a column of a %s captured as text, retyped to anything: the host\'s writes go on, and a reset follows', async (_, key, partitioning) => {
    await query(`create table public.retyped (id bigint ${key}, a bigint, b bigint) ${partitioning}`)
    if (partitioning !== '') await query('create table public.retyped_all partition of public.retyped default')
    await query(`select freshet.watch('public.retyped'); insert into public.retyped values (1, 2, 3)`)
    const writer = await database.connect()
    const write = () => captured(database, 'public.retyped', () => writer.query('update public.retyped set a = a'))
    await write()
    for (const change of ['a type int[] using array[a]::int[]', 'b type json using to_json(b)']) {
      await query(`alter table public.retyped alter ${change}`)
      expect(await write()).toEqual(['drift'])
      expect(await detect()).toEqual(['reset'])
    }
    expect(await write()).toEqual(['{"id":"1"} → {"id":"1","a":[2],"b":3}'])
    // The key, between two writes of one transaction.
    await writer.query(`begin; update public.retyped set a = a; alter table public.retyped ${partitioning === '' ? 'alter id type int' : 'alter a type text'}; update public.retyped set a = a; commit`)
    expect(await detect()).toEqual(['reset'])
    await query('drop table public.retyped')
    await detect()
  })

  it('a renamed column is noticed at the next write, in every isolation level', async () => {
    for (const level of ['read committed', 'repeatable read', 'serializable']) {
      const t = await watchedTable()
      const writer = await database.connect()
      await writer.query(`insert into ${t} values (1, 'a')`)
      await writer.query(`begin isolation level ${level}; select 1`)
      await query(`alter table ${t} rename label to title`)
      expect(await captured(database, t, () => writer.query(`insert into ${t} values (2, 'b'); commit`)), level).toEqual(['drift'])
    }
    await detect()
  })

  it('the table renamed, moved to another schema, or its schema renamed: a drift line, then a reset', async () => {
    await query('create schema attic')
    const t = await watchedTable()
    const write = async (name: string, id: number) => captured(database, name, `insert into ${name} values (${id})`)
    await query(`alter table ${t} rename to moved`)
    expect(await write('public.moved', 1)).toEqual(['drift'])
    expect(await detect()).toEqual([`reset: ${t} is called public.moved by now`])
    await query('alter table public.moved set schema attic')
    expect(await write('attic.moved', 2)).toEqual(['drift'])
    expect(await detect()).toEqual(['reset: public.moved is called attic.moved by now'])
    await query('alter schema attic rename to loft')
    expect(await write('loft.moved', 3)).toEqual(['drift'])
    expect(await detect()).toEqual(['reset: attic.moved is called loft.moved by now'])
    expect(await write('loft.moved', 4)).toEqual(['{"id":4} → {"id":4,"label":null,"grp":null,"n":null}'])
    expect(await query(`select name from freshet.tables where relation = 'loft.moved'::regclass`)).toEqual([{ name: 'loft.moved' }])
  })

  it('the table dropped: parked, and unwatch cleans up', async () => {
    const t = await watchedTable(`, channel => 'dropped'`)
    await query(`drop table ${t}`)
    expect(await detect()).toEqual(['parked: the table was dropped'])
    await query(`select freshet.unwatch('dropped')`)
    expect(await detect()).toEqual([])
  })

  it.each(['insert', 'update', 'delete', 'row', 'truncate'])('freshet_%s_<id> disabled or dropped: parked by name, and watch mends it', async (kind) => {
    const t = await watchedTable(`, channel => 'mended'`)
    const trigger = `freshet_${kind}_${await tableIdOf(database, t)}`
    for (const [change, reason] of [
      [`alter table ${t} disable trigger ${trigger}`, `trigger ${trigger} on ${t} is disabled; watch the table again`],
      [`drop trigger ${trigger} on ${t}`, `trigger ${trigger} is missing on ${t}; watch the table again`],
    ] as const) {
      await query(change)
      expect(await detect()).toEqual([`parked: ${reason}`])
      await query(`insert into ${t} values (1)`)
      expect(await captured(database, t, `select freshet.watch('${t}', 'mended')`)).toEqual(['watch'])
      expect(await detect()).toEqual([])
      await query(`delete from ${t}`)
      expect(await captured(database, t, `insert into ${t} values (1, 'a'); update ${t} set n = 1; delete from ${t}; truncate ${t}`)).toHaveLength(4)
    }
    await query(`select freshet.unwatch('mended')`)
  })

  it('triggers disabled and enabled again between two looks: a reset all the same', async () => {
    const t = await watchedTable()
    await query(`alter table ${t} disable trigger user; insert into ${t} values (1); alter table ${t} enable trigger user`)
    // `enable trigger user` also turns the replica trigger into an ordinary one.
    expect(await detect()).toEqual([expect.stringMatching(/^parked: trigger freshet_\w+ on .* is not enabled as watch\(\) left it/)])
    await query(`drop table ${t}`)
    await detect()
    const other = await watchedTable()
    const trigger = `freshet_insert_${await tableIdOf(database, other)}`
    await query(`alter table ${other} disable trigger ${trigger}`)
    await query(`alter table ${other} enable trigger ${trigger}`)
    expect(await detect()).toEqual(['reset'])
  })

  it('what does not concern capture resets nobody', async () => {
    const t = await watchedTable(`, columns => '{label}'`)
    await query(`create function public.quiet() returns trigger language plpgsql as 'begin return null; end'`)
    await query(`create trigger quiet after insert on ${t} for each row execute function public.quiet()`)
    await detect()
    await query(`alter table ${t} disable trigger quiet; create index on ${t} (label); analyze ${t}; comment on table ${t} is 'x'; grant select on ${t} to public`)
    await query(`reindex table concurrently ${t}`)
    expect(await captured(database, t, `insert into ${t} values (1, 'a')`)).toEqual(['{"id":1} → {"id":1,"label":"a"}'])
    expect(await detect()).toEqual([])
  })

  it('row-level security: parked', async () => {
    const t = await watchedTable()
    await query(`alter table ${t} enable row level security`)
    expect(await detect()).toEqual([expect.stringMatching(/^parked: .* row-level security is enabled/)])
    await query(`insert into ${t} values (1); alter table ${t} disable row level security`)
    expect(await detect()).toEqual(['reset'])
  })

  it('a partition attached, detached or dropped: a reset, and everything of the new one is captured', async () => {
    const t = await watchedTable('', 'id int, area int, primary key (id, area)', 'partition by list (area)')
    await query(`create table ${t}_1 partition of ${t} for values in (1)`)
    expect(await detect()).toEqual(['reset'])
    await query(`create table ${t}_2 (area int not null, id int not null); insert into ${t}_2 values (2, 20)`)
    await query(`alter table ${t} attach partition ${t}_2 for values in (2)`)
    // Row triggers are cloned, so nothing is missed before the next look.
    expect(await captured(database, t, `insert into ${t}_2 values (2, 21); insert into ${t} values (22, 2)`)).toHaveLength(2)
    expect(await detect()).toEqual(['reset'])
    expect(await captured(database, t, `truncate ${t}_2`)).toEqual(['truncate'])
    await query(`insert into ${t} values (1, 1), (2, 2)`)
    await query(`alter table ${t} detach partition ${t}_2`)
    expect(await detect()).toEqual(['reset'])
    await query(`insert into ${t}_2 values (2, 3); truncate ${t}_2; drop table ${t}_2`)
    await query(`drop table ${t}_1`)
    expect(await detect()).toEqual(['reset'])
  })

  it('a new partition that is in use is looked at again later, and holds up nobody', async () => {
    const t = await watchedTable('', 'id int, area int, primary key (id, area)', 'partition by list (area)')
    await query(`create table ${t}_1 partition of ${t} for values in (1)`)
    const writer = await database.connect()
    await writer.query(`begin; insert into ${t} values (1, 1)`)
    expect(await detect()).toEqual([expect.stringContaining(`postponed: cannot lock ${t}_1: it is in use by process`)])
    await writer.query('commit')
    expect(await detect()).toEqual(['reset'])
    expect(await captured(database, t, `truncate ${t}_1`)).toEqual(['truncate'])
  })

  it('Loud: an open transaction that has called watch puts it off, and is named', async () => {
    const caller = await database.connect()
    await caller.query(`begin; create table public.pending (id int primary key); select freshet.watch('pending')`)
    expect(await detect()).toEqual([expect.stringMatching(/^postponed: .* by process \d+/)])
    await caller.query('commit')
    expect(await detect()).toEqual([])
  })
})

describe.skipIf(!hasPostgres).each(CLOCKS)('a schema owner who does not own the tables, the clock %s', async (clock) => {
  if (!hasPostgres) return
  const { database, server, app, connectAs } = await createRoleDatabase()
  await setClock(database, clock)
  const owner = await connectAs(app)
  const looker = await connectAs(server)
  const detect = async () => (await looker.query<{ outcome: string }>('select outcome from freshet.detect_drift()')).rows.map(({ outcome }) => outcome)

  it.each([
    ['select on the table', `revoke select on app.kept from ${server}`, `grant select on app.kept to ${server}`],
    ['usage on its schema', `revoke usage on schema app from ${server}`, `grant usage on schema app to ${server}`],
    ['rows, by row-level security', `alter table app.kept enable row level security`, `alter table app.kept disable row level security`],
  ])('that loses %s: writes go on, the table is parked with the reason, and comes back', async (_, loss, cure) => {
    await owner.query(`create table app.kept (id int primary key, v text); select freshet.watch('app.kept', 'kept'); insert into app.kept values (0)`)
    await database.query(loss)
    // One for the statement that inserts, one for each of the two rows that are updated.
    expect(await captured(database, 'app.kept', () => owner.query(`insert into app.kept values (1, 'a'); update app.kept set v = 'b'`))).toEqual(['drift', 'drift', 'drift'])
    expect(await detect()).toEqual([expect.stringMatching(/^parked: cannot watch app\.kept: (role .* may not read it|row-level security is enabled)/)])
    await database.query(cure)
    expect(await detect()).toEqual(['reset'])
    expect(await captured(database, 'app.kept', () => owner.query(`delete from app.kept where id = 1`))).toEqual(['{"id":1} → gone'])
    await owner.query(`select freshet.unwatch('kept'); drop table app.kept`)
  })

  it('that loses a role through which it could read: writes go on', async () => {
    const readers = `readers_${app}`
    await database.query(`create role ${readers}; grant ${readers} to ${server}`)
    await owner.query(`create table app.read (id int primary key); revoke all on app.read from ${server}; grant select on app.read to ${readers}; select freshet.watch('app.read')`)
    expect(await captured(database, 'app.read', () => owner.query(`insert into app.read values (1)`))).toEqual(['{"id":1} → {"id":1}'])
    await database.query(`revoke ${readers} from ${server}`)
    // What the trigger is given needs no reading.
    expect(await captured(database, 'app.read', () => owner.query(`insert into app.read values (2)`))).toEqual([clock === 'asleep' ? 'drift' : '{"id":2} → {"id":2}'])
    expect(await captured(database, 'app.read', () => owner.query(`insert into app.read values (3); insert into app.read values (4)`))).toContain('drift')
    expect(await detect()).toEqual([expect.stringContaining('may not read it')])
    await owner.query(`select freshet.unwatch('read'); drop table app.read`)
    await database.query(`drop role ${readers}`)
  })

  it('that cannot put a trigger on a new partition says to watch again, which mends it', async () => {
    await owner.query(`create table app.parts (id int primary key) partition by list (id); select freshet.watch('app.parts'); create table app.parts_1 partition of app.parts for values in (1)`)
    expect(await captured(database, 'app.parts', () => owner.query('insert into app.parts values (1)'))).toEqual(['{"id":1} → {"id":1}'])
    expect(await detect()).toEqual([`parked: trigger freshet_truncate_${await tableIdOf(database, 'app.parts')} is missing on app.parts_1; watch the table again`])
    await owner.query(`select freshet.watch('app.parts')`)
    expect(await detect()).toEqual([])
    expect(await captured(database, 'app.parts', () => owner.query('truncate app.parts_1'))).toEqual(['truncate'])
  })
})

describe.skipIf(!hasPostgres)('comparing a table with the catalog', () => {
  it('visits hardly more pages where 2,000 others are watched', async () => {
    const database = await createDatabase()
    const connection = await database.connect()
    // As on the server's connections.
    await connection.query('set enable_seqscan = off')
    await database.query(`create table t (id int primary key, n int); select freshet.watch('t', filters => '{n}'); create table other (id int primary key)`)
    const pagesVisited = async (): Promise<number> => {
      // The first time fills the caches of the connection.
      await connection.query('select freshet.detect_drift()')
      const { rows: [explained] } = await connection.query<{ 'QUERY PLAN': readonly { readonly Plan: Readonly<Record<string, number>> }[] }>(
        'explain (analyze, buffers, format json) select * from freshet.detect_drift()')
      const plan = explained?.['QUERY PLAN'][0]?.Plan ?? {}
      return Number(plan['Shared Hit Blocks']) + Number(plan['Shared Read Blocks'])
    }
    const alone = await pagesVisited()
    // What watching leaves in the catalog, but for itself: watching so many takes half a minute.
    await database.query(`do $$ begin
      for i in 1..2000 loop
        execute format('create table filler_%s (id int primary key)', i);
        execute format('create function freshet.capture_filler_%1$s() returns trigger language plpgsql as ''begin return null; end''', i);
        execute format('create function freshet.capture_row_filler_%1$s() returns trigger language plpgsql as ''begin return null; end''', i);
        for n in 1..5 loop
          execute format('create trigger t_%2$s after insert on filler_%1$s for each statement execute function freshet.capture_filler_%1$s()', i, n);
        end loop;
      end loop;
    end $$`)
    const among = await pagesVisited()
    expect(among).toBeLessThan(3 * alone)
  })
})
