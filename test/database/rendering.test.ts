import { describe, expect, it } from 'vitest'
import { createDatabase, hasExtension, hasPostgres, postgresMajor } from '../support/database.ts'
import { captured, CLOCKS, expectReplayEqualsTable, linesOf, setClock } from '../support/replay.ts'

const quote = (name: string) => `"${name.replaceAll('"', '""')}"`

describe.skipIf(!hasPostgres).each(CLOCKS)('what a line of the log says, the clock %s', async (clock) => {
  if (!hasPostgres) return
  const database = await createDatabase()
  await setClock(database, clock)
  const query: typeof database.query = (sql, values) => database.query(sql, values)
  const hasCitext = await hasExtension(database, 'citext')

  describe('names', () => {
    const awkward = [
      'select', 'Ünïcode ☃', 'with "quotes"', `it's`, '100%s %I %1$s', '$row', '$$', 'back\\slash', ' ', 'a.b', '{"json":1}', 'x'.repeat(63), 'ß'.repeat(31),
    ]
    it.each(awkward)('a schema, a table and columns may be called %j', async (name) => {
      const t = `${quote(name)}.${quote(name)}`
      await query(`create schema ${quote(name)}`)
      await query(`create table ${t} (${quote(name)} int primary key, other text)`)
      // A filter with a dot in its name is refused: see watch.
      const isFilter = !name.includes('.')
      await query(`select freshet.watch($1::regclass, channel => 'named', filters => $2)`, [t, isFilter ? [name] : []])
      await query(`insert into ${t} values (1, 'a')`)
      await query(`update ${t} set ${quote(name)} = 2`)
      const key = (id: number) => JSON.stringify({ [name]: id })
      expect(await linesOf(database, t)).toEqual([
        { key: key(1), row: JSON.stringify({ [name]: 1, other: 'a' }), old: null },
        ...[{ key: key(1), row: null, old: isFilter ? key(1) : null }, { key: key(2), row: JSON.stringify({ [name]: 2, other: 'a' }), old: null }]
          .sort((a, b) => a.row === null ? 1 : b.row === null ? -1 : 0),
      ])
      await query(`select freshet.unwatch('named')`)
    })

    // Whatever the generated SQL calls its own things, a column of the host may be called too.
    const ours = ['t', 'n', 'touched', 'key', 'key_1', 'part', 'published', 'given_row', 'old_filters', 'new', 'old', 'new_rows', 'rows_new', 'old_rows', 'rows_old',
      'before', 'after', 'slot', 'found', 'tg_op', 'table_id', 'new_row', 'name', 'captured', 'watched',
      'seq', 'now_ms', 'rings', 'statement', 'has_captured', 'written', 'few']
    it.each([['all columns', null], ['chosen columns', ours]])('columns may be called like anything in the generated SQL (%s)', async (_, columns) => {
      for (const [kind, rest] of [['plain', ''], ['parts', 'partition by list (key)']] as const) {
        const t = `public.${kind}_${columns === null ? 'all' : 'chosen'}`
        await query(`create table ${t} (${ours.map((name) => `${quote(name)} int default 0`).join(', ')}, primary key (t, key, given_row, old_filters, new, old, found)) ${rest}`)
        if (rest !== '') await query(`create table ${t}_default partition of ${t} default`)
        await query(`select freshet.watch($1::regclass, filters => $2, columns => $3)`, [t, ['touched', 'key', 'published', 'old_filters', 'new', 'before'], columns])
        await query(`insert into ${t} (key) values (1), (2), (3)`)
        await query(`update ${t} set published = 5, key = key + 10 where key < 3`)
        await query(`delete from ${t} where key = 11`)
        await query(`set session_replication_role = replica; update ${t} set before = 7, old = 1; reset session_replication_role`)
        await expectReplayEqualsTable(database, t)
        expect((await linesOf(database, t)).at(-1)?.old).toContain('"before":0')
      }
    })

    it.skipIf(!hasCitext)('a key may be of an extension type, whose operators live outside the search path', async () => {
      await query('create schema extensions; create extension citext schema extensions')
      await query('create table public.named (name extensions.citext primary key, v int)')
      await query(`select freshet.watch('public.named')`)
      await query(`insert into public.named values ('a', 1)`)
      expect(await captured(database, 'public.named', `update public.named set name = 'A'`)).toHaveLength(2)
      await expectReplayEqualsTable(database, 'public.named')
    })
  })

  describe('columns and filters', () => {
    it('columns left out never reach the log', async () => {
      await query('create table public.people (id int primary key, name text, password text, team int)')
      await query(`select freshet.watch('public.people', filters => '{team}', columns => '{name}')`)
      expect(await captured(database, 'public.people', async () => {
        await query(`insert into public.people values (1, 'Ada', 'hunter2', 7)`)
        await query(`update public.people set password = 'hunter3', team = 8`)
        await query(`delete from public.people`)
      })).toEqual([
        '{"id":1} → {"id":1,"name":"Ada","team":7}', '{"id":1} → {"id":1,"name":"Ada","team":8} (was {"team":7})', '{"id":1} → gone (was {"team":8})'])
      expect(await query(`select from freshet.changes where changes::text like '%hunter%'`)).toHaveLength(0)
    })

    it('several channels of a table are captured in one line with the columns and filters of them all', async () => {
      await query('create table public.shared (id int primary key, a text, b text, c text)')
      await query(`select freshet.watch('public.shared', 'one', filters => '{a}', columns => '{b}'), freshet.watch('public.shared', 'two', columns => '{a}')`)
      await query(`insert into public.shared values (1, 'a', 'b', 'c')`)
      expect(await captured(database, 'public.shared', `update public.shared set a = 'x'`)).toEqual(['{"id":1} → {"id":1,"a":"x","b":"b"} (was {"a":"a"})'])
      await query(`select freshet.watch('public.shared', 'three')`)
      expect(await captured(database, 'public.shared', `update public.shared set c = 'y'`)).toEqual(['{"id":1} → {"id":1,"a":"x","b":"b","c":"y"} (was {"a":"x"})'])
      await query(`select freshet.unwatch('three'), freshet.unwatch('two')`)
      expect(await captured(database, 'public.shared', `update public.shared set b = 'z'`)).toEqual(['{"id":1} → {"id":1,"a":"x","b":"z"} (was {"a":"x"})'])
    })

    it('old filter values are those before the statement, null where SQL says NULL, and not those of another row', async () => {
      await query('create table public.grouped (id int primary key, grp text)')
      await query(`select freshet.watch('public.grouped', filters => '{grp}')`)
      await query(`insert into public.grouped values (2, 'b'), (1, null)`)
      expect([...await captured(database, 'public.grouped', `update public.grouped set id = id + 1, grp = 'new'`)].sort()).toEqual([
        '{"id":1} → gone (was {"grp":null})', '{"id":2} → gone (was {"grp":"b"})', '{"id":2} → {"id":2,"grp":"new"}', '{"id":3} → {"id":3,"grp":"new"}'])
    })

    it('where a trigger of the host changes a filter again, both old values are told', async () => {
      await query('create table public.sorted (id int primary key, grp text)')
      await query(`select freshet.watch('public.sorted', filters => '{grp}')`)
      await query(`create function public.resort() returns trigger language plpgsql as
        $$ begin if new.grp = 'b' then update public.sorted set grp = 'c' where id = new.id; end if; return null; end $$`)
      await query(`create trigger resort after update on public.sorted for each row execute function public.resort()`)
      await query(`insert into public.sorted values (1, 'a')`)
      expect(await captured(database, 'public.sorted', `update public.sorted set grp = 'b'`)).toEqual([
        '{"id":1} → {"id":1,"grp":"b"} (was {"grp":"a"})', '{"id":1} → {"id":1,"grp":"c"} (was {"grp":"b"})'])
    })

    it.skipIf(postgresMajor < 18)('virtual generated columns are read from the table, and refused as a filter', async () => {
      await query('create table public.virtual (id int primary key, a int, twice int generated always as (a * 2))')
      await query(`select freshet.watch('public.virtual')`)
      expect(await captured(database, 'public.virtual', `begin isolation level serializable; insert into public.virtual values (1, 4); commit`))
        .toEqual(['{"id":1} → {"id":1,"a":4,"twice":8}'])
      await expect(query(`select freshet.watch('public.virtual', 'v2', filters => '{twice}')`)).rejects.toThrow('it is a virtual column')
    })

    it('stored generated columns are captured as computed', async () => {
      await query('create table public.stored (id int primary key, a int, twice int generated always as (a * 2) stored)')
      await query(`select freshet.watch('public.stored', filters => '{twice}')`)
      await query(`insert into public.stored values (1, 4)`)
      expect(await captured(database, 'public.stored', `update public.stored set a = 5`)).toEqual(['{"id":1} → {"id":1,"a":5,"twice":10} (was {"twice":8})'])
    })
  })

  describe('values', () => {
    it('a JSON document that jsonb could not hold does not fail the write, and is kept byte for byte', async () => {
      await query('create table public.documents (id int primary key, doc json)')
      await query(`select freshet.watch('public.documents')`)
      const doc = '{"b": "\\u0000", "a":1, "a":2,\n "n": 1e400}'
      await query('insert into public.documents values (1, $1)', [doc])
      expect((await linesOf(database, 'public.documents'))[0]?.row).toBe(`{"id":1,"doc":${doc}}`)
    })

    it('nulls, NaN, infinities and control characters are captured', async () => {
      await query('create table public.odd (id int primary key, f float8, n numeric, d date, ts timestamptz, txt text, b boolean)')
      await query(`select freshet.watch('public.odd')`)
      await query(`insert into public.odd values (1, 'NaN', 'NaN', 'infinity', '-infinity', e'tab\\t"\\u2028\\x01', null), (2, '-infinity', 1e30, null, null, '', true)`)
      await expectReplayEqualsTable(database, 'public.odd')
      expect((await linesOf(database, 'public.odd'))[0]?.row).toBe(
        '{"id":1,"f":"NaN","n":"NaN","d":"infinity","ts":"-infinity","txt":"tab\\t\\"\u2028\\u0001","b":null}')
    })

    it('numbers that JSON would not keep are strings, in the row, its key and its filters, also under domains', async () => {
      await query(`create domain public.euro as numeric(12, 2); create domain public.counts as bigint[]; create table public.exact (id bigint, part numeric, n int,
        price public.euro, many bigint[], much numeric[], counts public.counts, "a ""b'" bigint, primary key (id, part))`)
      await query(`select freshet.watch('public.exact', filters => '{price,id}')`)
      expect(await captured(database, 'public.exact', async () => {
        await query(`insert into public.exact values (9007199254740993, 1.10, 1, 1.5, '{1,null}', '{{1.0},{NaN}}', '{1}', 7)`)
        await query(`update public.exact set price = 2`)
        await query('begin isolation level serializable; update public.exact set id = 2; delete from public.exact; commit')
      })).toEqual([
        String.raw`{"id":"9007199254740993","part":"1.10"} → {"id":"9007199254740993","part":"1.10","n":1,"price":"1.50","many":[1,null],"much":[[1.0],["NaN"]],"counts":[1],"a \"b'":"7"}`,
        String.raw`{"id":"9007199254740993","part":"1.10"} → {"id":"9007199254740993","part":"1.10","n":1,"price":"2.00","many":[1,null],"much":[[1.0],["NaN"]],"counts":[1],"a \"b'":"7"} (was {"id":"9007199254740993","price":"1.50"})`,
        String.raw`{"id":"2","part":"1.10"} → {"id":"2","part":"1.10","n":1,"price":"2.00","many":[1,null],"much":[[1.0],["NaN"]],"counts":[1],"a \"b'":"7"}`,
        '{"id":"9007199254740993","part":"1.10"} → gone (was {"id":"9007199254740993","price":"2.00"})',
        '{"id":"2","part":"1.10"} → gone (was {"id":"2","price":"2.00"})'])
    })

    it('the settings of the writer do not show through', async () => {
      await query(`create type public.pair as (at timestamptz, money money)`)
      await query(`create table public.formats (at timestamptz primary key, span interval, f float8, r real, raw bytea, money money,
        during tstzrange, list interval[], pair public.pair, kind regclass, day date)`)
      await query(`select freshet.watch('public.formats', filters => '{at,day}')`)
      const insert = (at: string) => `insert into public.formats values ('${at}', '1 day 02:00', 0.1::float8 + 0.2, 1.1, '\\xdeadbeef', '12.50',
        '[2024-01-01 00:00+00, 2024-01-02 00:00+00)', '{1 mon}', ('2024-06-01 12:00+00', '1'), 'freshet.changes', '2024-03-02')`
      await query(`set lc_monetary = 'C'; ${insert('2024-01-01 12:00+00')}`)
      const writer = await database.connect()
      await writer.query(`set timezone = 'Asia/Kathmandu'; set datestyle = 'German, DMY'; set intervalstyle = 'sql_standard'; set extra_float_digits = -3;
        set bytea_output = 'escape'; set search_path = freshet, public`)
      await writer.query(insert('2024-01-02 12:00+00'))
      await writer.query(`update public.formats set span = span where at = '2024-01-02 12:00+00'`)
      const [first, second, third] = await linesOf(database, 'public.formats')
      expect(second?.row).toBe(first?.row?.replace('2024-01-01T12:00:00+00:00', '2024-01-02T12:00:00+00:00'))
      expect(first?.row).toContain('"span":"P1DT2H","f":0.30000000000000004,"r":1.1')
      expect(third).toEqual({ key: '{"at":"2024-01-02T12:00:00+00:00"}', row: second?.row, old: '{"at":"2024-01-02T12:00:00+00:00","day":"2024-03-02"}' })
    })

    it.each([
      ['timestamptz', `'2024-01-01 12:00+00'`], ['timestamp', `'2024-01-01 12:00'`], ['date', `'2024-03-02'`], ['timetz', `'12:00+02'`], ['interval', `'1 day 02:00'`],
      ['float8', '0.1::float8 + 0.2'], ['real', '1.1'], ['bytea', `'\\xff00'`], ['money', `'12.50'::numeric::money`], ['tstzrange', `'[2024-01-01 00:00+00, 2024-01-02 00:00+00)'`],
      ['float8[]', `'{0.1}'`], ['public.moment', `'2024-01-01 12:00+00'`], ['public.mood', `'good'`], ['public.shift', `'day'`], ['jsonb', `'[1]'`], ['numeric', '1.10'],
      ...postgresMajor < 18 ? [] : [['text generated always as ((id::float8 / 3)::text) virtual', 'default']],
    ])('the settings of the writer do not show through a column of type %s alone', async (type, value) => {
      await query(`do $$ begin if to_regtype('public.moment') is null then create domain public.moment as timestamptz; create type public.mood as enum ('good');
        create type public.shift as enum ('day'); create function public.say(public.shift) returns json language sql as $f$ select to_json(current_setting('timezone')) $f$;
        create cast (public.shift as json) with function public.say(public.shift); end if; end $$`)
      await query(`drop table if exists public.alone; create table public.alone (id int primary key, v ${type}); select freshet.watch('public.alone', 'alone' || pg_current_xact_id()::text)`)
      await query(`insert into public.alone values (1, ${value})`)
      const writer = await database.connect()
      await writer.query(`set timezone = 'Asia/Kathmandu'; set datestyle = 'German, DMY'; set intervalstyle = 'sql_standard'; set extra_float_digits = -3; set bytea_output = 'escape'`)
      await writer.query(`update public.alone set id = id`)
      const [first, second] = await linesOf(database, 'public.alone')
      expect(second?.row).toBe(first?.row)
      expect(second?.row).toBeDefined()
    })

    it('whether names are quoted, whether arrays have nulls and how a backslash is read does not show either, in sessions and functions of any setting', async () => {
      const [key, value, filter] = ['k\\y', `v\\'s`, 'f\\x']
      const insert = (id: string): string => `insert into public.quoting values ('${id}', 'b', 'public.quoting', '{text}', array['a', null, 'NULL']::public.tag[], 'f')`
      await query(`create type public.tag as enum ('a', 'NULL'); create table public.quoting (${quote(key)} text primary key, ${quote(value)} text, kind regclass, kinds regtype[], tags public.tag[], ${quote(filter)} text)`)
      await query(`select freshet.watch('public.quoting', filters => array[$1])`, [filter])
      await query(insert('one'))
      const writer = await database.connect()
      await writer.query(`set quote_all_identifiers = on; set array_nulls = off; set standard_conforming_strings = off; set backslash_quote = off; set escape_string_warning = off;
        set transform_null_equals = on; set xmloption = document; set client_encoding = 'LATIN1'`)
      await writer.query(insert('two').replace(`array['a', null, 'NULL']`, `array['a'::public.tag, null, 'NULL']`))
      await writer.query('update public.quoting set kind = kind')
      await writer.query(`begin; update public.quoting set ${quote(value)} = 'c' where ${quote(key)} = 'two'; update public.quoting set ${quote(value)} = 'b' where ${quote(key)} = 'two'; commit`)
      const row = (id: string): string => JSON.stringify({ [key]: id, [value]: 'b', kind: 'public.quoting', kinds: ['text'], tags: ['a', null, 'NULL'], [filter]: 'f' })
      const lines = await linesOf(database, 'public.quoting')
      expect([lines[0], lines[1], lines.at(-1)].map((line) => line?.row)).toEqual([row('one'), row('two'), row('two')])
      expect(lines.at(-1)?.old).toBe(JSON.stringify({ [filter]: 'f' }))
      // The functions are made in such a session, too.
      await writer.query(`select freshet.watch('public.quoting', 'quoting_again')`)
      await writer.query('update public.quoting set kind = kind')
      expect((await linesOf(database, 'public.quoting')).slice(-2).map((line) => line.row).sort()).toEqual([row('one'), row('two')])
    })

    it('a search path that shadows the catalog does not reach the trigger', async () => {
      await query('create table public.shadowed (id int primary key, v text)')
      await query(`select freshet.watch('public.shadowed')`)
      await query(`create schema evil; create function evil.to_json(int) returns json language sql as $$ select '"evil"'::json $$`)
      const writer = await database.connect()
      await writer.query(`set search_path = evil, pg_catalog, public; create temp table changes_0 (id int); create temp table shadowed (id int)`)
      await writer.query(`insert into public.shadowed values (1, 'a')`)
      await expectReplayEqualsTable(database, 'public.shadowed')
    })
  })

  describe('the bell', () => {
    const setLease = (lease: 'awake_until' | 'abandoned_after', offsetMs: number) =>
      query(`select setval($1::regclass, (extract(epoch from clock_timestamp()) * 1000)::bigint + $2::bigint)`, [`freshet.${lease}`, offsetMs])

    async function ringsDuring(work: () => Promise<unknown>): Promise<number> {
      const listener = await database.connect()
      let rings = 0
      listener.on('notification', ({ payload }) => { if (payload === 'bell') rings += 1 })
      await listener.query('listen freshet')
      await work()
      // Notifications of earlier commits arrive before the answer to a later query.
      await listener.query('select')
      await listener.query('unlisten *')
      return rings
    }

    it('rings once a transaction, only while nobody is awake, and only if something was captured', async () => {
      await query('create table public.rung (id int primary key, v text)')
      await query(`select freshet.watch('public.rung')`)
      await setLease('awake_until', -1)
      expect(await ringsDuring(() => query(`begin; insert into public.rung values (1, 'a'); update public.rung set v = 'b'; commit`))).toBe(1)
      expect(await ringsDuring(() => query(`truncate public.rung`))).toBe(1)
      expect(await ringsDuring(() => query(`delete from public.rung`))).toBe(0)
      expect(await ringsDuring(() => query(`begin; insert into public.rung values (9, 'a'); rollback`))).toBe(0)
      // A thousand rows are written apart from the rest, of which there is none.
      expect(await ringsDuring(() => query(`insert into public.rung select generate_series(1001, 2000)`))).toBe(1)
      await setLease('awake_until', 60_000)
      expect(await ringsDuring(() => query(`insert into public.rung values (2, 'a')`))).toBe(0)
    })

    it('sees the lease of now in any isolation level', async () => {
      await setLease('awake_until', 60_000)
      const writer = await database.connect()
      await writer.query('begin isolation level repeatable read; select 1')
      await setLease('awake_until', -1)
      expect(await ringsDuring(() => writer.query(`insert into public.rung values (3, 'a'); commit`))).toBe(1)
    })

    it('never rings in poll mode, where PREPARE TRANSACTION works', async () => {
      await setLease('awake_until', -1)
      await query(`select freshet.configure('wake', 'poll')`)
      expect(await ringsDuring(async () => {
        await query(`begin; insert into public.rung values (4, 'a'); prepare transaction 'p'`)
        await query(`commit prepared 'p'`)
        await expectReplayEqualsTable(database, 'public.rung')
        await query(`select freshet.watch('public.rung', 'rung_again')`)
      })).toBe(0)
      // A clock that still sets the lease changes nothing.
      await setLease('awake_until', -1)
      expect(await ringsDuring(() => query(`delete from public.rung where id = 4`))).toBe(0)
      await query(`select freshet.configure('wake', 'notify')`)
      expect(await ringsDuring(() => query(`delete from public.rung where id = 3`))).toBe(1)
    })

    it('configure refuses what it does not know, and says what there is', async () => {
      await expect(query(`select freshet.configure('wakes', 'poll')`)).rejects.toMatchObject({ code: '22023', message: `'wakes' is not a setting`, hint: 'The settings: wake, bulk_rows.' })
      for (const [name, values] of [['wake', [`'never'`, 'null']], ['bulk_rows', [`'999'`, `'0'`, `'1e6'`, `'12345678901'`, `'1000\n'`, `'poll'`, 'null']]] as const) {
        for (const value of values) {
          await expect(query(`select freshet.configure('${name}', ${value})`)).rejects.toMatchObject({ code: '22023', message: `${name} cannot be ${value}` })
        }
      }
    })

    it('past the abandoned lease capture writes nothing and gives the lease up, for a clock that was ahead may go back, and goes on when it is renewed', async () => {
      await setLease('abandoned_after', -1)
      expect(await captured(database, 'public.rung', `insert into public.rung values (5, 'a'); truncate public.rung`)).toEqual([])
      expect(await query(`select pg_sequence_last_value('freshet.abandoned_after')::int as lease`)).toEqual([{ lease: 1 }])
      await setLease('abandoned_after', 60_000)
      expect(await captured(database, 'public.rung', `insert into public.rung values (6, 'a')`)).toHaveLength(1)
    })
  })
})
