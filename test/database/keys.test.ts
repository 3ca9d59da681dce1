/** Keys as clients see them: JSON that is read and written again by a client names one row, whatever the type, live as in a state. */
import { beforeAll, describe, expect, it } from 'vitest'
import { createPool, type Pool } from '../../src/database/pool.ts'
import { WindowRenderer } from '../../src/hub/fold.ts'
import { createDatabase, hasExtension, hasPostgres, type TestDatabase } from '../support/database.ts'
import { CLOCKS, linesOf, setClock } from '../support/replay.ts'
import { readState, windowOf } from '../support/state.ts'
import { Ticker } from '../support/ticker.ts'

/** Types, rows that are there, and for the last of them another way to write the same key. */
const TYPES: readonly (readonly [type: string, values: readonly string[], again: string])[] = [
  ['float8', [`1e300`, `'NaN'`, `0`], `'-0'`], ['float8', [`'-0'`], `0`], ['real', [`0.1`, `0`], `'-0'`], ['public.measure', [`1`, `0`], `'-0'`],
  ['numeric', [`2`, `1.0`], `1.00`], ['numeric', ['1e20', `0`], `'-0.000'`], ['char(4)', [`'b'`, `'ab'`], `'ab '`], ['bpchar', [`'b'`, `'ab'`], `'ab  '`],
  ['bigint', [`9007199254740992`, `9007199254740993`], `9007199254740993`], ['bytea', [`'\\x00'`, `'\\x01'`], `'\\001'`], ['money', [`1`, `2`], `'2.00'`],
  ['int[]', [`'{1,2}'`, `'[2:3]={1,2}'`, `'[0:1]={1,2}'`, `'{{1,2}}'`, `'{1,2,3}'`], `'[1:3]={1,2,3}'`], ['text[]', [`'{a,NULL}'`, `'{a,"NULL"}'`, `'[2:2]={a}'`], `'[2:2]={"a"}'`],
  ['numeric[]', [`'{1}'`, `'{2.0}'`], `'{2.00}'`], ['bigint[]', [`'{9007199254740992}'`, `'{9007199254740993}'`], `'{9007199254740993}'`],
  ['public.color', [`'red'`, `'blue'`], `'blue'`], ['public.tint', [`'red'`, `'blue'`], `'blue'`], ['public.color[]', [`'{red}'`, `'[2:2]={red}'`, `'{blue}'`], `'{blue}'`],
  ['interval', [`'2 days'`, `'1 day'`], `'24:00'`], ['timestamptz', [`'infinity'`, `'2024-01-01 12:00+00'`], `'2024-01-01 14:00+02'`], ['timetz', [`'12:00+01'`, `'12:00+02'`], `'12:00+02'`],
  ['numrange', [`'[1,2)'`, `'[1.0,3)'`], `'[1.00,3)'`], ['inet', [`'10.0.0.2'`, `'10.0.0.1'`], `'10.0.0.1/32'`], ['uuid', [`'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'`], `'{a0eebc999c0b4ef8bb6d6bb9bd380a11}'`],
  ['bit(3)', [`B'100'`, `B'101'`], `B'101'`], ['date', [`'0044-03-15 BC'`, `'2024-01-01'`], `'2024-01-01'`], ['name', [`'a'`, `'b'`], `'b'`], ['"char"', [`'a'`, `''`], `''`],
  ['oid', ['1', '4294967295'], '4294967295'], ['pg_lsn', [`'0/1'`, `'0/10'`], `'0/10'`], ['tsvector', [`'a'`, `'b a'`], `'a b'`], ['bool', ['true', 'false'], 'false'],
]

const REFUSED = ['jsonb', 'float8[]', 'real[]', 'public.measures', 'public.pair', 'public.pair[]', 'jsonb[]', 'public.measure[]', 'public.pair_domain']

describe.skipIf(!hasPostgres).each(CLOCKS)('keys, the clock %s', (clock) => {
  let database: TestDatabase
  let pool: Pool
  beforeAll(async () => {
    database = await createDatabase()
    await setClock(database, clock)
    await database.query(`create domain public.measure as float8; create domain public.measures as float8[]; create type public.color as enum ('red', 'blue');
      create domain public.tint as public.color; create type public.pair as (a int, b int); create domain public.pair_domain as public.pair`)
    pool = createPool({ url: database.url, max: 4, onError: () => undefined })
    return () => pool.end()
  })

  it('name their rows in every type: a client that has followed the log holds the rows of the state', async () => {
    for (const [index, [type, values, again]] of TYPES.entries()) {
      const t = `public.keyed_${index}`
      await database.query(`create table ${t} (k ${type} primary key, v int); select freshet.watch('${t}'); insert into ${t} values ${values.map((value) => `(${value}, 1)`).join(', ')}`)
      const last = `k::${type.replace('tint', 'color')} = ${values.at(-1) ?? ''}::${type.replace('tint', 'color')}`
      // Written differently, as an update, in a transaction that wrote it before, and as a row that goes and comes.
      await database.query(`update ${t} set k = ${again}, v = 2 where ${last}`)
      await expectSame(index, t, values.length)
      await database.query(`begin; update ${t} set v = 3 where ${last}; update ${t} set k = ${values.at(-1) ?? ''}, v = 4 where ${last}; commit`)
      await database.query(`delete from ${t} where ${last}`)
      await database.query(`insert into ${t} values (${again}, 5)`)
      await expectSame(index, t, values.length)
    }
  })

  async function expectSame(index: number, table: string, count: number): Promise<void> {
    const window = await windowOf(pool, `keyed_${index}`)
    // As it is published, read and written again.
    const named = (key: string): string => JSON.stringify(JSON.parse(new WindowRenderer(window).key(key)))
    const client = new Map<string, string>()
    for (const { key, row } of await linesOf(database, table)) {
      if (row === null) client.delete(named(key ?? ''))
      else client.set(named(key ?? ''), row)
    }
    await Ticker.start(database)
    const state = (await readState(pool, window)).map(([key, row]) => [named(key), row] as const)
    expect(new Map(state).size, `${TYPES[index]?.[0] ?? ''}: distinct keys`).toBe(count)
    expect([...client].sort(), TYPES[index]?.[0]).toEqual([...state].sort())
  }

  it.each(REFUSED)('of type %s are refused by name: their numbers read the same where they differ, or differ where they are the same', async (type) => {
    await database.query(`drop table if exists public.refused; create table public.refused (id int, k ${type}, primary key (id, k))`)
    await expect(database.query(`select freshet.watch('public.refused')`)).rejects.toMatchObject({
      code: '42P16', message: expect.stringMatching(/^cannot watch public\.refused: keys of type .* \(k\) cannot be told apart by their JSON$/) as string,
      hint: 'Use a primary key of numbers, texts, uuids, enumerations, dates or times.' })
  })

  it('may have such columns beside them, and included ones', async () => {
    await database.query(`create table public.beside (id int, j jsonb, f float8[], primary key (id) include (j)); select freshet.watch('public.beside')`)
  })
})

describe.skipIf(!hasPostgres)('a key whose equality is called otherwise by now', async () => {
  if (!hasPostgres) return
  const database = await createDatabase()
  const hasCitext = await hasExtension(database, 'citext')
  await database.query(`create schema ext; create schema elsewhere; create type public.color as enum ('red', 'blue'); create domain public.tint as public.color`)
  if (hasCitext) await database.query('create extension citext schema ext')

  it.each([
    ...hasCitext ? [['its extension moved', 'ext.citext', 'alter extension citext set schema elsewhere'] as const] : [],
    ['a cast applies by itself', 'public.color', `create function public.worded(public.color) returns text language sql immutable as $$ select 'x' $$; create cast (public.color as text) with function public.worded(public.color) as implicit`],
    ['the type under its domain was renamed', 'public.tint', 'alter type public.color rename to colour'],
    ['and another one has its name', 'public.tint', 'alter type public.colour rename to hue; create type public.color as (a int)'],
  ] as const)('fails no statement: %s', async (_, type, change) => {
    await database.query(`drop table if exists public.named; create table public.named (k ${type} primary key, v int); select freshet.watch('public.named')`)
    await database.query(change)
    // One message: rows that this statement of the client wrote before are read by their keys.
    const host = await database.connect()
    await host.query(`insert into public.named values ('red', 1); update public.named set v = 2; delete from public.named; insert into public.named values ('red', 3)`)
    expect(await database.query('select v from public.named')).toEqual([{ v: 3 }])
    expect((await database.query<{ new_row: string }>(`select new_row from freshet.changes where kind = 'r' and table_id = (select max(id) from freshet.tables)`)).map(({ new_row }) => new_row)).toContain('drift')
  })
})

describe.skipIf(!hasPostgres)('names that are reserved', () => {
  it('are refused as filters and as channels', async () => {
    const database = await createDatabase()
    const reserved = ['since', 'limit', 'wait', 'next', 'min', 'receipts', 'fresh', 'ticket', 'channels', 'access_token', 'token', 'apikey', 'jwt', 'slot', 'a.b', '.']
    await database.query(`create table public.t (id int primary key, ${reserved.map((name) => `"${name}" int`).join(', ')}, tokens int)`)
    for (const name of reserved) {
      await expect(database.query(`select freshet.watch('public.t', filters => array[$1])`, [name]), name).rejects.toMatchObject({ code: '42939', hint: expect.stringContaining('Rename') as string })
    }
    await expect(database.query(`select freshet.watch('public.t', 'freshet.t')`)).rejects.toMatchObject({
      code: '42939', message: `channel 'freshet.t' cannot be taken: names that begin with freshet. are reserved`, hint: `Pass channel => 'another_name'.` })
    await database.query(`select freshet.watch('public.t', 'freshet_t', filters => '{tokens}')`)
  })
})
