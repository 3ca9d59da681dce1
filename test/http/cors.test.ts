import { beforeAll, describe, expect, it } from 'vitest'
import { assertConforms } from '../support/contract.ts'
import { startTestServer, type TestServer } from '../support/server.ts'

const SETUP = `
  create table public.items (id int primary key);
  select freshet.watch('public.items');
  create table public.secrets (id int primary key);
  select freshet.watch('public.secrets', public => false);`
const ORIGIN = { Origin: 'https://elsewhere.example' }
const EXPOSED = 'ETag, Poll-After-Ms, Poll-Interval, Poll-Reason, Preference-Applied, Retry-After, Age'

let server: TestServer
beforeAll(async () => { server = await startTestServer({ setup: SETUP, vote: () => Promise.resolve(null) }) })

async function options(path: string): Promise<Response> {
  const response = await fetch(server.url + path, { method: 'OPTIONS', headers: { ...ORIGIN, 'Access-Control-Request-Method': 'GET', 'Access-Control-Request-Headers': 'if-none-match,prefer' } })
  await assertConforms('options', path, response)
  return response
}

describe('a preflight', () => {
  it.each(['/v1/channels', '/v1/channels/items', '/v1/channels/items/changes', '/v1/channels/items/stream', '/v1/stream', '/v1/stream?channels=items'])('of %s says what any page may do, for a day', async (path) => {
    const { status, headers } = await options(path)
    expect(status).toBe(204)
    expect(headers.get('access-control-allow-origin')).toBe('*')
    expect(headers.get('access-control-allow-methods')).toBe('GET, HEAD')
    expect(headers.get('access-control-allow-headers')).toBe('If-None-Match, Prefer, Last-Event-ID, Cache-Control')
    expect(headers.get('access-control-max-age')).toBe('86400')
    expect(headers.get('access-control-allow-credentials')).toBeNull()
    expect(headers.get('allow')).toBe('GET, HEAD, OPTIONS')
    expect(headers.get('cache-control')).toBe('no-store')
  })

  it.each(['/v1/channels/secrets', '/v1/channels/secrets/changes', '/v1/channels/%73ecrets/stream', '/v1/stream?channels=items,secrets', '/demo/votes', '/healthz', '/readyz', '/metrics', '/', '/docs'])('of %s allows no page anything', async (path) => {
    const { status, headers } = await options(path)
    expect(status).toBe(204)
    expect([...headers.keys()].filter((name) => name.startsWith('access-control-'))).toEqual([])
    expect(headers.get('allow')).toMatch(/OPTIONS/)
  })
})

describe('an answer of a public channel', () => {
  it('shows its headers to any page: 200, 304 and errors alike', async () => {
    const { version } = await server.poll('items')
    const answers = await Promise.all([
      server.get('/v1/channels/items/changes', ORIGIN),
      server.get('/v1/channels/items/changes', { ...ORIGIN, 'If-None-Match': `"${version}"` }),
      server.get('/v1/channels/items/changes?since=x', ORIGIN),
      server.get('/v1/channels/missing/changes', ORIGIN),
      fetch(`${server.url}/v1/channels/items/changes`, { method: 'DELETE', headers: ORIGIN }),
    ])
    expect(answers.map(({ status }) => status)).toEqual([200, 304, 400, 404, 405])
    for (const { headers } of answers) {
      expect(headers.get('access-control-allow-origin')).toBe('*')
      expect(headers.get('access-control-expose-headers')).toBe(EXPOSED)
      expect(headers.get('vary')).toBe('Prefer, Accept-Encoding')
      expect(headers.get('x-content-type-options')).toBe('nosniff')
    }
  })
})

describe('what is not a channel', () => {
  it.each(['/healthz', '/readyz', '/metrics', '/', '/docs', '/tv'])('%s is for no page of another origin', async (path) => {
    expect((await server.get(path, ORIGIN)).headers.get('access-control-allow-origin')).toBeNull()
  })

  it.each(['/openapi.yaml', '/openapi.json'])('but %s is for tools anywhere', async (path) => {
    expect((await server.get(path, ORIGIN)).headers.get('access-control-allow-origin')).toBe('*')
  })
})
