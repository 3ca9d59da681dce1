import { beforeAll, describe, expect, it } from 'vitest'
import { startTestServer, type PollBody, type TestServer } from '../support/server.ts'

const SETUP = `
  create table public.rows (id int primary key, grp text, note text);
  insert into public.rows select n, 'g' || n % 2, E'line\\n' || n from generate_series(1, 25) n;
  select freshet.watch('public.rows', filters => '{grp}');
  create table public.big (id int primary key, filler text);
  insert into public.big select n, repeat(md5(n::text), 20) from generate_series(1, 20000) n;
  select freshet.watch('public.big');`

let server: TestServer
beforeAll(async () => { server = await startTestServer({ setup: SETUP }) })

/** All parts of an answer, each with its response. */
async function parts(first: string, limit: number, filter = ''): Promise<{ readonly response: Response; readonly body: PollBody }[]> {
  const found: { response: Response; body: PollBody }[] = []
  for (let since: string | null = first; since !== null;) {
    const response = await server.get(`/v1/channels/rows/changes?limit=${limit}${since === '' ? '' : `&since=${since}`}${filter}`)
    const body = await response.json() as PollBody
    found.push({ response, body })
    since = body.next ?? null
  }
  return found
}

describe('an answer in parts', () => {
  it.each([1, 7, 24])('of at most %i has next and more on all but the last, equal since, version and reset, and an ETag only at the end', async (limit) => {
    const whole = await server.poll('rows')
    const all = await parts('', limit)
    expect(all.length).toBe(Math.ceil(25 / limit))
    for (const [index, { response, body }] of all.entries()) {
      const isLast = index === all.length - 1
      expect(body).toMatchObject({ since: null, version: whole.version, reset: true, more: !isLast })
      expect(body.changes.length).toBe(isLast ? (25 - 1) % limit + 1 : limit)
      expect('next' in body).toBe(!isLast)
      expect(response.headers.get('etag')).toBe(isLast ? `W/"${whole.version}"` : null)
      expect(Number(response.headers.get('poll-after-ms'))).toBe(body.poll_after_ms)
    }
    const assembled = all.flatMap(({ body }) => body.changes)
    expect(assembled.toSorted(byKey)).toEqual(whole.changes.toSorted(byKey))
  })

  it.each([25, 10_000])('that fits into %i is one, without next', async (limit) => {
    const [only, ...others] = await parts('', limit)
    expect(others).toEqual([])
    expect(only?.body.more).toBe(false)
    expect(only?.body).not.toHaveProperty('next')
  })

  it('of a delta bears the delta\'s since, and its parts make up the whole', async () => {
    const { version } = await server.poll('rows')
    await server.database.query(`update rows set note = 'x' where id <= 9; delete from rows where id = 25`)
    await server.pollUntilChanged('rows', version)
    const whole = await server.poll('rows', `?since=${version}`)
    const all = await parts(version, 4)
    expect(all).toHaveLength(3)
    for (const { body } of all) expect(body).toMatchObject({ since: version, version: whole.version, reset: false })
    expect(all.flatMap(({ body }) => body.changes)).toEqual(whole.changes)
  })

  it('stays what it was while the table changes', async () => {
    const first = await server.poll('rows', '?limit=10')
    await server.database.query(`update rows set note = 'changed'`)
    await server.pollUntilChanged('rows', first.version)
    const second = await server.poll('rows', `?limit=100&since=${first.next ?? ''}`)
    expect(second).toMatchObject({ version: first.version, reset: true, more: false })
    expect(second.changes.filter(({ row }) => row?.['note'] === 'changed')).toEqual([])
  })

  it('may be asked for twice from the same place, and with another limit', async () => {
    const first = await server.poll('rows', '?limit=10')
    const [again, once, larger] = await Promise.all([5, 5, 14].map((limit) => server.poll('rows', `?limit=${limit}&since=${first.next ?? ''}`)))
    expect(again?.changes).toEqual(once?.changes)
    expect(larger?.changes.slice(0, 5)).toEqual(once?.changes)
    expect(larger).toMatchObject({ more: false })
  })

  it('with a page cursor and no limit goes on with a thousand', async () => {
    const first = await server.poll('rows', '?limit=10')
    expect((await server.poll('rows', `?since=${first.next ?? ''}`)).changes).toHaveLength(14)
  })
})

describe('a page cursor', () => {
  it('that this server does not know begins the answer anew', async () => {
    const { next = '', version } = await server.poll('rows', '?limit=10')
    const unknown = next.replace(/[^.]+$/, 'abcdef0123-0')
    expect(await server.poll('rows', `?limit=10&since=${unknown}`)).toMatchObject({ since: null, version, reset: true, more: true })
  })

  it('of a delta that is not known begins that delta anew', async () => {
    const { version } = await server.poll('rows')
    await server.database.query(`update rows set note = 'again' where id <= 9`)
    await server.pollUntilChanged('rows', version)
    const { next = '' } = await server.poll('rows', `?limit=4&since=${version}`)
    const body = await server.poll('rows', `?limit=100&since=${next.replace(/[^.]+$/, 'abcdef0123-0')}`)
    expect(body).toMatchObject({ since: version, reset: false, more: false })
    expect(body.changes).toHaveLength(9)
  })

  it('of another filter is not honoured', async () => {
    const { next = '' } = await server.poll('rows', '?limit=5&grp=g0')
    const body = await server.poll('rows', `?limit=100&grp=g1&since=${next}`)
    expect(body.reset).toBe(true)
    expect(new Set(body.changes.map(({ row }) => row?.['grp']))).toEqual(new Set(['g1']))
    expect(body.changes.length).toBeGreaterThan(10)
  })

  it.each(['0', '10001', '-1', '1.5', '', '007', 'x', '1e3'])('cannot be asked for with limit=%s', async (limit) => {
    const response = await server.get(`/v1/channels/rows/changes?limit=${limit}`)
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ code: 'invalid_parameter', parameter: 'limit' })
  })
})

describe('an answer larger than what is held in memory', () => {
  it('is whole in one body and in parts', async () => {
    const whole = await server.poll('big')
    expect(whole.changes).toHaveLength(20_000)
    expect(whole).toMatchObject({ reset: true, more: false })
    let sum = 0
    for (let query = '?limit=9000'; query !== '';) {
      const body = await server.poll('big', query)
      for (const { key } of body.changes) sum += Number(key['id'])
      query = body.next === undefined ? '' : `?limit=9000&since=${body.next}`
    }
    expect(sum).toBe(20_000 * 20_001 / 2)
  })

  it('that nobody reads (HEAD, 304, clients that leave) keeps nothing of the database', async () => {
    const address = `${server.url}/v1/channels/big/changes`
    for (let round = 0; round < 6; round += 1) {
      expect((await fetch(address, { method: 'HEAD' })).status).toBe(200)
      expect((await fetch(address, { headers: { 'If-None-Match': '*' } })).status).toBe(304)
      const abort = new AbortController()
      const response = await fetch(address, { signal: abort.signal })
      expect(response.status).toBe(200)
      abort.abort()
    }
    expect((await server.poll('big')).changes).toHaveLength(20_000)
    await expect.poll(async () => (await server.database.query<{ open: number }>(
      `select count(*)::int as open from pg_stat_activity where datname = current_database() and application_name like 'freshet:%' and state like 'idle in transaction%'`))[0]?.open).toBe(0)
  })

  it('is read from the database once for all who ask at the same time', async () => {
    const client = await server.database.connect()
    await client.query('begin; lock table big in access exclusive mode')
    const address = `${server.url}/v1/channels/big/changes`
    // Each has its own moment to ask again, at the end.
    const pending = Promise.all(Array.from({ length: 8 }, async () => (await (await fetch(address)).text()).replace(/"poll_after_ms".*\n$/, '').length))
    const waiting = async (): Promise<unknown> => (await server.database.query(
      `select count(*)::int as waiting from pg_stat_activity where datname = current_database() and application_name like 'freshet:%' and wait_event_type = 'Lock'`))[0]
    await expect.poll(waiting).toEqual({ waiting: 1 })
    await client.query('rollback')
    const lengths = await pending
    expect(new Set(lengths).size).toBe(1)
    expect(lengths[0]).toBeGreaterThan(8 * 1024 * 1024)
  })

  it('that the log turns away from while it is read is a reset instead', async () => {
    const { version } = await server.poll('big', '?limit=1')
    await server.database.query('update public.big set filler = filler')
    await server.pollUntilChanged('big', version)
    const client = await server.database.connect()
    await client.query('begin; lock table freshet.changes_0, freshet.changes_1 in access exclusive mode')
    const pending = server.poll('big', `?since=${version}&limit=9000`)
    await expect.poll(() => server.database.query(`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like 'declare folded%'`)).toHaveLength(1)
    await client.query('update freshet.state set floor = (select max(number) from freshet.versions); commit')
    expect(await pending).toMatchObject({ since: null, reset: true, more: true })
    await client.query('update freshet.state set floor = 0')
  })
})

function byKey(a: PollBody['changes'][number], b: PollBody['changes'][number]): number {
  return Number(a.key['id']) - Number(b.key['id'])
}
