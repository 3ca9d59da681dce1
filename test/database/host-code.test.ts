/**
 * What the owners of types may define is never called with our rights: casts to json and to text, casts from text, checks of domains. All of
 * them raise here, so that whatever calls one fails: the host's write, or our reading.
 */
import { beforeAll, describe, expect, it } from 'vitest'
import { DatabaseSource } from '../../src/clock/source.ts'
import { RangeLost, type ColumnDefinition } from '../../src/contract/change.ts'
import { createPool, type Pool } from '../../src/database/pool.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { tableIdOf } from '../support/node.ts'
import { captured, CLOCKS, linesOf, setClock, type Line } from '../support/replay.ts'
import { readState, windowOf } from '../support/state.ts'
import { Ticker } from '../support/ticker.ts'

const TYPES = `
create type host.mood as enum ('ok', 'sad', 'a "b"', '');
create domain host.mind as host.mood;
create type host.moods as range (subtype = host.mood);
create domain host.counts as int[];
create type host.point as (mood host.mood, n bigint, at timestamptz);
create type host.shape as ("le""ft" host.point, "Right side" text, moods host.mood[], points host.point[], doc json, f float8, yes boolean, mind host.mind, counts host.counts,
  gone int, span interval, pad char(4), bits bit(3));
alter type host.shape drop attribute gone;
create domain host.shape_domain as host.shape;
create type host.nothing as ();
create function host.checked(host.point) returns boolean language plpgsql as $$ begin
  if current_user <> 'host_writer' then raise exception 'checked as %', current_user; end if; return true; end $$;
create domain host.checked_point as host.point check (host.checked(value));`

/** Whatever a type may be cast to, and text to it. */
const CASTS = ['mood', 'moods', 'point', 'shape', 'nothing'].flatMap((type) => [
  `create function host.${type}_to_json(host.${type}) returns json language plpgsql as $$ begin raise exception 'cast to json as %', current_user; end $$`,
  `create function host.${type}_to_text(host.${type}) returns text language plpgsql as $$ begin raise exception 'cast to text as %', current_user; end $$`,
  `create function host.to_${type}(text) returns host.${type} language plpgsql as $$ begin raise exception 'cast from text as %', current_user; end $$`,
  `create cast (host.${type} as json) with function host.${type}_to_json(host.${type}) as assignment`,
  `create cast (host.${type} as text) with function host.${type}_to_text(host.${type}) as assignment`,
  `create cast (text as host.${type}) with function host.to_${type}(text) as assignment`]).join(';')

/** Type, value in SQL, and what clients get. */
const POINT = `('sad', 9007199254740993, '2024-01-01 12:00+02')`
const POINT_JSON = '{"mood":"sad","n":9007199254740993,"at":"2024-01-01T10:00:00+00:00"}'
const SHAPE = `((null, 1, null), E'x"y\\\\,z\\n', '{ok,NULL,"a \\"b\\"",""}', array[${POINT}::host.point, null], '{"a": "\\u0000", "a":1}', 'NaN', true, 'sad', '{1,2}', '1 day', 'ab', B'101')`
const SHAPE_JSON = String.raw`{"le\"ft":{"mood":null,"n":1,"at":null},"Right side":"x\"y\\,z\n","moods":["ok",null,"a \"b\"",""],"points":[${POINT_JSON},null],`
  + String.raw`"doc":{"a": "\u0000", "a":1},"f":"NaN","yes":true,"mind":"sad","counts":[1,2],"span":"P1D","pad":"ab  ","bits":"101"}`
const VALUES: readonly (readonly [type: string, sql: string, json: string])[] = [
  ['host.mood', `'a "b"'`, String.raw`"a \"b\""`], ['host.mood', `''`, '""'], ['host.mood', 'null', 'null'],
  ['host.mind', `'sad'`, '"sad"'],
  ['host.mood[]', `'{ok,NULL,"","a \\"b\\""}'`, String.raw`["ok",null,"","a \"b\""]`], ['host.mood[]', `'{{ok},{sad}}'`, '[["ok"],["sad"]]'], ['host.mood[]', `'{}'`, '[]'],
  ['host.mood[]', `'[3:4]={ok,sad}'`, '["ok","sad"]'], ['host.mood[]', 'null', 'null'],
  ['host.mind[]', `'{ok,NULL}'`, '["ok",null]'],
  ['host.moods', `'[ok,sad)'`, '"[ok,sad)"'], ['host.moods[]', `'{"[ok,sad)",NULL}'`, '["[ok,sad)",null]'],
  ['host.counts', `'{1,NULL}'`, '[1,null]'], ['host.counts[]', `'{"{1}","{2,3}"}'`, '[[1],[2,3]]'],
  ['host.point', POINT, POINT_JSON], ['host.point', 'row(null, null, null)', '{"mood":null,"n":null,"at":null}'], ['host.point', 'null', 'null'],
  ['host.checked_point', POINT, POINT_JSON],
  ['host.point[]', `array[${POINT}::host.point, null]`, `[${POINT_JSON},null]`], ['host.point[]', `array[array[${POINT}::host.point], array[null::host.point]]`, `[[${POINT_JSON}],[null]]`],
  ['host.shape', SHAPE, SHAPE_JSON], ['host.shape_domain', SHAPE, SHAPE_JSON], ['host.shape[]', `array[${SHAPE}::host.shape]`, `[${SHAPE_JSON}]`],
  ['host.nothing', 'row()', '{}'],
]

describe.skipIf(!hasPostgres).each(CLOCKS)('code of the host, the clock %s', (clock) => {
  let database: TestDatabase
  let pool: Pool

  beforeAll(async () => {
    database = await createDatabase()
    await setClock(database, clock)
    await database.query(`do $$ begin if to_regrole('host_writer') is null then create role host_writer; end if; end $$`)
    await database.query(`create schema host; ${TYPES} grant usage on schema host to public; alter default privileges in schema host grant all on tables to host_writer`)
    pool = createPool({ url: database.url, max: 4, onError: () => undefined })
    return () => pool.end()
  })

  const host = async (sql: string): Promise<void> => {
    const client = await database.connect()
    await client.query(`set role host_writer; ${sql}; reset role`)
    await client.end()
  }

  /** The state, which must be what the log says. */
  async function stateOf(channel: string, filters: Readonly<Record<string, string>> = {}): Promise<readonly (readonly [string, string])[]> {
    await Ticker.start(database)
    return readState(pool, await windowOf(pool, channel, filters))
  }

  const told = (lines: readonly Line[]): readonly (readonly [string | null, string | null])[] => lines.map(({ key, row }) => [key, row])

  it('is not called for a value of any type, live or in a state, which say the same', async () => {
    const columns = VALUES.map(([type], index) => `c${index} ${type}`).join(', ')
    const row = `{"id":1,${VALUES.map(([,, json], index) => `"c${index}":${json}`).join(',')}}`
    await database.query(`create table host.values (id int primary key, ${columns}); create table host.parts (id int primary key, ${columns}) partition by range (id);
      create table host.parts_1 partition of host.parts default; ${CASTS}; select freshet.watch('host.values'), freshet.watch('host.parts')`)
    for (const table of ['values', 'parts']) {
      await host(`insert into host.${table} values (1, ${VALUES.map(([, sql]) => sql).join(', ')})`)
      await host(`update host.${table} set id = 1`)
      const lines = await linesOf(database, `host.${table}`)
      for (const [index, [type, sql]] of VALUES.entries()) {
        const part = (text: string): string => text.slice(text.indexOf(`"c${index}":`), text.includes(`,"c${index + 1}":`) ? text.indexOf(`,"c${index + 1}":`) : -1)
        expect(`${type} ${sql} ${part(lines[0]?.row ?? '')}`).toBe(`${type} ${sql} ${part(row)}`)
      }
      expect(told(lines)).toEqual([['{"id":1}', row], ['{"id":1}', row]])
      expect(await stateOf(table)).toEqual([['{"id":1}', row]])
    }
  })

  it('is not called for keys and filters, which compare by the label', async () => {
    await database.query(`create table host.keyed (mood host.mood, mind host.mind, moods host.mood[], span host.moods, primary key (mood, moods, span));
      select freshet.watch('host.keyed', filters => '{mood,mind}')`)
    await host(`insert into host.keyed values ('ok', 'sad', '{ok}', '[ok,sad)'), ('sad', 'ok', '[2:2]={ok}', '[ok,sad)')`)
    await host(`update host.keyed set mind = 'ok' where mood = 'ok'; begin; update host.keyed set mood = 'a "b"' where mood = 'sad'; update host.keyed set mind = 'sad' where mood = 'a "b"'; commit`)
    const expected = [
      ['{"mood":"ok","moods":["ok"],"span":"[ok,sad)"}', '{"mood":"ok","mind":"ok","moods":["ok"],"span":"[ok,sad)"}'],
      [String.raw`{"mood":"a \"b\"","moods":"[2:2]={ok}","span":"[ok,sad)"}`, String.raw`{"mood":"a \"b\"","mind":"sad","moods":["ok"],"span":"[ok,sad)"}`]]
    expect([...new Map(told(await linesOf(database, 'host.keyed')).filter(([, row]) => row !== null))].filter(([key]) => key?.includes('"mood":"sad"') !== true)).toEqual(expected)
    expect(await stateOf('keyed')).toEqual(expected)
    const { channel } = await windowOf(pool, 'keyed')
    const columnOf = (name: string): ColumnDefinition => {
      const column = channel.table.columns.find((candidate) => candidate.name === name)
      if (column === undefined) throw new Error(`no column ${name}`)
      return column
    }
    const source = new DatabaseSource(pool)
    for (const name of ['mood', 'mind']) {
      expect(await source.castFilter(columnOf(name), 'a "b"')).toBe(String.raw`"a \"b\""`)
      for (const value of ['no such', 'OK', 'ok ', '\0']) await expect(source.castFilter(columnOf(name), value)).rejects.toMatchObject({ code: 'invalid_filter' })
    }
    expect(await stateOf('keyed', { mood: '"ok"' })).toEqual(expected.slice(0, 1))
    expect(await stateOf('keyed', { mind: '"sad"' })).toEqual(expected.slice(1))
    expect(await stateOf('keyed', { mind: '"sad"', mood: '"ok"' })).toEqual([])
  })

  it('a filter whose type is cast by itself is refused by name, and parks when it becomes so: no comparison takes the cast', async () => {
    await database.query(`create type host.cast_on as enum ('x', 'y'); create table host.casts (id host.cast_on primary key, f host.cast_on); select freshet.watch('host.casts', filters => '{f}')`)
    await host(`insert into host.casts values ('x', 'x'), ('y', 'y')`)
    const filters = { f: '"x"' }
    expect(await stateOf('casts', filters)).toHaveLength(1)
    await database.query(`create function host.cast_on_to_text(host.cast_on) returns text language plpgsql as $$ begin raise exception 'cast as %', current_user; end $$;
      create cast (host.cast_on as text) with function host.cast_on_to_text(host.cast_on) as implicit`)
    await expect(stateOf('casts', filters)).rejects.toThrow(RangeLost)
    expect(await captured(database, 'host.casts', () => host(`update host.casts set f = 'y' where id::host.cast_on is not null`))).toHaveLength(2)
    await database.query('select freshet.detect_drift()')
    const reason = 'cannot filter by f: type host.cast_on is cast to text wherever that seems to fit'
    expect(await database.query(`select parked from freshet.tables where id = ${await tableIdOf(database, 'host.casts')}`)).toEqual([{ parked: reason }])
    await expect(database.query(`select freshet.watch('host.casts', 'other', filters => '{f}')`)).rejects.toMatchObject({
      message: reason, hint: 'Drop the cast, or make it an explicit one: drop cast (host.cast_on as text).' })
  })

  it.each(['read committed', 'repeatable read', 'serializable'])('is not called where a column has become of such a type meanwhile, seen or not (%s)', async (level) => {
    const t = `retyped_${level.replace(' ', '_')}`
    await database.query(`create table host.${t} (id int primary key, v text, w int); select freshet.watch('host.${t}'); insert into host.${t} values (1, 'ok', 1)`)
    const old = await windowOf(pool, t)
    const writer = await database.connect()
    // The plans are made, and the snapshot taken.
    await writer.query(`set role host_writer; insert into host.${t} values (2, 'sad', 2); update host.${t} set w = 3`)
    await writer.query(`begin isolation level ${level}; select from pg_class`)
    await database.query(`alter table host.${t} alter column v type host.mood using 'ok'`)
    expect(new Set(await captured(database, `host.${t}`, () => writer.query(`insert into host.${t} values (3, 'sad', 2); commit`)))).toEqual(new Set(['drift']))
    expect(new Set(await captured(database, `host.${t}`, () => writer.query(`update host.${t} set w = 4 where id = 1; delete from host.${t} where id = 2`)))).toEqual(new Set(['drift']))
    await Ticker.start(database)
    await expect(readState(pool, old)).rejects.toThrow(RangeLost)
    expect(await database.query('select outcome from freshet.detect_drift()')).toContainEqual({ outcome: 'reset' })
    expect(await stateOf(t)).toEqual(expect.arrayContaining([['{"id":1}', '{"id":1,"v":"ok","w":4}']]))
  })

  it.each([
    ['gets one more', `alter type host.T add attribute extra host.mood`, `row(1, 'a', 'sad')`],
    ['loses one', `alter type host.T drop attribute b`, `row(1)`],
    ['has one renamed', `alter type host.T rename attribute a to "other name"`, `row(1, 'a')`],
  ])('Harmless: writes go on while a composite %s, loudly, and nothing is called', async (what, change, value) => {
    const [type, t] = [`composite_${what.replaceAll(' ', '_')}`, `of_${what.replaceAll(' ', '_')}`]
    await database.query(`create type host.${type} as (a int, b text); create type host.outer_${type} as (inside host.${type}[]);
      create table host.${t} (id int primary key, v host.${type}, w host.outer_${type}); select freshet.watch('host.${t}')`)
    const writer = await database.connect()
    await writer.query(`set role host_writer; insert into host.${t} values (1, row(1, 'a'), row(array[row(1, 'a')::host.${type}])); update host.${t} set id = 1`)
    await database.query(change.replace('T', type))
    for (const run of [(sql: string) => writer.query(sql), host]) {
      expect(new Set(await captured(database, `host.${t}`, () => run(`insert into host.${t} values ((select max(id) + 1 from host.${t}), ${value}, row(array[${value}::host.${type}]));
        update host.${t} set v = ${value}`)))).toEqual(new Set(['drift']))
    }
    await database.query(`select freshet.watch('host.${t}', 'again_${t}')`)
    expect((await captured(database, `host.${t}`, () => host(`update host.${t} set v = ${value} where id = 1`)))[0]).toContain('"v":{"')
    expect((await stateOf(t)).map(([, row]) => row)).toEqual(expect.arrayContaining([(await linesOf(database, `host.${t}`)).at(-1)?.row]))
  })
})
