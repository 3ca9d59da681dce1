import { setMaxListeners } from 'node:events'
import { beforeAll, describe, expect, it } from 'vitest'
import { startTestServer, type PollBody, type TestServer } from '../support/server.ts'

const SETUP = `
  create table public.items (id int primary key, label text not null, grp text);
  insert into public.items values (1, 'Tea', 'hot'), (2, 'Water', 'cold'), (3, 'Juice', null);
  select freshet.watch('public.items', filters => '{grp}');
  create table public.secrets (id int primary key, label text);
  insert into public.secrets values (1, 'psst');
  select freshet.watch('public.secrets', public => false);`

const CHANGES = '/v1/channels/items/changes'

let server: TestServer
beforeAll(async () => { server = await startTestServer({ setup: SETUP }) })

/** The channel as it is, and a version of it. */
async function current(query = ''): Promise<PollBody> {
  return server.poll('items', query)
}

/** Writes, and resolves to the version that has it. */
async function change(sql: string): Promise<PollBody> {
  const { version } = await current()
  await server.database.query(sql)
  return server.pollUntilChanged('items', version)
}

/** Resolves once so many requests are held. */
async function held(count: number): Promise<void> {
  await expect.poll(() => server.server.hub.size.followers).toBe(count)
}

describe('the first request', () => {
  it('gets the whole state as a reset that nobody else may have', async () => {
    const response = await server.get(CHANGES)
    const body = await response.json() as PollBody
    expect(response.status).toBe(200)
    expect(response.headers.get('content-type')).toBe('application/json; charset=utf-8')
    expect(response.headers.get('cache-control')).toBe('no-store')
    expect(response.headers.get('etag')).toBe(`W/"${body.version}"`)
    expect(body).toMatchObject({ channel: 'items', since: null, reset: true, more: false })
    expect(body.changes).toContainEqual({ op: 'upsert', key: { id: 1 }, row: { id: 1, label: 'Tea', grp: 'hot' } })
    expect(body.changes).toHaveLength(3)
  })

  it('of an empty table is a reset without changes', async () => {
    await server.database.query(`create table public.nothing (id int primary key); select freshet.watch('public.nothing')`)
    await expect.poll(async () => (await server.get('/v1/channels/nothing')).status).toBe(200)
    expect(await server.poll('nothing')).toMatchObject({ reset: true, changes: [] })
  })
})

describe('a poll with since', () => {
  it('that is current gets 200, no changes, and headers for a shared cache', async () => {
    const { version } = await current()
    const response = await server.get(`${CHANGES}?since=${version}`)
    expect(response.status).toBe(200)
    expect(response.headers.get('cache-control')).toBe('public, max-age=0, s-maxage=1')
    expect(response.headers.get('vary')).toBe('Prefer, Accept-Encoding')
    expect(await response.json()).toMatchObject({ since: version, version, reset: false, more: false, changes: [] })
  })

  it('that is behind gets what changed, folded, and the new ETag', async () => {
    const { version } = await current()
    await server.database.query(`update items set label = 'Tea!' where id = 1; update items set label = 'Tee' where id = 1; insert into items values (9, 'x'); delete from items where id = 9`)
    await server.pollUntilChanged('items', version)
    const response = await server.get(`${CHANGES}?since=${version}`)
    const body = await response.json() as PollBody
    expect(body).toMatchObject({ since: version, reset: false })
    expect(body.changes).toEqual([
      { op: 'upsert', key: { id: 1 }, row: { id: 1, label: 'Tee', grp: 'hot' } },
      { op: 'delete', key: { id: 9 } },
    ])
    expect(response.headers.get('etag')).toBe(`W/"${body.version}"`)
    expect(response.headers.get('cache-control')).toBe('public, max-age=0, s-maxage=1')
  })

  it.each([
    ['a foreign epoch', () => 'zzzz.5'],
    ['a number before the first', ({ version }: PollBody) => version.replace(/\.\d+$/, '.1')],
    ['a number that was leapt over', ({ version }: PollBody) => `${version.split('.')[0] ?? ''}.1000000`],
    ['a page of another epoch', () => 'zzzz.5.r.abc-0'],
  ])('from %s gets a reset', async (_what, cursor) => {
    const state = await current()
    expect(await current(`?since=${cursor(state)}`)).toMatchObject({ since: null, reset: true, version: state.version })
  })

  it('from the future waits for it, and a second later is a reset', async () => {
    const { version } = await current()
    const [epoch, number] = version.split('.')
    const startedMs = performance.now()
    expect(await current(`?since=${epoch ?? ''}.${Number(number) + 1_000_000_000}`)).toMatchObject({ reset: true })
    const tookMs = performance.now() - startedMs
    expect(tookMs).toBeGreaterThan(900)
    expect(tookMs).toBeLessThan(10_000)
  })

  it.each(['x', '', '-1', 'k3f9', 'k3f9.', 'k3f9.01', 'k3f9.1e3', 'K3F9.1', `k3f9.${'1'.repeat(80)}`, 'k3f9.9007199254740993', '"k3f9.1"', 'a%20b'])('of %j is malformed', async (since) => {
    const response = await server.get(`${CHANGES}?since=${since}`)
    expect(response.status).toBe(400)
    expect(response.headers.get('cache-control')).toBe('no-store')
    expect(await response.json()).toMatchObject({ code: 'malformed_cursor', parameter: 'since' })
  })
})

describe('the moment to ask again', () => {
  it('is another for each client that comes without a cursor; for the others it moves no further than to a free moment', async () => {
    const { version } = await current()
    const first = await Promise.all(Array.from({ length: 8 }, () => current()))
    const later = await Promise.all(Array.from({ length: 2 }, () => current(`?since=${version}`)))
    const advised = later.map(({ poll_after_ms }) => poll_after_ms)
    expect(new Set(first.map(({ poll_after_ms }) => poll_after_ms)).size).toBeGreaterThan(5)
    // Half of the interval at most, either way.
    expect(Math.max(...advised)).toBeLessThanOrEqual(3 * Math.min(...advised))
  })
})

describe('If-None-Match', () => {
  it.each([
    ['strong', (version: string) => `"${version}"`],
    ['weak', (version: string) => `W/"${version}"`],
    ['marked by a compressing proxy', (version: string) => `W/"${version}-gzip"`],
    ['in a list', (version: string) => `"foreign", W/"zzzz.1", "${version}"`],
    ['any', () => '*'],
  ])('%s that is current gets 304 with the advice and no body', async (_what, tag) => {
    const { version } = await current()
    for (const query of ['', `?since=${version}`]) {
      const response = await server.get(CHANGES + query, { 'If-None-Match': tag(version) })
      expect(response.status).toBe(304)
      expect(await response.text()).toBe('')
      expect(response.headers.get('etag')).toBe(`W/"${version}"`)
      expect(Number(response.headers.get('poll-after-ms'))).toBeGreaterThanOrEqual(1_000)
      expect(Number(response.headers.get('poll-interval'))).toBe(Math.ceil(Number(response.headers.get('poll-after-ms')) / 1_000))
      expect(response.headers.get('poll-reason')).toMatch(/^(tick|burst|idle|load)$/)
      expect(response.headers.get('access-control-allow-origin')).toBe('*')
      expect(response.headers.get('cache-control')).toBe(query === '' ? 'no-store' : 'public, max-age=0, s-maxage=1')
    }
  })

  it('alone is the cursor', async () => {
    const { version } = await current()
    await change(`update items set label = label || '.' where id = 2`)
    const body = await (await server.get(CHANGES, { 'If-None-Match': `W/"${version}"` })).json() as PollBody
    expect(body).toMatchObject({ since: version, reset: false })
    expect(body.changes.map(({ key }) => key)).toEqual([{ id: 2 }])
  })

  it('of several counts by the newest that was ever issued', async () => {
    const older = (await current()).version
    const newer = (await change(`update items set label = label || '.' where id = 2`)).version
    await change(`update items set label = label || '.' where id = 2`)
    const never = newer.replace(/\d+$/, (number) => String(Number(number) + 1_000_000))
    const response = await server.get(CHANGES, { 'If-None-Match': `"${older}", "${never}", "${newer}"` })
    expect(await response.json()).toMatchObject({ since: newer, reset: false })
  })

  it('of which nothing can be read is as if absent', async () => {
    expect(await (await server.get(CHANGES, { 'If-None-Match': 'nonsense, "' })).json()).toMatchObject({ reset: true })
  })

  it('is the validator and since the cursor when both are given', async () => {
    const { version } = await current()
    const later = (await change(`update items set label = label || '.' where id = 2`)).version
    expect((await server.get(`${CHANGES}?since=${version}`, { 'If-None-Match': `"${later}"` })).status).toBe(304)
    const behind = await server.get(`${CHANGES}?since=${version}`, { 'If-None-Match': `"${version}"` })
    expect(await behind.json()).toMatchObject({ since: version, version: later })
  })
})

describe('HEAD', () => {
  it('has the headers of GET and no body, with and without a change', async () => {
    const { version } = await current()
    const response = await fetch(server.url + CHANGES, { method: 'HEAD' })
    expect(response.status).toBe(200)
    expect(response.headers.get('etag')).toBe(`W/"${version}"`)
    expect(response.headers.get('poll-after-ms')).not.toBeNull()
    expect(await response.text()).toBe('')
    expect((await fetch(server.url + CHANGES, { method: 'HEAD', headers: { 'If-None-Match': `"${version}"` } })).status).toBe(304)
  })
})

describe('a private channel', () => {
  it('is for no cache and no page of another origin, however its name is written', async () => {
    const { version } = await server.poll('secrets')
    for (const path of ['secrets/changes', `secrets/changes?since=${version}`, '%73ecrets/changes', 'secrets/changes/', `secrets/changes?since=x`]) {
      const response = await server.get(`/v1/channels/${path}`, { Origin: 'https://elsewhere.example' })
      expect(response.headers.get('access-control-allow-origin'), path).toBeNull()
      expect(response.headers.get('cache-control'), path).toBe(response.ok ? 'private, no-store' : 'no-store')
    }
    const shouted = await server.get('/V1/CHANNELS/secrets/changes')
    expect(shouted.status).toBe(404)
  })

  it('answers 304 privately as well', async () => {
    const { version } = await server.poll('secrets')
    const response = await server.get('/v1/channels/secrets/changes', { 'If-None-Match': `"${version}"` })
    expect(response.status).toBe(304)
    expect(response.headers.get('cache-control')).toBe('private, no-store')
  })
})

describe('a held poll', () => {
  it.each([
    ['?wait=20', (version: string) => [`?since=${version}&wait=20`, {}] as const],
    ['Prefer: wait=20', (version: string) => [`?since=${version}`, { Prefer: 'respond-async, wait=20' }] as const],
    ['Prefer with If-None-Match alone', (version: string) => ['', { 'Prefer': 'wait=20', 'If-None-Match': `"${version}"` }] as const],
  ])('by %s is answered when something changes', async (_what, ask) => {
    const { version } = await current()
    const [query, headers] = ask(version)
    const pending = server.get(CHANGES + query, headers)
    await held(1)
    await server.database.query(`update items set label = label || '.' where id = 1`)
    const response = await pending
    expect(response.headers.get('cache-control')).toBe('no-store')
    expect(response.headers.get('preference-applied')).toBe('Prefer' in headers ? 'wait=20' : null)
    const body = await response.json() as PollBody
    expect(body).toMatchObject({ since: version, reset: false })
    expect(body.changes.map(({ key }) => key)).toEqual([{ id: 1 }])
    await held(0)
  })

  it('is answered at once when it is behind', async () => {
    const { version } = await current()
    await change(`update items set label = label || '.' where id = 1`)
    expect((await current(`?since=${version}&wait=20`)).changes).toHaveLength(1)
  })

  it('without a cursor gets the state at once', async () => {
    expect(await current('?wait=20')).toMatchObject({ reset: true })
  })

  it('ends with 200 and no changes, or with 304 for If-None-Match', async () => {
    const { version } = await current()
    const [plain, conditional] = await Promise.all([
      server.get(`${CHANGES}?since=${version}&wait=1`),
      server.get(CHANGES, { 'If-None-Match': `"${version}"`, 'Prefer': 'wait=1' }),
    ])
    expect(plain.status).toBe(200)
    expect(plain.headers.get('cache-control')).toBe('no-store')
    expect(await plain.json()).toMatchObject({ since: version, version, changes: [] })
    expect(conditional.status).toBe(304)
    expect(conditional.headers.get('preference-applied')).toBe('wait=1')
    await held(0)
  })

  it('says how long it will hold when it was asked for more', async () => {
    const { version } = await current()
    const pending = server.get(`${CHANGES}?since=${version}`, { Prefer: 'wait=9999' })
    await held(1)
    await server.database.query(`update items set label = label || '.' where id = 1`)
    expect((await pending).headers.get('preference-applied')).toBe('wait=25')
  })

  it('whose client leaves leaves nothing behind', async () => {
    const { version } = await current()
    const abort = new AbortController()
    setMaxListeners(0, abort.signal)
    const pending = Promise.allSettled(Array.from({ length: 20 }, () => fetch(`${server.url}${CHANGES}?since=${version}&wait=25`, { signal: abort.signal })))
    await held(20)
    abort.abort()
    await pending
    await held(0)
    expect(server.server.hub.size.feeds).toBe(0)
  })

  it('is answered at once when the server drains', async () => {
    const draining = await startTestServer({ setup: SETUP })
    const { version } = await draining.poll('items')
    const pending = Promise.all(Array.from({ length: 3 }, () => draining.poll('items', `?since=${version}&wait=25`)))
    await expect.poll(() => draining.server.hub.size.followers).toBe(3)
    const closing = draining.close()
    for (const body of await pending) expect(body).toMatchObject({ since: version, version, changes: [] })
    await closing
  })

  it('gets a reset when the table is emptied', async () => {
    const { version } = await server.poll('secrets')
    const pending = server.poll('secrets', `?since=${version}&wait=20`)
    await held(1)
    await server.database.query('truncate secrets')
    expect(await pending).toMatchObject({ since: null, reset: true, changes: [] })
  })
})
