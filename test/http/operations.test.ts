/** For whoever runs the server: liveness, readiness, figures; and what an outage of the database looks like from outside. */
import { beforeAll, describe, expect, it } from 'vitest'
import { assertConforms } from '../support/contract.ts'
import { createDatabase } from '../support/database.ts'
import { startProxy, type Proxy } from '../support/proxy.ts'
import { rawGet } from '../support/raw.ts'
import { startTestServer, type TestServer } from '../support/server.ts'
import { openStream, Replica } from '../support/sse.ts'

const SETUP = `
  create table public.items (id int primary key, n int not null default 0);
  insert into public.items (id) select generate_series(1, 5);
  select freshet.watch('public.items', filters => '{n}');`

let server: TestServer
let proxy: Proxy
beforeAll(async () => {
  const database = await createDatabase()
  proxy = await startProxy(database.url)
  server = await startTestServer({ database, setup: SETUP, databaseUrl: proxy.url })
})

interface Ready {
  readonly status: string
  readonly version: string | null
  readonly checks: Readonly<Record<string, { readonly ok: boolean; readonly detail: string }>>
}

describe('a healthy server', () => {
  it('is alive, ready, and says at which version', async () => {
    const alive = await server.get('/healthz')
    expect(await alive.json()).toEqual({ status: 'ok' })
    const ready = await server.get('/readyz')
    expect(ready.status).toBe(200)
    const { status, version, checks } = await ready.json() as Ready
    expect(status).toBe('ready')
    expect(version).toBe((await server.poll('items')).version)
    expect(Object.entries(checks).map(([name, { ok }]) => [name, ok])).toEqual([['database', true], ['clock', true], ['migrations', true], ['listener', true]])
  })

  it.each(['/healthz', '/readyz', '/metrics'])('answers HEAD %s without a body, and never 304', async (path) => {
    const head = await fetch(server.url + path, { method: 'HEAD' })
    await assertConforms('head', path, head)
    expect([head.status, await head.text()]).toEqual([200, ''])
    expect((await rawGet(server.url, path, ['If-None-Match: *'])).status).toBe(200)
  })

  it('describes its channels', async () => {
    const { version } = await server.poll('items')
    const channel = await (await server.get('/v1/channels/items')).json() as Readonly<Record<string, unknown>>
    expect(channel).toEqual({
      name: 'items', public: true, key: ['id'], filters: ['n'], version, status: 'live', changes_per_minute: channel['changes_per_minute'],
      columns: [{ name: 'id', type: 'integer', nullable: false }, { name: 'n', type: 'integer', nullable: false }],
    })
    expect(await (await server.get('/v1/channels')).json()).toEqual({ channels: [channel] })
    expect((await rawGet(server.url, '/v1/channels', ['If-None-Match: *'])).status).toBe(200)
  })

  it('counts for Prometheus, by route and never by path', async () => {
    await server.get('/v1/channels/items')
    await server.get('/v1/channels/no_such_channel')
    const response = await server.get('/metrics')
    expect(response.headers.get('content-type')).toMatch(/^text\/plain;.*version=0\.0\.4/)
    const text = await response.text()
    expect(text).toMatch(/^freshet_head_version [1-9]\d+$/m)
    expect(text).toMatch(/^freshet_leader 1$/m)
    expect(text).toMatch(/^freshet_streams 0$/m)
    expect(text).toMatch(/^freshet_http_requests_total\{route="\/v1\/channels\/:channel",status="404"\} 1$/m)
    expect(text).not.toContain('no_such_channel')
    expect(text).toMatch(/^process_resident_memory_bytes [1-9]/m)
    expect(text.match(/^# TYPE (\S+)/gm)?.filter((line) => !/TYPE (?:freshet|process|nodejs)_/.test(line))).toEqual([])
  })
})

describe('a parked channel', () => {
  it('says why, refuses polls with 503, keeps its streams open with one status, and goes on when it is mended', async () => {
    await server.database.query(`create table fragile (id int primary key, a int); insert into fragile values (1, 1); select freshet.watch('public.fragile', columns => '{a}')`)
    await expect.poll(async () => (await server.get('/v1/channels/fragile')).status).toBe(200)
    const reader = await openStream(`${server.url}/v1/channels/fragile/stream`)
    await reader.delta(({ reset }) => reset)
    await server.database.query('alter table fragile drop column a; select freshet.detect_drift()')
    await reader.until(({ event, data }) => event === 'status' && !data.includes('null'))
    const channel = await (await server.get('/v1/channels/fragile')).json() as { readonly status: string; readonly parked_reason: string }
    expect(channel.status).toBe('parked')
    expect(channel.parked_reason).toMatch(/column a/)
    const refused = await server.get('/v1/channels/fragile/changes')
    expect(refused.status).toBe(503)
    expect(await refused.json()).toMatchObject({ code: 'channel_parked' })
    await server.database.query(`select freshet.watch('public.fragile', columns => '{id}')`)
    await reader.delta(({ reset, changes }) => reset && changes[0]?.row !== undefined && !('a' in changes[0].row))
    // One when it was parked and one when it was not: no flicker.
    await reader.until(({ event, data }) => event === 'status' && data.includes('null'))
    expect(reader.events.filter(({ event }) => event === 'status')).toHaveLength(2)
    reader.close()
  })
})

describe('without its database', () => {
  it('the server refuses polls, says so on open streams, and recovers without a gap', async () => {
    const replica = new Replica()
    const reader = await openStream(`${server.url}/v1/channels/items/stream`, {}, (delta) => { replica.apply(delta) })
    await reader.delta(({ reset }) => reset)
    const { version } = await server.poll('items')
    // A filter value that has been checked once is known.
    expect((await server.get('/v1/channels/items/stream?n=x')).status).toBe(400)
    await server.poll('items', `?n=7&since=${version}`)
    proxy.cut()

    // At once: not ready, alive, and what needs the database is 503 rather than 500.
    await expect.poll(async () => (await server.get('/readyz')).status).toBe(503)
    const { checks } = await (await server.get('/readyz')).json() as Ready
    expect(checks['database']).toMatchObject({ ok: false })
    expect(checks['database']?.detail).not.toContain('127.0.0.1')
    expect((await server.get('/healthz')).status).toBe(200)
    for (const query of ['?n=1', '?n=12345']) {
      const state = await server.get(`/v1/channels/items/changes${query}`)
      expect([state.status, (await state.json() as { readonly code: string }).code]).toEqual([503, 'database_unreachable'])
    }
    // What memory knows is still the truth for a while.
    for (const query of ['', `?since=${version}`]) expect((await server.get(`/v1/channels/items/changes${query}`)).status).toBe(200)
    // A stream that cannot begin stays open; a filter nobody can check is no error of the client's.
    const hopeful = await openStream(`${server.url}/v1/channels/items/stream?n=7`)
    const unchecked = await openStream(`${server.url}/v1/channels/items/stream?n=54321`)
    expect([hopeful.status, unchecked.status]).toEqual([200, 200])
    await unchecked.ended

    await server.database.query('update items set n = 1 where id = 1')
    const stale = await reader.until(({ event }) => event === 'status')
    const since = (JSON.parse(stale.data) as { readonly stale_since: string }).stale_since
    expect(Date.now() - Date.parse(since)).toBeGreaterThan(4_000)
    const refused = await server.get(`/v1/channels/items/changes?since=${version}`)
    expect(refused.status).toBe(503)
    expect(await refused.json()).toMatchObject({ code: 'database_unreachable' })
    expect(await (await server.get('/metrics')).text()).toMatch(/^freshet_stale_seconds [5-9]/m)

    proxy.mend()
    await reader.until(({ event, data }) => event === 'status' && data === '{"stale_since":null}')
    await reader.delta(({ changes, reset }) => !reset && changes[0]?.row?.['n'] === 1)
    await hopeful.delta(({ reset, changes }) => reset && changes.length === 0)
    expect(replica.resets).toBe(1)
    const polled = await server.poll('items', `?since=${version}`)
    expect(polled).toMatchObject({ since: version, reset: false, version: replica.version })
    await expect.poll(async () => (await server.get('/readyz')).status, { timeout: 15_000 }).toBe(200)
    expect(reader.events.filter(({ event }) => event === 'status')).toHaveLength(2)
    reader.close()
    hopeful.close()
  })
})
