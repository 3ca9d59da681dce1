/**
 * What any shared cache in front of a server has to keep, whichever it is: few requests to the origin, and the truth for everybody.
 * Called once by the test file of each cache.
 */
import { afterAll, describe, expect, it } from 'vitest'
import { assertConforms } from './contract.ts'
import { oftenerThanOnceASecond, Origin, type OriginRequest } from './origin.ts'
import { Poller } from './poller.ts'
import { freePort } from './ports.ts'
import { startTestServer, type PollBody, type TestServer } from './server.ts'

export interface CachedServer {
  readonly server: TestServer
  readonly origin: Origin
  /** Of the cache. */
  readonly url: string
}

const SETUP = `
  create table public.items (id int primary key, label text not null, grp text not null);
  insert into public.items select i, 'item ' || i, substr('abc', i % 3 + 1, 1) from generate_series(1, 60) i;
  select freshet.watch('public.items', filters => '{grp}');
  create table public.secrets (id int primary key);
  select freshet.watch('public.secrets', public => false);`

const POLLERS = 1_000
const CHANGES = '/v1/channels/items/changes'
const GROUPS = ['a', 'b', 'c'] as const

/** Moves rows between the groups, makes some and ends some: the `n`th of several such transactions. */
function shuffle(n: number): string {
  return `begin; update public.items set label = 'w${n}', grp = substr('abc', ${n} % 3 + 1, 1) where id % 20 = ${n};
    delete from public.items where id = ${n}; insert into public.items values (${1_000 + n}, 'new', 'b'); commit`
}

/** A server, with the cache that `start` puts in front of it. */
export async function startCached(start: (origin: string) => Promise<{ readonly url: string }>): Promise<CachedServer> {
  const environment = { TRUST_PROXY: '1', PORT: String(await freePort()) }
  const server = await startTestServer({ setup: SETUP, environment, streams: { heartbeatMs: 300 } })
  const origin = await Origin.start(server.url)
  const { url } = await start(origin.url)
  return { server, url, origin }
}

/** What is answered to a poll where no node is there. */
export async function expectNoNode(url: string): Promise<void> {
  const response = await fetch(`${url}${CHANGES}?since=a.1`)
  await assertConforms('get', CHANGES, response)
  expect(response.status).toBe(503)
  expect(response.headers.get('cache-control')).toBe('no-store')
  expect(response.headers.get('access-control-allow-origin')).toBe('*')
  expect(response.headers.get('retry-after')).toMatch(/^[2-7]$/)
}

/** `cached` is asked for while the tests run. */
export function describeCache(cached: () => CachedServer): void {
  let crowd: readonly Poller[] = []
  afterAll(() => {
    for (const poller of crowd) poller.close()
  })

  const ask = async (path: string, headers: Readonly<Record<string, string>> = {}): Promise<Response> => {
    const response = await fetch(cached().url + path, { headers })
    await assertConforms('get', path, response)
    return response
  }
  const bodyOf = async (response: Promise<Response>): Promise<PollBody> => await (await response).json() as PollBody
  /** Writes, and resolves to the version that has it. */
  const write = async (sql: string): Promise<string> => {
    const { version } = await cached().server.poll('items')
    await cached().server.database.query(sql)
    return (await cached().server.pollUntilChanged('items', version)).version
  }
  /** What has reached the origin since this was last asked, but for what asks after its health. */
  const asked = (): readonly OriginRequest[] => cached().origin.take().filter(({ url }) => url.startsWith('/v1/'))
  /** The addresses that the origin was asked for while `work` ran. */
  const askedDuring = async (work: () => Promise<unknown>): Promise<readonly string[]> => {
    asked()
    await work()
    return asked().map(({ url }) => url)
  }
  const rowsOf = (grp: string | undefined): Promise<readonly Readonly<Record<string, unknown>>[]> =>
    cached().server.database.query('select id, label, grp from public.items where $1::text is null or grp = $1 order by id', [grp ?? null])
  const held = (poller: Poller): readonly unknown[] => [...poller.replica.rows.values()].sort((a, b) => Number(a['id']) - Number(b['id']))

  describe('a thousand pollers of one channel', () => {
    it('that is quiet are one request a second', async () => {
      const { version } = await bodyOf(ask(CHANGES))
      crowd = Array.from({ length: POLLERS }, () => new Poller(cached().url + CHANGES))
      const state = await cached().server.poll('items')
      for (const poller of crowd) poller.replica.apply(state)
      asked()
      for (let round = 0; round < 3; round += 1) {
        for (const { body } of await Promise.all(crowd.map((poller) => poller.poll()))) expect(body).toMatchObject({ since: version, version, changes: [] })
      }
      const requests = asked()
      expect(requests.length).toBeGreaterThan(0)
      expect(new Set(requests.map(({ url }) => url))).toEqual(new Set([`${CHANGES}?since=${version}`]))
      expect(oftenerThanOnceASecond(requests)).toEqual([])
    })

    it('that begin at several versions with several filters each end at the rows of their own', async () => {
      for (const poller of crowd) poller.close()
      crowd = Array.from({ length: POLLERS }, (_, index) => {
        const grp = GROUPS[index % 4]
        return new Poller(cached().url + CHANGES, grp === undefined ? {} : { grp })
      })
      // Four feeds at three versions each.
      for (let stage = 0; stage < 3; stage += 1) {
        const states = await Promise.all([...GROUPS, undefined].map((grp) => cached().server.poll('items', grp === undefined ? '' : `?grp=${grp}`)))
        crowd.forEach((poller, index) => {
          const state = states[index % 4]
          if (index % 3 === stage && state !== undefined) poller.replica.apply(state)
        })
        await write(`update public.items set label = label || '.${stage}', grp = substr('abc', (id + ${stage}) % 3 + 1, 1) where id % 5 = ${stage}`)
      }
      asked()
      for (let round = 0; round < 2; round += 1) {
        const writes = async (): Promise<void> => { for (let n = 0; n < 4; n += 1) await write(shuffle(round * 4 + n)) }
        await Promise.all([writes(), ...crowd.map((poller) => poller.poll())])
        // Whoever obeys the advice has everything with the next poll: no answer of before is given any more, and none twice.
        await crowd[0]?.rest()
      }
      await Promise.all(crowd.map((poller) => poller.poll()))
      const rows = new Map(await Promise.all([...GROUPS, undefined].map(async (grp) => [grp, await rowsOf(grp)] as const)))
      for (const [index, poller] of crowd.entries()) {
        expect(poller.faults).toEqual([])
        expect(held(poller)).toEqual(rows.get(GROUPS[index % 4]))
      }
      const requests = asked().filter(({ url }) => url.includes('since=') && !url.includes('wait='))
      expect(new Set(requests.map(({ url }) => url)).size).toBeGreaterThan(12)
      expect(oftenerThanOnceASecond(requests)).toEqual([])
    })
  })

  describe('an answer without changes', () => {
    it('is left behind by the next poll, also where the filter hid what changed', async () => {
      const poller = new Poller(cached().url + CHANGES, { grp: 'none' })
      await poller.poll()
      const before = poller.since
      const version = await write(`update public.items set label = label || '!' where id = 60`)
      await poller.rest()
      const { body } = await poller.poll()
      expect(body).toMatchObject({ since: before, changes: [], reset: false })
      expect(body.version).toBe(version)
      expect((await poller.poll()).body.since).toBe(version)
      poller.close()
    })
  })

  describe('what nobody else may have', () => {
    it.each([
      ['a first state', () => CHANGES, {}],
      ['a poll by If-None-Match alone', () => CHANGES, { 'If-None-Match': 'W/"zzzz.1"' }],
      ['a poll of a private channel', (secret: string) => `/v1/channels/secrets/changes?since=${secret}`, {}],
      ['an unknown channel', (secret: string) => `/v1/channels/nowhere/changes?since=${secret}`, {}],
      ['a malformed cursor', () => `${CHANGES}?since=x`, {}],
    ])('%s reaches the origin each time', async (_what, pathOf, headers) => {
      const path = pathOf((await cached().server.poll('secrets')).version)
      const urls = await askedDuring(async () => {
        for (let time = 0; time < 3; time += 1) {
          expect((await ask(path, headers)).headers.get('cache-control')).not.toContain('public')
        }
      })
      expect(urls).toEqual([path, path, path])
    })

    it('a request with credentials reaches the origin each time', async () => {
      const path = `${CHANGES}?since=${(await cached().server.poll('items')).version}`
      const urls = await askedDuring(async () => {
        for (let time = 0; time < 3; time += 1) await ask(path, { Authorization: 'Bearer x' })
      })
      expect(urls).toEqual([path, path, path])
    })

    it('an error is gone with its cause, and the address shared again', async () => {
      const { version } = await cached().server.poll('items')
      const path = `/v1/channels/late/changes?since=${version}`
      expect((await ask(path)).status).toBe(404)
      await cached().server.database.query(`create table public.late (id int primary key); select freshet.watch('public.late')`)
      await expect.poll(async () => (await cached().server.get('/v1/channels/late')).status).toBe(200)
      expect(await bodyOf(ask(path))).toMatchObject({ channel: 'late', reset: true })
      const urls = await askedDuring(() => Promise.all(Array.from({ length: 20 }, () => ask(path))))
      expect(urls.length).toBeLessThanOrEqual(2)
    })
  })

  it('the figures are not for everybody', async () => {
    for (const path of ['/metrics', '/metrics/', '/metrics?x=1']) expect((await fetch(cached().url + path)).status).toBe(404)
    expect((await fetch(`${cached().url}/healthz`)).status).toBe(200)
  })

  describe('a held poll', () => {
    it.each([
      ['Prefer', '', { Prefer: 'wait=20' }],
      ['a parameter', '&wait=20', {}],
    ])('by %s is held beside plain ones for the same address, and is nobody else\'s', async (_by, query, headers) => {
      const { version } = await bodyOf(ask(CHANGES))
      const path = `${CHANGES}?since=${version}`
      expect(await bodyOf(ask(path))).toMatchObject({ changes: [] })
      const waiting = Array.from({ length: 20 }, () => ask(path + query, headers))
      await expect.poll(() => cached().server.server.hub.size.followers).toBe(20)
      const plain = await ask(path)
      expect(plain.headers.get('preference-applied')).toBeNull()
      expect(await plain.json()).toMatchObject({ since: version, version, changes: [] })
      const next = await write(`update public.items set label = label || '!' where id = 60`)
      for (const response of await Promise.all(waiting)) {
        expect(response.headers.get('cache-control')).toBe('no-store')
        expect(response.headers.get('preference-applied')).toBe('Prefer' in headers ? 'wait=20' : null)
        expect(await response.json()).toMatchObject({ since: version, version: next, changes: [{ op: 'upsert', key: { id: 60 } }] })
      }
    })
  })

  describe('an ETag', () => {
    it('survives compression, and gets 304 with the advice from the cache', async () => {
      const { version } = await bodyOf(ask(CHANGES))
      const next = await write(`update public.items set label = repeat('x', 100)`)
      const path = `${CHANGES}?since=${version}`
      const response = await ask(path, { 'Accept-Encoding': 'gzip' })
      expect(response.headers.get('content-encoding')).toBe('gzip')
      expect(response.headers.get('etag')).toBe(`W/"${next}"`)
      expect(await response.json()).toMatchObject({ since: version, version: next })
      const urls = await askedDuring(() => Promise.all(Array.from({ length: 20 }, async () => {
        const unchanged = await ask(path, { 'If-None-Match': `W/"${next}"` })
        expect(unchanged.status).toBe(304)
        expect(await unchanged.text()).toBe('')
        expect(unchanged.headers.get('etag')).toBe(`W/"${next}"`)
        expect(Number(unchanged.headers.get('poll-after-ms'))).toBeGreaterThanOrEqual(1_000)
      })))
      expect(urls.length).toBeLessThanOrEqual(2)
    })

    it('is accepted as a compressing proxy marks it', async () => {
      const { version } = await bodyOf(ask(CHANGES))
      expect((await ask(CHANGES, { 'If-None-Match': `W/"${version}-gzip"` })).status).toBe(304)
    })

    it('of an older state gets what is new', async () => {
      const { version } = await bodyOf(ask(CHANGES))
      await write(`update public.items set label = 'new' where id = 60`)
      expect(await bodyOf(ask(`${CHANGES}?since=${version}`, { 'If-None-Match': `W/"${version}"` }))).toMatchObject({ since: version, changes: [{ key: { id: 60 } }] })
    })
  })
}
