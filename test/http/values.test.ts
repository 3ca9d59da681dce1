/** Every value to the last digit and byte: the same in a state, a delta from memory, a delta from the log, on both transports. */
import { beforeAll, describe, expect, it } from 'vitest'
import { startTestServer, type TestServer } from '../support/server.ts'
import { openStream } from '../support/sse.ts'

const DIGITS = '1234567890'.repeat(20)
/** Deeper than a stack that recurses carelessly, not than PostgreSQL's. */
const NESTED = `${'['.repeat(2_000)}{"a": "]"}${']'.repeat(2_000)}`

/** SQL type, SQL value, and what clients get, as it is written in the JSON. */
const VALUES: readonly (readonly [string, string, string])[] = [
  ['bigint', `9007199254740993`, `"9007199254740993"`],
  ['bigint', `-9223372036854775808`, `"-9223372036854775808"`],
  ['integer', `-2147483648`, `-2147483648`],
  ['smallint', `32767`, `32767`],
  ['numeric', `${DIGITS}.${DIGITS}`, `"${DIGITS}.${DIGITS}"`],
  ['numeric(10,4)', `1.5`, `"1.5000"`],
  ['numeric', `-0.00`, `"0.00"`],
  ['numeric', `'NaN'`, `"NaN"`],
  ['numeric', `'-Infinity'`, `"-Infinity"`],
  ['double precision', `0.1::float8 + 0.2::float8`, `0.30000000000000004`],
  ['double precision', `'1e-320'`, `1e-320`],
  ['double precision', `'-0'`, `-0`],
  ['double precision', `'1.7976931348623157e308'`, `1.7976931348623157e+308`],
  ['double precision', `'NaN'`, `"NaN"`],
  ['double precision', `'Infinity'`, `"Infinity"`],
  ['real', `'-Infinity'`, `"-Infinity"`],
  ['real', `0.1`, `0.1`],
  ['money', `'92233720368547758.07'`, `"$92,233,720,368,547,758.07"`],
  ['bigint[]', `'{9007199254740993,null,-1}'`, `["9007199254740993",null,"-1"]`],
  ['bigint[]', `'{{1,2},{3,4}}'`, `[["1","2"],["3","4"]]`],
  ['numeric[]', `'{1.10,NaN,-Infinity,1e20}'`, `["1.10","NaN","-Infinity","100000000000000000000"]`],
  ['double precision[]', `'{1.5,NaN,-Infinity}'`, `[1.5,"NaN","-Infinity"]`],
  ['money[]', `'{1.00,-2.50}'`, `["$1.00","-$2.50"]`],
  ['big_id', `9007199254740993`, `"9007199254740993"`],
  ['big_id[]', `'{9007199254740993}'`, `["9007199254740993"]`],
  ['bytea', String.raw`'\x00ff10'`, `"AP8Q"`],
  ['bytea', `''`, `""`],
  ['bytea[]', `array['\\x00'::bytea, null, 'a"b\\\\'::bytea]`, `["AA==",null,"YSJiXA=="]`],
  ['boolean', `true`, `true`],
  ['date', `'0044-03-15 BC'`, `"0044-03-15 BC"`],
  ['date', `'-infinity'`, `"-infinity"`],
  ['date', `'2026-12-31'`, `"2026-12-31"`],
  ['date', `'infinity'`, `"infinity"`],
  ['timestamp', `'-infinity'`, `"-infinity"`],
  ['timestamptz[]', `'{infinity,2026-01-01 00:00+02}'`, `["infinity","2025-12-31T22:00:00+00:00"]`],
  ['timestamp', `'2026-07-01 12:00:00.123456'`, `"2026-07-01T12:00:00.123456"`],
  ['timestamptz', `'2026-07-01 12:00:00.5+02'`, `"2026-07-01T10:00:00.5+00:00"`],
  ['timestamptz', `'infinity'`, `"infinity"`],
  ['timestamptz', `'0044-03-15 00:00:00+00 BC'`, `"0044-03-15T00:00:00+00:00 BC"`],
  ['time', `'24:00'`, `"24:00:00"`],
  ['timetz', `'12:00+02'`, `"12:00:00+02"`],
  ['interval', `'1 year 2 months -3 days 04:05:06.7'`, `"P1Y2M-3DT4H5M6.7S"`],
  ['int8range', `'[1,9007199254740993)'`, `"[1,9007199254740993)"`],
  ['tstzrange', `'[2026-01-01 00:00+02,)'`, `"[\\"2025-12-31 22:00:00+00\\",)"`],
  ['int4multirange', `'{[1,2),[5,6)}'`, `"{[1,2),[5,6)}"`],
  ['numrange', `'[1.10,9007199254740993.5)'`, `"[1.10,9007199254740993.5)"`],
  ['tsrange', `'[-infinity,infinity]'`, `"[-infinity,infinity]"`],
  ['daterange', `'(,)'`, `"(,)"`],
  ['int4range', `'empty'`, `"empty"`],
  ['int8range[]', `'{"[1,3)",NULL}'`, `["[1,3)",null]`],
  ['pair', `row(1, 'a"b')`, `{"left":1,"right":"a\\"b"}`],
  ['pair[]', `array[row(1, null)::pair]`, `[{"left":1,"right":null}]`],
  ['mood', `'so "so"'`, `"so \\"so\\""`],
  ['json', `'{"b": 1,  "a": [1, 2 ], "b": 1.10}'`, `{"b": 1,  "a": [1, 2 ], "b": 1.10}`],
  ['json', String.raw`'"\u0000 \ud800"'`, String.raw`"\u0000 \ud800"`],
  ['json', `E'{"a":\\n 1}'`, `{"a":  1}`],
  ['json', `'12345678901234567890.10'`, `12345678901234567890.10`],
  ['jsonb', `'{"b": 1, "a": [1, 2 ]}'`, `{"a": [1, 2], "b": 1}`],
  ['json', `'${NESTED}'`, NESTED],
  ['jsonb', `'${NESTED}'`, NESTED],
  ['uuid', `'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'`, `"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"`],
  ['inet', `'10.0.0.1/8'`, `"10.0.0.1/8"`],
  ['text', `E'a\\n\\r\\t\\\\"\\b'`, String.raw`"a\n\r\t\\\"\b"`],
  ['text', `E'\\u2028\\u2029 \\U0001F375\\u0301 \\uFEFF'`, `"\u2028\u2029 \u{1F375}\u0301 \uFEFF"`],
  ['text', `E'id: 1\\ndata: {}\\n\\n'`, String.raw`"id: 1\ndata: {}\n\n"`],
  ['text', `''`, `""`],
  ['text', `null`, `null`],
  ['char(4)', `'ab'`, `"ab  "`],
  ['bit(3)', `B'101'`, `"101"`],
  ['text[]', `'{"a,b",NULL,"1"}'`, `["a,b",null,"1"]`],
  // The members of a composite stay as PostgreSQL writes them: exact in the text, whatever a reader makes of them.
  ['counter', `row(9007199254740993)`, `{"n":9007199254740993}`],
]

const ODD_NAMES = ['we"ird', 'back\\slash', 'ключ', '__proto__', 'row', 'new', 't', 'published', 'part', 'rows_new', 'touched', 'op', ' ', 'a,b', '{}', 'line\nbreak', 'x'.repeat(63)]
const quote = (name: string): string => `"${name.replaceAll('"', '""')}"`

const SETUP = `
  create type mood as enum ('so "so"');
  create type pair as ("left" int, "right" text);
  create type counter as (n bigint);
  create domain big_id as bigint check (value > 0);
  create table public.things (id bigint, part numeric(6, 2), ${VALUES.map(([type], index) => `c${index} ${type}`).join(', ')}, last int default 0, primary key (id, part));
  select freshet.watch('public.things');
  create table public.some (${ODD_NAMES.map((name) => `${quote(name)} text`).join(', ')}, id text primary key, secret text);
  select freshet.watch('public.some', columns => array[${ODD_NAMES.map((name) => `E'${name.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}'`).join(', ')}]);
  create table public.every (${ODD_NAMES.map((name) => `${quote(name)} text`).join(', ')}, id text primary key);
  select freshet.watch('public.every');
  create table public.texts (id int primary key, body text);
  select freshet.watch('public.texts');`

/** A session of another country and another century. */
const FOREIGN = `set timezone = 'Asia/Kolkata'; set datestyle = 'German, DMY'; set intervalstyle = 'postgres_verbose'; set extra_float_digits = -15; set bytea_output = 'escape'; set search_path = public`

let server: TestServer
beforeAll(async () => { server = await startTestServer({ setup: SETUP }) })

/** The text inside `changes`. */
function changesOf(body: string): string {
  return body.slice(body.indexOf('"changes":[') + 11, body.includes('],"poll_after_ms"') ? body.lastIndexOf('],"poll_after_ms"') : body.lastIndexOf(']'))
}

/** What `sql` changes, in every way there is to hear of it. */
async function heard(channel: string, sql: string): Promise<Readonly<Record<string, string>>> {
  const { version } = await server.poll(channel)
  const live = await openStream(`${server.url}/v1/channels/${channel}/stream?since=${version}`)
  await expect.poll(() => server.server.hub.size.followers).toBe(1)
  const client = await server.database.connect()
  await client.query(FOREIGN)
  await client.query(sql)
  const event = await live.until(({ event: name }) => name === undefined)
  live.close()
  await expect.poll(() => server.server.hub.size.followers).toBe(0)
  const poll = async (from: TestServer, query: string): Promise<string> => changesOf(await (await from.get(`/v1/channels/${channel}/changes${query}`)).text())
  const stream = async (from: TestServer, query: string): Promise<string> => {
    const reader = await openStream(`${from.url}/v1/channels/${channel}/stream${query}`)
    const { data } = await reader.until(() => true)
    reader.close()
    return changesOf(data)
  }
  const forgetful = await startTestServer({ database: server.database })
  const found = {
    live: changesOf(event.data),
    memory: await poll(server, `?since=${version}`),
    memoryStream: await stream(server, `?since=${version}`),
    log: await poll(forgetful, `?since=${version}`),
    logStream: await stream(forgetful, `?since=${version}`),
    state: await poll(server, ''),
    stateStream: await stream(forgetful, ''),
    part: await poll(server, '?limit=1').then((text) => text.replace(/\],"next".*$/, '')),
  }
  await forgetful.close()
  return found
}

describe('values', () => {
  it('are exact, and equal byte for byte in a state, live, from memory and from the log, whatever the writer\'s session', async () => {
    const sql = `insert into things values (9007199254740993, 1.5, ${VALUES.map(([, value]) => value).join(', ')})`
    const row = VALUES.map(([,, json], index) => `"c${index}":${json}`)
    const expected = `{"op":"upsert","key":{"id":"9007199254740993","part":"1.50"},"row":{"id":"9007199254740993","part":"1.50",${row.join(',')},"last":0}}`
    const found = await heard('things', sql)
    // Column by column first, so that a failure names its type.
    const parts = found['live']?.split(/,(?="(?:c\d+|last)":)/).slice(1) ?? []
    for (const [index, [type, value]] of VALUES.entries()) expect(`${type} ${value} ${parts[index] ?? ''}`).toBe(`${type} ${value} ${row[index] ?? ''}`)
    for (const [way, changes] of Object.entries(found)) expect(`${way} ${changes}`).toBe(`${way} ${expected}`)
    expect(() => { JSON.parse(expected) }).not.toThrow()
  })

  it('of a key are of the same types in a delete', async () => {
    const { version } = await server.poll('things')
    await server.database.query('delete from things')
    const { changes } = await server.pollUntilChanged('things', version)
    expect(changes).toEqual([{ op: 'delete', key: { id: '9007199254740993', part: '1.50' } }])
  })
})

describe('columns with odd names', () => {
  it.each(['some', 'every'])('of the channel %s arrive under their own names, and nothing else does', async (channel) => {
    const found = await heard(channel, `insert into "${channel}" values (${ODD_NAMES.map((_, index) => `'v${index}'`).join(', ')}, 'k'${channel === 'some' ? `, 'secret'` : ''})`)
    const row = [...ODD_NAMES.map((name, index) => `${JSON.stringify(name)}:"v${index}"`), '"id":"k"'].join(',')
    for (const [way, changes] of Object.entries(found)) expect(`${way} ${changes}`).toBe(`${way} {"op":"upsert","key":{"id":"k"},"row":{${row}}}`)
  })
})

describe('text', () => {
  it('of a megabyte and of every kind of character survives on every way', async () => {
    const body = Array.from({ length: 5_000 }, (_, index) => String.fromCodePoint(1 + index % 0xd7ff, 0x1f300 + index % 300)).join('\u2028\r\n"\\') + 'é'.repeat(500_000)
    const client = await server.database.connect()
    const found = await heard('texts', `insert into texts values (1, ${client.escapeLiteral(body)})`)
    for (const [way, changes] of Object.entries(found)) {
      const { row } = JSON.parse(changes) as { readonly row: { readonly body: string } }
      expect([way, row.body === body]).toEqual([way, true])
    }
    expect(new Set(Object.values(found)).size).toBe(1)
  })
})
