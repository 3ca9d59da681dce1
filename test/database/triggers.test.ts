/** Our triggers and their functions on tables that change hands and places: nobody's statement fails of them, and nobody writes lines through them who may not. */
import { describe, expect, it } from 'vitest'
import { createDatabase, hasPostgres } from '../support/database.ts'
import { tableIdOf } from '../support/node.ts'
import { captured, CLOCKS, describeLine, expectReplayEqualsTable, linesOf, setClock } from '../support/replay.ts'

describe.skipIf(!hasPostgres).each(CLOCKS)('triggers and their functions, the clock %s', async (clock) => {
  if (!hasPostgres) return
  const database = await createDatabase()
  await setClock(database, clock)
  const query: typeof database.query = (sql, values) => database.query(sql, values)
  const detect = async () => (await query<{ outcome: string }>('select outcome from freshet.detect_drift()')).map(({ outcome }) => outcome)
  const suffix = Math.random().toString(36).slice(2)

  it('Harmless: a watched table becomes a partition of a watched one; the first is parked, the second begins anew and is whole', async () => {
    await query(`create table public.grown (id int primary key, v text); select freshet.watch('public.grown'); insert into public.grown values (1, 'a')`)
    await query(`begin; alter table public.grown rename to grown_old; create table public.grown (id int primary key, v text) partition by range (id);
      select freshet.watch('public.grown', 'grown_parts'); alter table public.grown attach partition public.grown_old for values from (0) to (1000); commit`)
    const [old, whole] = [await tableIdOf(database, 'public.grown_old'), await tableIdOf(database, 'public.grown')]
    // Nobody has looked yet: whoever writes by either name is heard where the other table is followed.
    expect(await captured(database, 'public.grown', `insert into public.grown values (2, 'b'); update public.grown_old set v = 'c' where id = 1`))
      .toEqual(['{"id":2} → {"id":2,"v":"b"}', '{"id":1} → {"id":1,"v":"c"}'])
    expect((await detect()).sort()).toEqual(['parked: the table was renamed to public.grown_old, and another one is called public.grown by now; watch the one that is meant', 'reset'])
    expect(await detect()).toEqual([])
    await query('insert into public.grown values (3, null); delete from public.grown where id = 1')
    expect(await captured(database, 'public.grown', 'truncate public.grown_old')).toEqual(['truncate'])
    await expectReplayEqualsTable(database, 'public.grown')
    // Each goes by itself, in either order.
    await query(`select freshet.unwatch('grown')`)
    expect(await detect()).toEqual(['reset'])
    expect(await query(`select from pg_trigger where tgrelid = 'public.grown_old'::regclass and tgname like 'freshet%\\_${old}'`)).toEqual([])
    expect(await captured(database, 'public.grown', `insert into public.grown values (4, 'd')`)).toHaveLength(1)
    await query(`select freshet.watch('public.grown', 'again')`)
    await query(`select freshet.unwatch('grown_parts'), freshet.unwatch('again')`)
    expect(await query(`select from pg_trigger where tgname like 'freshet%\\_${whole}'`)).toEqual([])
  })

  it('a partition that was watched by itself, detached again: both are as they would be', async () => {
    await query(`create table public.part (id int primary key, v text); create table public.whole (id int primary key, v text) partition by range (id);
      select freshet.watch('public.part'), freshet.watch('public.whole'); alter table public.whole attach partition public.part for values from (0) to (10)`)
    await detect()
    await query(`alter table public.whole detach partition public.part`)
    expect((await detect()).sort()).toEqual(['reset', 'reset'])
    expect(await captured(database, 'public.whole', `insert into public.part values (1, 'a'); update public.part set v = 'b'; delete from public.part; truncate public.part`)).toEqual([])
    expect((await linesOf(database, 'public.part')).slice(-4).map(describeLine)).toEqual(['{"id":1} → {"id":1,"v":"a"}', '{"id":1} → {"id":1,"v":"b"}', '{"id":1} → gone', 'truncate'])
    await query(`select freshet.unwatch('whole'), freshet.unwatch('part')`)
    expect(await query(`select tgname from pg_trigger where tgrelid = 'public.part'::regclass`)).toEqual([])
  })

  it('a watched partitioned table becomes a part of a larger one: its writers go on, loudly', async () => {
    await query(`create table public.middle (id int primary key) partition by range (id); create table public.leaf partition of public.middle for values from (0) to (10);
      select freshet.watch('public.middle'); create table public.top (id int primary key) partition by range (id);
      alter table public.top attach partition public.middle for values from (0) to (100)`)
    expect(await captured(database, 'public.middle', 'insert into public.top values (1)')).toEqual(['drift'])
    expect(await detect()).toEqual(['parked: cannot watch public.middle: it is a partition'])
    await query(`select freshet.unwatch('middle'); drop table public.top`)
  })

  it('Harmless: whoever owned the table can be dropped, and whoever owns it by now can take partitions in', async () => {
    const [old, next] = [`old_${suffix}_${clock}`, `next_${suffix}_${clock}`]
    await query(`create role ${old}; create role ${next}; create schema hands authorization ${next}; create table hands.t (id int primary key); create table hands.p (id int primary key) partition by range (id);
      alter table hands.t owner to ${old}; alter table hands.p owner to ${old}; select freshet.trust('${old}'), freshet.trust('${next}'); select freshet.watch('hands.t'), freshet.watch('hands.p', 'p')`)
    await query(`alter table hands.t owner to ${next}; alter table hands.p owner to ${next}; drop role ${old}`)
    const owner = await database.connect()
    await owner.query(`set role ${next}; create table hands.p_1 partition of hands.p for values from (1) to (2); create table hands.p_2 (id int primary key);
      alter table hands.p attach partition hands.p_2 for values from (2) to (3)`)
    expect(await captured(database, 'hands.p', () => owner.query('insert into hands.p values (1), (2)'))).toEqual(['{"id":1} → {"id":1}', '{"id":2} → {"id":2}'])
    await owner.query('reset role; drop table hands.t')
    await query(`drop schema hands cascade; drop role ${next}`)
    await detect()
    await query(`select freshet.unwatch('t'), freshet.unwatch('p')`)
  })

  it('No ghost: a stranger who puts them on a table of his own writes nothing into the channel of another, and keeps nobody from ending it', async () => {
    const stranger = `stranger_${suffix}_${clock}`
    await query(`create role ${stranger}; create schema den authorization ${stranger}; grant usage on schema freshet to ${stranger};
      create table public.prey (id int primary key, v text); select freshet.watch('public.prey');
      create table public.pieces (id int primary key, v text) partition by range (id); create table public.piece partition of public.pieces default; select freshet.watch('public.pieces')`)
    const [prey, pieces] = [await tableIdOf(database, 'public.prey'), await tableIdOf(database, 'public.pieces')]
    const thief = await database.connect()
    await thief.query(`set role ${stranger}`)
    for (const [table, id] of [['prey', prey], ['pieces', pieces]] as const) {
      await thief.query(`create table den.${table} (id int primary key, v text);
        create trigger r after insert or update or delete on den.${table} for each row execute function freshet.capture_row_${id}();
        create trigger s after insert on den.${table} referencing new table as new_rows for each statement execute function freshet.capture_${id}();
        create trigger t after truncate on den.${table} for each statement execute function freshet.capture_${id}()`)
      expect(await captured(database, `public.${table}`, () =>
        thief.query(`insert into den.${table} values (1, 'ghost'), (2, 'ghost'); update den.${table} set v = 'g'; delete from den.${table} where id = 1; truncate den.${table}`))).toEqual([])
    }
    await query(`select freshet.unwatch('prey'), freshet.unwatch('pieces')`)
    expect(await query(`select from pg_trigger where not tgisinternal and tgname not like 'freshet%'`)).toEqual([])
    await thief.query(`insert into den.prey values (1, 'x')`)
    await thief.query('reset role')
    await query(`drop schema den cascade; drop owned by ${stranger}; drop role ${stranger}`)
  })

  it('unwatch does not wait for a table in use that somebody put them on', async () => {
    await query(`create table public.used (id int primary key); select freshet.watch('public.used'); create table public.held (id int primary key)`)
    const id = await tableIdOf(database, 'public.used')
    await query(`create trigger t after insert on public.held for each row execute function freshet.capture_row_${id}()`)
    const holder = await database.connect()
    await holder.query('begin; insert into public.held values (1)')
    await query(`select freshet.unwatch('used')`)
    await holder.query('insert into public.held values (2); commit')
    await query('drop table public.held')
  })
})
