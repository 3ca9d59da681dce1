/** Harmless: whatever a host does, it sees the same with Freshet and without. */
import fc from 'fast-check'
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { hasPostgres } from '../support/database.ts'
import { expectReplayEqualsTable } from '../support/replay.ts'
import { createBareSide, createWatchedSide, leftBy, play, type Watching } from '../support/twin-sides.ts'
import { parseScript, type Protocol, type Step } from '../support/twin.ts'

const SCRIPTS = new URL('./twin/', import.meta.url)

const WAYS = [
  { clock: 'asleep', wake: 'notify', detectsDrift: true, protocol: 'simple' },
  { clock: 'awake', wake: 'poll', detectsDrift: false, protocol: 'extended' },
] as const satisfies readonly (Watching & { readonly protocol: Protocol })[]

describe.skipIf(!hasPostgres).each(WAYS)('a watched twin, the clock $clock, wake = $wake, drift detected: $detectsDrift, protocol $protocol', ({ protocol, ...watching }) => {
  // PREPARE TRANSACTION forbids NOTIFY: a stated limit.
  const names = readdirSync(SCRIPTS).filter((name) => name.endsWith('.sql') && (watching.wake === 'poll' || name !== 'two-phase.sql'))

  it.each(names)('Harmless: %s is as it is without Freshet', async (name) => {
    const steps = parseScript(readFileSync(new URL(name, SCRIPTS), 'utf8'))
    const [bare, watched] = [await createBareSide(protocol), await createWatchedSide(protocol, watching)]
    const [expected, seen] = await Promise.all([play(bare, steps), play(watched, steps)])
    expect(expected.surprises).toEqual([])
    expect(seen.transcript).toBe(expected.transcript)
    expect(await leftBy(watched)).toBe(await leftBy(bare))
    expect(await watched.database.query('select count(*) > 3 as has_captured from freshet.changes')).toEqual([{ has_captured: true }])
  })
})

describe.skipIf(!hasPostgres)('a watched twin, where it differs', () => {
  it('a stated limit: a trigger that empties or alters what its own statement has just cascaded into finds our triggers still to come', async () => {
    const script = (ending: string) => parseScript(`
create table parent (id int primary key);
create table leaf (id int primary key, parent int references parent on delete cascade);
insert into parent values (1);
insert into leaf values (1, 1);
create function empty_leaf() returns trigger language plpgsql as $$ begin truncate leaf; return null; end $$;
create trigger zz_after after delete on parent for each row execute function empty_leaf();
${ending}
delete from parent;
`)
    const [bare, watched] = [await createBareSide('simple'), await createWatchedSide('simple', WAYS[0])]
    expect((await play(bare, script(''))).surprises).toEqual([])
    expect((await play(watched, script('-- fails 55006'))).surprises).toEqual([])
  })

  it('a stated limit: what one INSERT or DELETE touches is kept until its end, beyond work_mem in a temporary file', async () => {
    const script = (ending: string) => parseScript(`
create table t (id int primary key, v text);
set work_mem = '64kB';
set temp_file_limit = '1MB';
${ending}
insert into t select i, repeat('x', 100) from generate_series(1, 20000) i;
update t set v = v || 'y';
`)
    const [bare, watched] = [await createBareSide('simple'), await createWatchedSide('simple', WAYS[0])]
    expect((await play(bare, script(''))).surprises).toEqual([])
    expect((await play(watched, script('-- fails 53400'))).surprises).toEqual([])
  })
})

/** A family of tables: keys that collide, cascades, partitions, a trigger of the host that writes the row again and another table. */
const FAMILY = parseScript(`
create table parent (id int primary key, v text, n int default 0 check (n < 60));
create table child (id int primary key, parent int default 0 references parent on delete cascade on update cascade deferrable, v text unique);
create table p (id int, area int, v text default 'new', primary key (id, area)) partition by list (area);
create table p_0 partition of p for values in (0);
create table p_1 (v text, area int not null, id int not null);
alter table p attach partition p_1 for values in (1);
create table audit (id int generated always as identity primary key, what text);
create function note() returns trigger language plpgsql as $$
begin
  insert into audit (what) values (tg_op || ' ' || new.id);
  update parent set n = n + 10 where id = new.id and n % 7 = 3;
  if new.v = 'refused' then raise exception 'refused %', new.id; end if;
  return null;
end $$;
create trigger zz_note after insert or update on parent for each row execute function note();
`)
const TABLES = ['parent', 'child', 'p', 'audit']
const BEGIN_ANEW = `
do $$ begin alter table p attach partition p_1 for values in (1); exception when wrong_object_type then null; end $$;
truncate parent, child, p, audit restart identity;
insert into parent (id) select i from generate_series(0, 3) i;
insert into p select i, i % 2 from generate_series(0, 3) i`
const END = parseScript(`commit;\n${TABLES.map((table) => `select * from ${table} order by 1, 2;`).join('\n')}\nselect lastval();`)

const key = fc.integer({ min: 0, max: 5 })
const text = fc.constantFrom('a', 'b', 'c', 'refused')
function statement(template: (...values: readonly [number, number, string]) => string): fc.Arbitrary<string> {
  return fc.tuple(key, key, text).map((values) => template(...values))
}

const STATEMENTS = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom('begin;', 'begin isolation level serializable;', 'commit;', 'rollback;', 'savepoint s;', 'rollback to s;', 'release s;', 'set constraints all deferred;') },
  { weight: 3, arbitrary: statement((id, n, v) => `insert into parent values (${id}, '${v}', ${n}) on conflict (id) do update set v = excluded.v, n = parent.n + 1 returning *, xmax = 0 as is_new;`) },
  statement((id, n, v) => `insert into parent values (${id}, '${v}', ${n}), (${n}, '${v}', ${id}) returning lastval();`),
  { weight: 2, arbitrary: statement((id, n, v) => `update parent set n = n + ${n}, v = '${v}' where id >= ${id} returning *;`) },
  statement((id, other) => `update parent set id = ${other} where id = ${id};`),
  statement((id) => `update parent set id = id + ${id + 1};`),
  { weight: 2, arbitrary: statement((id) => `delete from parent where id = ${id} returning *;`) },
  { weight: 3, arbitrary: statement((id, parent, v) => `insert into child values (${id}, ${parent}, '${v}${id}') on conflict do nothing;`) },
  statement((id, parent) => `update child set parent = ${parent} where id >= ${id} returning *;`),
  { weight: 2, arbitrary: statement((id, area, v) => `insert into p values (${id}, ${area % 3}, '${v}') on conflict (id, area) do update set v = p.v || excluded.v returning tableoid::regclass, *;`) },
  { weight: 2, arbitrary: statement((id) => `update p set area = 1 - area where id >= ${id} returning tableoid::regclass, *;`) },
  statement((id, other, v) => `update p_1 set id = ${other}, v = '${v}' where id = ${id};`),
  statement((id) => `delete from p where id > ${id} returning *;`),
  statement((id, n, v) => `merge into parent t using (values (${id}), (${n})) s (id) on s.id = t.id when matched and t.n > 3 then delete when matched then update set v = '${v}' when not matched then insert values (s.id, '${v}', ${n});`),
  statement((id) => `with gone as (delete from p where id = ${id} returning id), kept as (update parent set n = n + 1 where id in (select id from gone) returning *) select * from kept;`),
  statement((id) => `copy parent (id) from program 'echo ${id}';`),
  fc.constantFrom('truncate parent cascade;', 'truncate p_0;', 'truncate p;', 'truncate child;'),
  fc.constantFrom('alter table p detach partition p_1;', 'alter table p attach partition p_1 for values in (1);', 'select pg_current_xact_id_if_assigned() is null as has_no_id;', 'select lastval();'),
)

function steps(statements: readonly string[]): readonly Step[] {
  return statements.map((sql) => ({ session: 'a', kind: 'runs', sql, copyData: '', fails: null, fromMajor: 0 }))
}

describe.skipIf(!hasPostgres).each(WAYS)('a watched twin under chance, the clock $clock, protocol $protocol', ({ protocol, ...watching }) => {
  it('Harmless, No loss: whatever statements follow each other, all is as it is without Freshet, and the log tells it', async () => {
    const [bare, watched] = [await createBareSide(protocol), await createWatchedSide(protocol, { ...watching, detectsDrift: false })]
    for (const side of [bare, watched]) await play(side, FAMILY)
    await watched.database.query('select freshet.detect_drift()')
    const sides = [bare, watched].map((side) => ({ ...side, betweenSteps: () => Promise.resolve() }))
    await fc.assert(fc.asyncProperty(fc.array(STATEMENTS, { minLength: 4, maxLength: 16 }), async (statements) => {
      await Promise.all(sides.map(({ database }) => database.query(BEGIN_ANEW)))
      const [expected, seen] = await Promise.all(sides.map((side) => play(side, [...steps(statements), ...END])))
      expect(seen?.transcript).toBe(expected?.transcript)
      // A partition that comes or goes is told once drift is detected; one that is emptied has its table read again.
      const told = statements.some((sql) => sql.startsWith('alter table p ') || sql === 'truncate p_0;') ? TABLES.filter((table) => table !== 'p') : TABLES
      for (const table of told) await expectReplayEqualsTable(watched.database, `public.${table}`)
    }), { numRuns: 20, seed: 16, endOnFailure: true })
  })
})
