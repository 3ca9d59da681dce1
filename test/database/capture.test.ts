import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createDatabase, hasPostgres, postgresMajor } from '../support/database.ts'
import { captured, CLOCKS, expectReplayEqualsTable, linesOf, setClock } from '../support/replay.ts'

/** Into one partition. */
const WHOLLY_PARTITIONED = 'partition by hash (id)'

describe.skipIf(!hasPostgres).each(CLOCKS)('capture of every kind of write, the clock %s', async (clock) => {
  if (!hasPostgres) return
  const database = await createDatabase()
  await setClock(database, clock)
  const query: typeof database.query = (sql, values) => database.query(sql, values)
  let tables = 0

  /** A watched table of its own for each test: (id int primary key, v text), or as told. */
  async function watchedTable(columns = 'id int primary key, v text', filters = '{}', rest = ''): Promise<string> {
    tables += 1
    const name = `public.t${tables}`
    await query(`create table ${name} (${columns}) ${rest}`)
    await query('select freshet.watch($1::regclass, filters => $2)', [name, filters])
    if (rest === WHOLLY_PARTITIONED) await query(`create table ${name}_all partition of ${name} for values with (modulus 1, remainder 0)`)
    return name
  }

  async function client() {
    const connection = await database.connect()
    return (sql: string) => connection.query(sql)
  }

  it('writes one line for each row that a statement inserts, updates or deletes', async () => {
    const t = await watchedTable()
    expect(await captured(database, t, `insert into ${t} values (1, 'a'), (2, null)`)).toEqual([
      '{"id":1} → {"id":1,"v":"a"}', '{"id":2} → {"id":2,"v":null}'])
    expect(await captured(database, t, `update ${t} set v = 'b' where id = 1`)).toEqual(['{"id":1} → {"id":1,"v":"b"}'])
    expect(await captured(database, t, `delete from ${t} where id = 2`)).toEqual(['{"id":2} → gone'])
    expect(await captured(database, t, `update ${t} set v = 'c' where false`)).toEqual([])
  })

  it('captures both halves of an upsert', async () => {
    const t = await watchedTable()
    await query(`insert into ${t} values (1, 'a')`)
    const lines = await captured(database, t, `insert into ${t} values (1, 'x'), (2, 'y') on conflict (id) do update set v = excluded.v || '!'`)
    expect([...lines].sort()).toEqual(['{"id":1} → {"id":1,"v":"x!"}', '{"id":2} → {"id":2,"v":"y"}'])
    expect(await captured(database, t, `insert into ${t} values (1, 'z') on conflict do nothing`)).toEqual([])
  })

  it.skipIf(postgresMajor < 15)('captures all three actions of MERGE', async () => {
    const t = await watchedTable()
    await query(`insert into ${t} values (1, 'a'), (2, 'b')`)
    await query(`merge into ${t} t using (values (1, 'x'), (2, null), (3, 'z')) s (id, v) on s.id = t.id
      when matched and s.v is null then delete when matched then update set v = s.v when not matched then insert values (s.id, s.v)`)
    await expectReplayEqualsTable(database, t)
    expect(await linesOf(database, t)).toHaveLength(5)
  })

  it('captures COPY', async () => {
    const t = await watchedTable()
    await query(`copy ${t} from program 'printf "1\\ta\\n2\\tb\\n"'`)
    expect((await linesOf(database, t)).map(({ key }) => key)).toEqual(['{"id":1}', '{"id":2}'])
  })

  it('captures what foreign keys cascade', async () => {
    const parent = await watchedTable()
    const child = await watchedTable(`id int primary key, parent int references ${parent} on delete cascade on update cascade`)
    await query(`insert into ${parent} values (1, 'a'), (2, 'b')`)
    await query(`insert into ${child} values (10, 1), (11, 1), (12, 2)`)
    expect(await captured(database, child, `delete from ${parent} where id = 1`)).toEqual(['{"id":10} → gone', '{"id":11} → gone'])
    expect(await captured(database, child, `update ${parent} set id = 3`)).toEqual(['{"id":12} → {"id":12,"parent":3}'])
  })

  it('tells a changed key as a delete and an upsert, and never deletes what a shift has just written', async () => {
    const t = await watchedTable('id int primary key, v text', '{v}')
    await query(`insert into ${t} select i, 'v' || i from generate_series(3, 1, -1) i`)
    expect([...await captured(database, t, `update ${t} set id = id + 1`)].sort()).toEqual([
      '{"id":1} → gone (was {"v":"v1"})', '{"id":2} → {"id":2,"v":"v1"}', '{"id":2} → {"id":2,"v":"v1"} (was {"v":"v2"})',
      '{"id":3} → gone (was {"v":"v3"})', '{"id":3} → {"id":3,"v":"v2"}', '{"id":4} → {"id":4,"v":"v3"}'])
    await expectReplayEqualsTable(database, t)
  })

  it('tells keys that are equal but written differently apart', async () => {
    const t = await watchedTable('id numeric primary key, v text')
    await query(`insert into ${t} values (1.0, 'a')`)
    expect([...await captured(database, t, `update ${t} set id = 1.00`)].sort()).toEqual([
      '{"id":"1.0"} → gone', '{"id":"1.00"} → {"id":"1.00","v":"a"}'])
    await expectReplayEqualsTable(database, t)
  })

  it('captures moves between partitions and writes straight to a partition', async () => {
    const t = await watchedTable('id int, area int, v text, primary key (id, area)', '{area}', 'partition by list (area)')
    await query(`create table ${t}_1 partition of ${t} for values in (1)`)
    // Its columns in another order.
    await query(`create table ${t}_2 (v text, area int not null, id int not null)`)
    await query(`alter table ${t} attach partition ${t}_2 for values in (2)`)
    expect(await captured(database, t, `insert into ${t} values (1, 1, 'a')`)).toEqual(['{"id":1,"area":1} → {"id":1,"area":1,"v":"a"}'])
    expect([...await captured(database, t, `update ${t} set area = 2`)].sort()).toEqual([
      '{"id":1,"area":1} → gone (was {"area":1})', '{"id":1,"area":2} → {"id":1,"area":2,"v":"a"}'])
    expect(await captured(database, t, `begin isolation level serializable; insert into ${t}_2 (id, area) values (3, 2); commit`)).toEqual([
      '{"id":3,"area":2} → {"id":3,"area":2,"v":null}'])
    await query(`delete from ${t} where id = 3`)
    expect(await captured(database, t, `update ${t}_2 set v = 'b'`)).toEqual(['{"id":1,"area":2} → {"id":1,"area":2,"v":"b"} (was {"area":2})'])
    expect(await captured(database, t, `insert into ${t}_1 (id, area) values (5, 1)`)).toEqual(['{"id":5,"area":1} → {"id":5,"area":1,"v":null}'])
    expect([...await captured(database, t, `update ${t}_1 set id = 6`)].sort()).toEqual([
      '{"id":5,"area":1} → gone (was {"area":1})', '{"id":6,"area":1} → {"id":6,"area":1,"v":null}'])
    await expectReplayEqualsTable(database, t)
  })

  it('locks only the partitions that are written, however many there are', async () => {
    const t = await watchedTable('id int primary key, v text', '{}', 'partition by range (id)')
    await query(`do $$ begin for i in 0..99 loop execute format('create table ${t}_%s partition of ${t} for values from (%s) to (%s)', i, i * 10, i * 10 + 10); end loop; end $$`)
    await query('select freshet.detect_drift()')
    const run = await client()
    await run('begin')
    for (let id = 0; id < 8; id += 1) await run(`insert into ${t} values (${id}, 'a')`)
    await run(`update ${t} set v = 'b' where id = 3`)
    const { rows } = await run(`select count(distinct relation)::int as locked from pg_locks join pg_class on pg_class.oid = relation
      where pid = pg_backend_pid() and relkind = 'r' and relname ~ '_\\d+$' and relnamespace = 'public'::regnamespace`)
    await run('commit')
    expect(rows).toEqual([{ locked: 1 }])
  })

  it('writes a reset line for TRUNCATE, of a table, by cascade and of a single partition', async () => {
    const t = await watchedTable()
    const child = await watchedTable(`id int primary key, parent int references ${t}`)
    const parts = await watchedTable('id int primary key, v text', '{}', 'partition by list (id)')
    await query(`create table ${parts}_1 partition of ${parts} for values in (1)`)
    await query(`select freshet.watch('${parts}')`)
    expect(await captured(database, child, async () => {
      expect(await captured(database, t, `truncate ${t} cascade`)).toEqual(['truncate'])
    })).toEqual(['truncate'])
    expect(await captured(database, parts, `truncate ${parts}_1`)).toEqual(['truncate'])
  })

  describe('a statement that fills or empties a table', () => {
    beforeAll(async () => { await query(`select freshet.configure('bulk_rows', '5000')`) })
    afterAll(async () => { await query(`select freshet.configure('bulk_rows', '100000')`) })

    /** How many of its statements start the table anew. */
    async function beginnings(table: string, statements: readonly string[]): Promise<number> {
      let count = 0
      for (const statement of statements) count += (await captured(database, table, statement)).filter((line) => line === 'bulk').length
      return count
    }

    const rows = (t: string, from: number, to: number, v = `'row ' || i`): string => `insert into ${t} select i, ${v} from generate_series(${from}, ${to}) i`
    const batches = (t: string, count: number, size: number, v?: string): readonly string[] =>
      Array.from({ length: count }, (_, batch) => rows(t, 100_001 + batch * size, 100_000 + (batch + 1) * size, v))

    it('starts it anew instead of telling more rows than the setting says and more than half of it', async () => {
      const t = await watchedTable()
      expect(await captured(database, t, rows(t, 1, 5_000))).toHaveLength(5_000)
      expect(await captured(database, t, rows(t, 5_001, 20_000))).toEqual([...Array(1_000).fill(expect.stringContaining('→')) as unknown[], 'bulk'])
      expect(await beginnings(t, [`copy ${t} from program 'seq -f "%.0f,copied" 20001 60000' with (format csv)`])).toBe(1)
      const few = await captured(database, t, rows(t, 60_001, 66_000))
      expect([few.length, new Set(few).size, few[0], few.at(-1)]).toEqual([6_000, 6_000, '{"id":60001} → {"id":60001,"v":"row 60001"}', '{"id":66000} → {"id":66000,"v":"row 66000"}'])
      await query(`analyze ${t}`)
      expect(new Set(await captured(database, t, `delete from ${t} where id > 60000 or id < 10`)).size).toBe(6_009)
      expect(await beginnings(t, [`delete from ${t}`])).toBe(1)
      expect(await captured(database, t, `insert into ${t} values (1, 'a')`)).toEqual(['{"id":1} → {"id":1,"v":"a"}'])
      expect(await captured(database, t, rows(t, 1_001, 2_000))).toHaveLength(1_000)
    })

    it('is not fooled by old statistics, by what is compressed, nor by rows that are not like the others', async () => {
      const unanalyzed = 'with (autovacuum_enabled = off)'
      const old = await watchedTable(undefined, undefined, unanalyzed)
      await query(`insert into ${old} values (1, 'a')`)
      await query(`vacuum analyze ${old}`)
      expect(await beginnings(old, batches(old, 3, 6_000))).toBe(1)
      const emptied = await watchedTable(undefined, undefined, unanalyzed)
      await query(rows(emptied, 1, 40_000))
      await query(`delete from ${emptied} where id < 39991`)
      await query(`vacuum analyze ${emptied}`)
      expect(await beginnings(emptied, batches(emptied, 3, 6_000))).toBe(0)
      const compressed = await watchedTable(undefined, undefined, unanalyzed)
      expect(await beginnings(compressed, batches(compressed, 2, 5_001, `repeat('x', 2100)`))).toBe(0)
      const wide = await watchedTable(undefined, undefined, unanalyzed)
      await query(rows(wide, 1, 40_000))
      await query(`analyze ${wide}`)
      expect(await beginnings(wide, batches(wide, 1, 6_000, `repeat('x', 1900)`))).toBe(0)
      const uneven = await watchedTable(undefined, undefined, unanalyzed)
      await query(rows(uneven, 1, 5_000))
      expect(await beginnings(uneven, batches(uneven, 3, 6_000, `case when i % 6000 between 1 and 100 then repeat(md5(i::text), 40) end`))).toBe(1)
    })

    it.skipIf(postgresMajor < 15)('Harmless: does not read what is stored apart from the rows', async () => {
      const t = await watchedTable('id int primary key, v text, w text')
      await query(`alter table ${t} alter v set storage external`)
      await query(`insert into ${t} select i, repeat('x', 10000) from generate_series(1, 6000) i`)
      const toast = (await query<{ name: string }>(`select reltoastrelid::regclass::text as name from pg_class where oid = '${t}'::regclass`))[0]?.name ?? ''
      const reads = async (): Promise<number> => Number((await query<{ reads: string }>(`select pg_stat_get_blocks_fetched('${toast}'::regclass) as reads`))[0]?.reads)
      const writer = await database.connect()
      const fetched = async (sql: string): Promise<number> => {
        await writer.query(`select pg_stat_force_next_flush()`)
        const before = await reads()
        await writer.query(sql)
        await writer.query(`select pg_stat_force_next_flush()`)
        return await reads() - before
      }
      // A deleted row's values are looked up to be deleted, whoever captures it.
      await query(`alter table ${t} disable trigger all`)
      const unwatched = await fetched(`begin; delete from ${t}; rollback`)
      await query(`alter table ${t} enable trigger all; select freshet.watch('${t}')`)
      expect(await fetched(`begin; delete from ${t}; rollback`)).toBeLessThan(unwatched * 1.1)
    })

    it('tells each row where it must', async () => {
      const t = await watchedTable()
      await query(`select freshet.configure('bulk_rows', 'never')`)
      expect(new Set(await captured(database, t, rows(t, 1, 7_000))).size).toBe(7_000)
      await query(`delete from freshet.settings where name = 'bulk_rows'`)
      const without = await watchedTable()
      await query(`insert into freshet.settings values ('bulk_rows', '5000')`)
      expect(new Set(await captured(database, without, rows(without, 1, 7_000))).size).toBe(7_000)
      await query(`select freshet.configure('bulk_rows', '5000')`)
    })
  })

  it('captures replica-role sessions once', async () => {
    const plain = await watchedTable()
    const parts = await watchedTable('id int primary key, v text', '{v}', 'partition by list (id)')
    await query(`create table ${parts}_1 partition of ${parts} for values in (1, 2)`)
    const run = await client()
    await run('set session_replication_role = replica')
    for (const t of [plain, parts]) {
      expect(await captured(database, t, async () => {
        await run(`insert into ${t} values (1, 'a')`)
        await run(`update ${t} set id = 2`)
        await run(`delete from ${t}`)
        await run(`truncate ${t}`)
      })).toHaveLength(5)
    }
  })

  it('captures a logical replication subscriber: first copy, changes and TRUNCATE, each once', async () => {
    const publisher = await createDatabase({ migrated: false })
    const t = await watchedTable()
    const create = `create table ${t} (id int primary key, v text)`
    await publisher.query(create)
    await publisher.query(`insert into ${t} values (1, 'copied')`)
    await publisher.query(`create publication p for table ${t}`)
    // In one cluster create subscription would wait for its own transaction: the slot is made by hand.
    const slot = `slot_${Date.now()}`
    await publisher.query(`select pg_create_logical_replication_slot('${slot}', 'pgoutput')`)
    const { username, password, port, pathname } = new URL(publisher.url)
    await query(`create subscription s connection 'host=127.0.0.1 port=${port} user=${username} password=${password} dbname=${pathname.slice(1)}'
      publication p with (create_slot = false, slot_name = '${slot}')`)
    try {
      const until = async (count: number) => expect.poll(async () => (await linesOf(database, t)).length, { timeout: 30_000, interval: 50 }).toBe(count)
      await until(1)
      await publisher.query(`insert into ${t} values (2, 'b'), (3, 'c')`)
      await publisher.query(`update ${t} set id = 4, v = 'moved' where id = 3`)
      await publisher.query(`delete from ${t} where id = 1`)
      await until(6)
      await expectReplayEqualsTable(database, t)
      await publisher.query(`truncate ${t}`)
      await until(7)
      await expectReplayEqualsTable(database, t)
    } finally {
      await query('alter subscription s disable')
      await query('alter subscription s set (slot_name = none)')
      await query('drop subscription s')
      await expect.poll(() => publisher.query(`select from pg_replication_slots where slot_name = '${slot}' and not active`), { timeout: 30_000 }).toHaveLength(1)
      await publisher.query(`select pg_drop_replication_slot('${slot}')`)
    }
  })

  it('leaves no trace of what is rolled back, savepoints included', async () => {
    const t = await watchedTable()
    expect(await captured(database, t, async () => {
      const run = await client()
      await run(`begin; insert into ${t} values (1, 'a'); savepoint s; insert into ${t} values (2, 'b'); rollback to s`)
      await run(`insert into ${t} values (3, 'c'); commit`)
      await run(`begin; delete from ${t}; rollback`)
    })).toEqual(['{"id":1} → {"id":1,"v":"a"}', '{"id":3} → {"id":3,"v":"c"}'])
  })

  it.each(['repeatable read', 'serializable'])('captures %s writers', async (level) => {
    const t = await watchedTable()
    const [one, other] = [await client(), await client()]
    for (const run of [one, other]) await run(`begin isolation level ${level}; select 1`)
    await one(`insert into ${t} values (1, 'a')`)
    await other(`insert into ${t} values (2, 'b')`)
    await one(`update ${t} set v = 'a2' where id = 1; update ${t} set id = 3 where id = 1`)
    // Inserts that touch nothing of each other must not begin to conflict because of the trigger.
    await one('commit')
    await other('commit')
    await expectReplayEqualsTable(database, t)
  })

  it.each([
    ['an upsert', '', (id: number) => `insert into T values (${id}, 5) on conflict (id) do update set v = excluded.v`],
    ['a row locked before', '', (id: number) => `select from T where ctid = '(0,${id})' for update; update T set v = 5 where ctid = '(0,${id})'`],
    ['a trigger before the row', 'create trigger stamp before update on T for each row execute function public.stamp()', (id: number) => `update T set v = 5 where ctid = '(0,${id})'`],
  ])('reads nothing, so that SERIALIZABLE finds no new conflict, where a lock of its own is on the row: %s', async (_, trigger, write) => {
    const t = await watchedTable('id int primary key, v int')
    await query(`create or replace function public.stamp() returns trigger language plpgsql as $$ begin new.v := new.v + 1; return new; end $$`)
    await query(trigger.replace('T', t))
    await query(`insert into ${t} select i, i from generate_series(1, 3) i`)
    const [one, other] = [await client(), await client()]
    const keyScans = async (): Promise<string> => ((await one(`select pg_stat_get_xact_numscans(indexrelid) as count from pg_index where indrelid = '${t}'::regclass`)).rows[0] as { count: string }).count
    for (const run of [one, other]) await run('begin isolation level serializable; select 1')
    await one(write(1).replaceAll('T', t))
    const scans = await keyScans()
    await other(write(2).replaceAll('T', t))
    await one(`insert into ${t} values (100, 1)`)
    await other(`insert into ${t} values (200, 1)`)
    expect(await keyScans()).toBe(scans)
    await one('commit')
    await other('commit')
    await expectReplayEqualsTable(database, t)
  })

  describe.each(['read committed', 'serializable'])('the last line of a key is the table, where a row is written twice in one %s statement', (level) => {
    it('by a trigger of the host after the row or after the statement', async () => {
      for (const timing of ['for each row', 'for each statement']) {
        const t = await watchedTable('id int primary key, v int, n int default 0')
        await query(`create function public.rewrite_${tables}() returns trigger language plpgsql as
          $$ begin if pg_trigger_depth() = 1 then update ${t} set n = n + 1; end if; return null; end $$`)
        await query(`create trigger a_rewrite after insert or update on ${t} ${timing} execute function public.rewrite_${tables}()`)
        await query(`select freshet.detect_drift()`)
        const run = await client()
        await run(`begin isolation level ${level}; insert into ${t} values (1, 1), (2, 2); update ${t} set v = v + 1; commit`)
        await expectReplayEqualsTable(database, t)
      }
    })

    it('by a trigger of the host that acts as a replica, so that it fires no other', async () => {
      const t = await watchedTable('id int primary key, v int, n int default 0')
      await query(`create function public.rewrite_${tables}() returns trigger language plpgsql set session_replication_role = replica as
        $$ begin update ${t} set n = n + 1 where id = new.id; return null; end $$`)
      await query(`create trigger a_rewrite after insert or update on ${t} for each row execute function public.rewrite_${tables}()`)
      await query(`select freshet.detect_drift()`)
      const run = await client()
      await run(`begin isolation level ${level}; insert into ${t} values (1, 1), (2, 2); commit`)
      await run(`begin isolation level ${level}; update ${t} set v = v + 1; commit`)
      await expectReplayEqualsTable(database, t)
    })

    it.each(['', WHOLLY_PARTITIONED])('by a trigger of the host that brings a deleted row back (%s)', async (partitioning) => {
      const t = await watchedTable('id int primary key, v text', '{}', partitioning)
      await query(`create function public.revive_${tables}() returns trigger language plpgsql as
        $$ begin if old.v = 'phoenix' then insert into ${t} values (old.id, 'ash'); end if; return null; end $$`)
      await query(`create trigger a_revive after delete on ${t} for each row execute function public.revive_${tables}()`)
      await query('select freshet.detect_drift()')
      const run = await client()
      await run(`insert into ${t} values (1, 'phoenix'), (2, 'sparrow'), (3, 'sparrow')`)
      await run(`begin isolation level ${level}; delete from ${t}; commit`)
      await expectReplayEqualsTable(database, t)
    })

    it('by a cascade of a foreign key to itself', async () => {
      const t = await watchedTable('id int primary key, parent int')
      await query(`alter table ${t} add foreign key (parent) references ${t} on update cascade`)
      await query(`select freshet.detect_drift()`)
      await query(`insert into ${t} values (1, null), (2, 1), (3, 2)`)
      const run = await client()
      await run(`begin isolation level ${level}; update ${t} set id = id + 10; commit`)
      await expectReplayEqualsTable(database, t)
    })

    it('by a writable CTE', async () => {
      const t = await watchedTable()
      await query(`insert into ${t} values (1, 'a'), (2, 'b')`)
      const run = await client()
      await run(`begin isolation level ${level}`)
      await run(`with gone as (delete from ${t} where id = 1 returning id) insert into ${t} select id, 'again' from gone`)
      await run(`with old as (update ${t} set v = v || '1' returning *) insert into ${t} select id + 10, v from old`)
      await run('commit')
      await expectReplayEqualsTable(database, t)
    })
  })

  it.each(['read committed', 'repeatable read', 'serializable'].flatMap((level) => [[level, ''], [level, WHOLLY_PARTITIONED]]))(
    'the last line of a key is the table, where a volatile function writes the same rows (%s %s)', async (level, partitioning) => {
    const t = await watchedTable('id int primary key, v text', '{}', partitioning)
    const run = await client()
    await run(`insert into ${t} select i, 'a' from generate_series(1, 3) i`)
    await run(`create function public.meddle_${tables}(mine int) returns text language plpgsql set timezone = 'Asia/Tokyo' as
      $$ begin update ${t} set v = v || 'm' where id < mine; return 'set'; end $$`)
    await run(`begin isolation level ${level}`)
    await run(`update ${t} set v = public.meddle_${tables}(id)`)
    await run(`insert into ${t} select i, public.meddle_${tables}(i) from generate_series(10, 12) i`)
    await run('commit')
    await expectReplayEqualsTable(database, t)
  })

  it('takes the transition rows again in the next statement of a transaction', async () => {
    const t = await watchedTable()
    const run = await client()
    const scans = async (): Promise<number> => Number(((await run(`select pg_stat_get_xact_numscans(indexrelid) as count from pg_index where indrelid = '${t}'::regclass`)).rows[0] as { count: string }).count)
    const own = async (sql: string): Promise<number> => {
      const before = await scans()
      await run(sql)
      return await scans() - before
    }
    await run('begin')
    expect(await own(`insert into ${t} values (1, 'a'), (2, 'b')`)).toBe(0)
    expect(await own(`insert into ${t} values (3, 'c')`)).toBe(0)
    // Two in one message cannot be told from one that calls the other.
    expect(await own(`insert into ${t} values (4, 'd'); insert into ${t} values (5, 'e')`)).toBe(1)
    await run('commit')
    await expectReplayEqualsTable(database, t)
  })

  it('writers over two watched tables in opposite order do not deadlock where they would not without capture', async () => {
    const [a, b] = [await watchedTable(), await watchedTable()]
    await Promise.all(Array.from({ length: 8 }, async (_, writer) => {
      const run = await client()
      const order = writer % 2 === 0 ? [a, b] : [b, a]
      for (let round = 0; round < 10; round += 1) {
        const id = writer * 100 + round
        await run(`begin; insert into ${order[0] ?? ''} values (${id}, 'x'); insert into ${order[1] ?? ''} values (${id}, 'x');
          update ${order[0] ?? ''} set v = 'y' where id = ${id}; delete from ${order[1] ?? ''} where id = ${id} - 1; commit`)
      }
    }))
    await expectReplayEqualsTable(database, a)
    await expectReplayEqualsTable(database, b)
  })

  it('the log replayed is the table, after any mixture of statements, transactions and isolation levels', async () => {
    const plain = await watchedTable('id int primary key, v text')
    const composite = await watchedTable('a int, id int, v text, primary key (a, id)', '{v}')
    const numbers = await watchedTable('id numeric primary key, v text')
    const hosted = await watchedTable('id int primary key, v text, n int default 0', '{v}')
    const parts = await watchedTable('id int, v text not null, primary key (id, v)', '{v}', 'partition by list (v)')
    await query(`create table ${parts}_a partition of ${parts} for values in ('a'); create table ${parts}_b partition of ${parts} for values in ('b', 'c')`)
    await query(`create function public.count_up() returns trigger language plpgsql as
      $$ begin if pg_trigger_depth() = 1 then update ${hosted} set n = n + 1 where id = new.id; end if; return null; end $$`)
    await query(`create trigger count_up after insert or update on ${hosted} for each row execute function public.count_up()`)
    await query('select freshet.detect_drift()')
    const all = [plain, composite, numbers, hosted, parts]
    const run = await client()

    const id = fc.integer({ min: 1, max: 5 })
    const v = fc.constantFrom(`'a'`, `'b'`, `'c'`)
    const numeral = fc.tuple(id, fc.constantFrom('', '.0', '.00')).map(([whole, rest]) => `${whole}${rest}`)
    const statement = fc.constantFrom(...all).chain((t) => {
      const key = t === numbers ? numeral : id.map(String)
      const target = t === composite ? `${t} (a, id, v)` : `${t} (id, v)`
      const values = fc.tuple(key, v).map(([k, value]) => t === composite ? `(1, ${k}, ${value})` : `(${k}, ${value})`)
      const conflict = t === composite ? '(a, id)' : t === parts ? '(id, v)' : '(id)'
      return fc.oneof(
        fc.array(values, { minLength: 1, maxLength: 3 }).map((rows) => `insert into ${target} values ${rows.join(', ')} on conflict do nothing`),
        fc.tuple(values, key).map(([row, k]) => `insert into ${target} values ${row} on conflict ${conflict} do update set id = ${k}`),
        fc.tuple(v, key).map(([value, k]) => `update ${t} set v = ${value} where id >= ${k}`),
        fc.tuple(key, key).map(([from, to]) => `update ${t} set id = ${to} where id = ${from}`),
        fc.constantFrom('1', '-1').map((step) => `update ${t} set id = id + ${step}`),
        key.map((k) => `delete from ${t} where id = ${k}`),
        fc.tuple(key, v).map(([k, value]) =>
          `with gone as (delete from ${t} where id = ${k} returning *) update ${t} set v = ${value} where id in (select id + 1 from gone)`),
        fc.constantFrom(`truncate ${t}`, `delete from ${t}`, `update ${t} set id = 6 - id`),
      )
    })
    const transaction = fc.record({
      level: fc.constantFrom('read committed', 'repeatable read', 'serializable'),
      // Two in one message share a mark.
      statements: fc.array(fc.oneof({ weight: 3, arbitrary: statement }, fc.tuple(statement, statement).map((two) => two.join('; '))), { minLength: 1, maxLength: 6 }),
      end: fc.constantFrom('commit', 'commit', 'rollback'),
    })
    await fc.assert(fc.asyncProperty(fc.array(transaction, { minLength: 1, maxLength: 6 }), async (transactions) => {
      for (const { level, statements, end } of transactions) {
        await run(`begin isolation level ${level}`)
        for (const sql of statements) {
          await run('savepoint s')
          // A duplicate key is a statement like any other: nothing of it may remain.
          await run(sql).catch(async (error: unknown) => {
            expect(error).toMatchObject({ code: '23505' })
            await run('rollback to s')
          })
        }
        await run(end)
      }
      for (const t of all) await expectReplayEqualsTable(database, t)
    }), { numRuns: 20, seed: 20_260 })
  })
})
