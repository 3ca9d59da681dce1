import { beforeAll, describe, expect, it } from 'vitest'
import { startTestServer, type TestServer } from '../support/server.ts'
import { createDatabase } from '../support/database.ts'
import { openStream } from '../support/sse.ts'

const SETUP = `
  create type mood as enum ('sad', 'happy');
  create domain euro as numeric check (value < 1000000);
  create domain glad as mood check (value = 'happy');
  create table public.things (
    id int primary key, grp text, price numeric(10, 2), big bigint, code varchar(3), fixed char(5), feeling mood, cost euro, bliss glad,
    at timestamptz, flag boolean, hidden text, published int
  );
  select freshet.watch('public.things', filters => '{grp,price,big,code,fixed,feeling,cost,bliss,at,flag,hidden}',
    columns => '{grp,price,big,code,fixed,feeling,cost,at,flag,published}');
  create table public.plain (id int primary key);
  select freshet.watch('public.plain');`

let server: TestServer
beforeAll(async () => { server = await startTestServer({ setup: SETUP }) })

async function ids(query: string): Promise<unknown[]> {
  const { changes } = await server.poll('things', `?${query}`)
  return changes.map(({ key }) => key['id']).toSorted()
}

/** Writes, and resolves to the version before and the one after. */
async function change(sql: string): Promise<{ readonly before: string; readonly after: string }> {
  const { version } = await server.poll('things')
  await server.database.query(sql)
  return { before: version, after: (await server.pollUntilChanged('things', version)).version }
}

/** What a reader with a filter gets for `sql`, from memory. */
async function changesFor(filter: string, sql: string): Promise<readonly [string, unknown][]> {
  const filtered = await server.poll('things', `?${filter}`)
  await change(sql)
  const { changes, reset } = await server.poll('things', `?${filter}&since=${filtered.version}`)
  expect(reset).toBe(false)
  return changes.map(({ op, key }) => [op, key['id']] as const)
}

describe('a row', () => {
  it('that enters the filter is an upsert, one that leaves a delete without its values, one that stays an upsert', async () => {
    await change(`insert into things (id, grp) values (1, 'a'), (2, 'b'), (3, 'a')`)
    const { before } = await change(`update things set grp = case id when 1 then 'b' when 2 then 'a' else grp end`)
    const { changes } = await server.poll('things', `?grp=a&since=${before}`)
    expect(changes).toContainEqual({ op: 'delete', key: { id: 1 } })
    expect(changes.filter(({ op }) => op === 'upsert').map(({ key }) => key['id'])).toEqual([2, 3])
  })

  it('that goes from A by B to C is a delete to the readers of A and an upsert to those of C; to those of B a delete of what they never had', async () => {
    await change(`insert into things (id, grp) values (10, 'A')`)
    const { before } = await change(`update things set grp = 'B' where id = 10`)
    await change(`update things set grp = 'C' where id = 10`)
    const answers = await Promise.all(['A', 'B', 'C'].map((grp) => server.poll('things', `?grp=${grp}&since=${before}`)))
    expect(answers.map(({ changes }) => changes.map(({ op }) => op))).toEqual([['delete'], ['delete'], ['upsert']])
  })

  it("that a host's own trigger moves on from B to C, within the statement that moves it from A to B, leaves the readers of A", async () => {
    await server.database.query(`
      create table public.nested (id int primary key, grp text);
      create function public.move_on() returns trigger language plpgsql as $$
        begin update public.nested set grp = 'C' where id = new.id and grp = 'B'; return null; end $$;
      create trigger move_on after update on public.nested for each row execute function public.move_on();
      insert into public.nested values (1, 'A'), (2, 'A');
      select freshet.watch('public.nested', filters => '{grp}')`)
    await expect.poll(async () => (await server.get('/v1/channels/nested')).status).toBe(200)
    const stream = await openStream(`${server.url}/v1/channels/nested/stream?grp=A`)
    const { version } = await stream.delta(({ reset }) => reset)
    await server.database.query(`update public.nested set grp = 'B' where id = 1`)
    expect((await stream.delta(({ since }) => since === version)).changes).toEqual([{ op: 'delete', key: { id: 1 } }])
    expect((await server.poll('nested', `?grp=A&since=${version}`)).changes).toEqual([{ op: 'delete', key: { id: 1 } }])
    stream.close()
  })

  it('with an unpublished filter column is found by it and does not show it', async () => {
    expect(await changesFor('hidden=x', `insert into things (id, hidden, published) values (20, 'x', 7), (21, 'y', 8)`)).toEqual([['upsert', 20]])
    const { changes } = await server.poll('things', '?hidden=x')
    expect(changes).toHaveLength(1)
    expect(Object.keys(changes[0]?.row ?? {})).toEqual(['id', 'grp', 'price', 'big', 'code', 'fixed', 'feeling', 'cost', 'at', 'flag', 'published'])
    expect(await changesFor('hidden=x', `update things set hidden = null where id = 20`)).toEqual([['delete', 20]])
  })
})

describe('values are compared as the type of the column', () => {
  it.each([
    ['price', '1.0', `1.00`],
    ['price', '1', `1.00`],
    ['price', '%201.50%20', `1.5`],
    ['cost', '2.50', `2.5`],
    ['cost', '3', `3.000`],
    ['big', '9007199254740993', `9007199254740993`],
    ['big', '007', `7`],
    ['grp', '', `''`],
    ['grp', '%C3%A9%F0%9F%AB%96', `'é🫖'`],
    ['grp', 'a%22b%5Cc%0A%E2%80%A8', `E'a"b\\\\c\\n\\u2028'`],
    ['grp', 'a+b', `'a b'`],
    ['code', 'abc', `'abc'`],
    ['fixed', 'ab', `'ab'`],
    ['fixed', 'ab++', `'ab'`],
    ['feeling', 'happy', `'happy'`],
    ['bliss', 'happy', `'happy'`],
    ['at', '2026-01-31T13:00:00%2B01:00', `'2026-01-31 12:00:00+00'`],
    ['flag', 'yes', `true`],
    ['price', '1.0&grp=both', `1.00, grp = 'both'`],
  ])('%s=%s finds the row where it is %s, in the state and in a delta', async (column, value, sql) => {
    await server.database.query('delete from things')
    const query = `${column}=${value}`
    expect(await changesFor(query, `insert into things (id) values (1); update things set ${column} = ${sql} where id = 1`)).toEqual([['upsert', 1]])
    expect(await ids(query)).toEqual([1])
    expect(await changesFor(query, `update things set ${column} = null where id = 1`)).toEqual([['delete', 1]])
    expect(await ids(query)).toEqual([])
  })

  it.each([
    ['code', 'abcd', `'abc'`, 'is not cut to the length of the column'],
    ['price', '1.005', `1.01`, 'is not rounded to the scale of the column'],
    ['fixed', 'abcdefg', `'abcde'`, 'is not cut either'],
    ['grp', 'null', `null`, 'is a text, not NULL'],
    ['grp', '', `null`, 'is the empty text, not NULL'],
    ['grp', 'A', `'a'`, 'is compared exactly'],
  ])('%s=%s does not find %s: it %s', async (...[column, value, sql]) => {
    await server.database.query('delete from things')
    const query = `${column}=${value}`
    expect(await changesFor(query, `insert into things (id) values (1); update things set ${column} = ${sql} where id = 1`)).toEqual([])
    expect(await ids(query)).toEqual([])
  })

  it.each([
    ['big', 'x'], ['big', '1.5'], ['big', '9223372036854775808'], ['big', ''], ['price', 'abc'], ['feeling', 'angry'],
    ['at', 'yesterday-ish'], ['flag', 'maybe'], ['grp', 'a%00b'],
    ['at', 'now'], ['at', 'Today%2012:00'], ['at', 'tomorrow'], ['at', '%20yesterday%20allballs'],
  ])('%s=%s is not of the type, or of no lasting value: 400 that names the column', async (column, value) => {
    for (const address of ['changes', 'stream']) {
      const response = await server.get(`/v1/channels/things/${address}?${column}=${value}`)
      expect(response.status).toBe(400)
      expect(await response.json()).toMatchObject({ code: 'invalid_filter', parameter: column })
    }
  })
})

describe('an unknown filter', () => {
  it('is 400 with the filters there are', async () => {
    const problem = await (await server.get('/v1/channels/things/changes?published=1')).json() as { readonly hint: string }
    expect(problem).toMatchObject({ code: 'unknown_parameter', parameter: 'published' })
    expect(problem.hint).toContain('Filters of this channel: at, big, bliss')
  })

  it('of a channel without any says so', async () => {
    const problem = await (await server.get('/v1/channels/plain/changes?grp=1')).json() as { readonly hint: string }
    expect(problem.hint).toContain('This channel has no filters.')
  })
})

describe('a held poll with a filter', () => {
  it('is not ended by what its filter leaves out, but by what it lets in', async () => {
    const { version } = await server.poll('things')
    const pending = server.poll('things', `?grp=mine&since=${version}&wait=20`)
    await expect.poll(() => server.server.hub.size.followers).toBe(1)
    await change(`insert into things (id, grp) values (90, 'other')`)
    expect(server.server.hub.size.followers).toBe(1)
    await server.database.query(`insert into things (id, grp) values (91, 'mine')`)
    expect((await pending).changes.map(({ key }) => key)).toEqual([{ id: 91 }])
  })

  it('that began behind changes which its filter leaves out waits all the same, and ends with the newer version', async () => {
    const { before, after } = await change(`insert into things (id, grp) values (92, 'other')`)
    const body = await server.poll('things', `?grp=mine&since=${before}&wait=1`)
    expect(body).toMatchObject({ since: before, version: after, reset: false, changes: [] })
  })
})

describe('a value that the database has no characters for', () => {
  it.each(['/stream', '/changes'])('is 400 of text, too (%s)', async (way) => {
    const latin = await createDatabase({ migrated: false, encoding: 'LATIN1' })
    const other = await startTestServer({ database: latin })
    await latin.query(`create table public.names (id int primary key, name text); insert into public.names values (1, E'\\u00e9'); select freshet.watch('public.names', filters => '{name}')`)
    await expect.poll(async () => (await other.get('/v1/channels/names/changes')).status).toBe(200)
    for (const [from, path] of [[other, 'names'], [server, 'things']] as const) {
      const filter = path === 'names' ? 'name' : 'grp'
      for (const value of path === 'names' ? ['%E2%98%83', '%00', 'a%00'] : ['%00']) {
        const response = await from.get(`/v1/channels/${path}${way}?${filter}=${value}`)
        expect([response.status, await response.json()]).toMatchObject([400, { type: expect.stringContaining('invalid') as string }])
      }
    }
    expect((await other.poll('names', `?name=${encodeURIComponent('é')}`)).changes).toHaveLength(1)
    expect((await server.poll('things', `?grp=${encodeURIComponent('☃')}`)).changes).toEqual([])
  })
})
