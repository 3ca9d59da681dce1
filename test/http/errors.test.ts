/** Whatever is sent, the answer is a problem with its exact code, never a 5xx, never a word of what is inside; and the server goes on. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { expectProblem } from '../support/problem.ts'
import { openSocket, parseAnswer, rawGet, rawRequest, type RawAnswer } from '../support/raw.ts'
import { startTestServer, type TestServer } from '../support/server.ts'

const SETUP = `
  create table public.items (id int primary key, grp text, owner int);
  insert into public.items values (1, 'a', 1);
  select freshet.watch('public.items', filters => '{grp,owner}');`
const CHANGES = '/v1/channels/items/changes'
const STREAM = '/v1/channels/items/stream'

/** No server gave these: too large, below zero, between two versions, of no number at all, of more than a cursor. */
const UNREADABLE_CURSORS = [
  '', 'x'.repeat(65), `k3f9.${'9'.repeat(8_000)}`, 'k3f9.9007199254740992', 'k3f9.-1', '-1', 'k3f9.1.5', '1.5', 'k3f9.1e3', 'k3f9.NaN', 'k3f9.', '.1', 'k3f9.01',
  '%00', 'k3f9.1%00', 'k3f9.1%0d%0a', 'K3F9.1', 'k3f9.1,k3f9.2', 'null', '%7B%7D', '0', '*', 'W/%22k3f9.1%22', '%22k3f9.1%22',
]

let server: TestServer
beforeAll(async () => {
  const vote = (id: number): Promise<{ committedAtMs: number; tookMs: number } | null> => Promise.resolve(id === 1 ? { committedAtMs: 1, tookMs: 1 } : null)
  server = await startTestServer({ setup: SETUP, vote })
})
afterAll(async () => {
  expect(await server.poll('items')).toMatchObject({ reset: true })
  expect(server.warnings).toEqual([])
})

describe('a path', () => {
  it.each<[string, number, string]>([
    ['/v1', 404, 'not_found'],
    ['/v1/', 404, 'not_found'],
    ['/v2/channels', 404, 'not_found'],
    ['/v1/channels/missing', 404, 'unknown_channel'],
    ['/v1/channels/missing/changes', 404, 'unknown_channel'],
    ['/v1/channels/missing/stream', 404, 'unknown_channel'],
    ['/v1/channels/ITEMS/changes', 404, 'unknown_channel'],
    ['/v1/channels/a%2fb/changes', 404, 'unknown_channel'],
    ['/v1/channels/..%2f..%2fetc/changes', 404, 'unknown_channel'],
    ['/v1/channels/%00/changes', 404, 'unknown_channel'],
    ['/v1/channels/items%00/stream', 404, 'unknown_channel'],
    ['/v1/channels/x%0d%0aSet-Cookie:%20a=b/changes', 404, 'unknown_channel'],
    ['/v1/channels/%zz/changes', 404, 'not_found'],
    ['/v1/channels/%ff/changes', 404, 'not_found'],
    ['/v1/channels/__proto__/changes', 404, 'unknown_channel'],
    ['/v1/channels/constructor', 404, 'unknown_channel'],
    ['/v1/channels/../metrics', 404, 'not_found'],
    ['/v1/channels/../changes', 404, 'unknown_channel'],
    [`/v1/channels/${'a'.repeat(64)}`, 404, 'unknown_channel'],
    [`/v1/channels/${'a'.repeat(5_000)}/changes`, 404, 'unknown_channel'],
    ['/v1/channels/items/', 200, ''],
    ['/v1/channels/items/changes/more', 404, 'not_found'],
    ['/v1/channels//changes', 404, 'not_found'],
    ['//v1/channels', 404, 'not_found'],
    ['/V1/CHANNELS', 404, 'not_found'],
    ['//[', 404, 'not_found'],
    ['/\\..\\', 404, 'not_found'],
    ['/assets/../../package.json', 404, 'not_found'],
    ['/assets/..%2f..%2fpackage.json', 404, 'not_found'],
    ['/assets/%2e%2e/%2e%2e/package.json', 404, 'not_found'],
    ['/assets/..\\..\\package.json', 404, 'not_found'],
    ['/assets/%00', 404, 'not_found'],
    ['/assets/%zz', 404, 'not_found'],
    ['/assets/', 404, 'not_found'],
    ['/.git/config', 404, 'not_found'],
    ['/demo', 404, 'not_found'],
    [`/${'a'.repeat(9_000)}`, 414, 'uri_too_long'],
    [`${CHANGES}?grp=${'a'.repeat(8_192)}`, 414, 'uri_too_long'],
    [`${STREAM}?grp=${'a'.repeat(8_192)}`, 414, 'uri_too_long'],
    [`${CHANGES}?${'a&'.repeat(10_000)}`, 414, 'uri_too_long'],
    [`${STREAM}?${'a&'.repeat(10_000)}`, 414, 'uri_too_long'],
  ])('%s is %i %s', async (path, status, code) => {
    const answer = await rawGet(server.url, path)
    if (status === 200) expect(answer.status).toBe(200)
    else expectProblem(answer, status, code)
  })
})

describe('a request that the application never sees', () => {
  it('is refused so that a page of any origin can read why, if it was about channels', async () => {
    const refused = await rawGet(server.url, `${CHANGES}?grp=${'a'.repeat(8_192)}`)
    expect([refused.headers.get('access-control-allow-origin'), refused.headers.get('vary')]).toEqual(['*', 'Prefer, Accept-Encoding'])
    expect((await rawGet(server.url, `/${'a'.repeat(9_000)}`)).headers.get('access-control-allow-origin') ?? null).toBeNull()
  })
})

describe('a query', () => {
  const many = Array.from({ length: 1_500 }, (_, index) => `p${index}`).join('&')
  it.each<[string, string]>([
    ['?sinc=x', 'unknown_parameter'],
    ['?__proto__=1', 'unknown_parameter'],
    ['?constructor[prototype]=1', 'unknown_parameter'],
    ['?grp[]=a', 'unknown_parameter'],
    ['?grp[0]=a', 'unknown_parameter'],
    ['?grp.a=1', 'unknown_parameter'],
    ['?=1', 'unknown_parameter'],
    ['?%00=1', 'unknown_parameter'],
    ['?GRP=a', 'unknown_parameter'],
    ['?id=1', 'unknown_parameter'],
    ['?next=1', 'unknown_parameter'],
    ['?grp=a&grp=b', 'duplicated_parameter'],
    ['?grp=a&g%72p=b', 'duplicated_parameter'],
    ['?since=k3f9.1&since=k3f9.1', 'duplicated_parameter'],
    [`?${many}`, 'invalid_parameter'],
    [`?${'a&'.repeat(4_000)}`, 'invalid_parameter'],
    ['?grp=%zz', 'invalid_parameter'],
    ['?grp=%ff', 'invalid_parameter'],
    ['?grp=%ed%a0%80', 'invalid_parameter'],
    ['?grp=é', 'malformed_request'],
    ['?%zz=1', 'invalid_parameter'],
    ['?grp=a%00b', 'invalid_filter'],
    ['?owner=x', 'invalid_filter'],
    ['?owner=', 'invalid_filter'],
    [`?owner=${'9'.repeat(4_000)}`, 'invalid_filter'],
    ['?owner=1%27%20or%201=1', 'invalid_filter'],
    ['?limit=0', 'invalid_parameter'],
    ['?wait=-1', 'invalid_parameter'],
    ['?wait=1.5', 'invalid_parameter'],
    ['?wait=', 'invalid_parameter'],
    ['?limit=10001', 'invalid_parameter'],
    ['?limit=-1', 'invalid_parameter'],
    ['?limit=1.5', 'invalid_parameter'],
    ['?limit=1e3', 'invalid_parameter'],
    ['?limit=NaN', 'invalid_parameter'],
    ...UNREADABLE_CURSORS.map((cursor) => [`?since=${cursor}`, 'malformed_cursor'] as [string, string]),
  ])('%s of a poll is 400 %s', async (query, code) => {
    const answer = await rawGet(server.url, CHANGES + query)
    expectProblem(answer, 400, code)
    if (code !== 'malformed_request') expect(answer.headers.get('vary')).toBe('Prefer, Accept-Encoding')
  })

  it.each(['/healthz', '/readyz', '/metrics', '/v1/channels', '/v1/channels/items', '/openapi.yaml'])('of %s may have no parameters', async (path) => {
    expectProblem(await rawGet(server.url, `${path}?a=1`), 400, 'unknown_parameter')
  })

  it.each<[string, string]>([['?wait=1', 'unknown_parameter'], ['?grp=a&grp=b', 'duplicated_parameter'], ['?owner=x', 'invalid_filter']])('%s of a stream is 400 %s', async (query, code) => {
    expectProblem(await rawGet(server.url, STREAM + query), 400, code)
  })

  it('may hold a value of almost 8 KB', async () => {
    expect((await rawGet(server.url, `${CHANGES}?grp=${'a'.repeat(8_000)}`)).status).toBe(200)
  })
})

describe('a cursor of a stream', () => {
  /** The first event. */
  async function firstOf(path: string, headers: readonly string[] = []): Promise<string> {
    const socket = await openSocket(server.url)
    let text = ''
    socket.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
    socket.write([`GET ${path} HTTP/1.1`, 'Host: x', ...headers, '', ''].join('\r\n'))
    await expect.poll(() => text).toMatch(/\ndata:.*\n\n/)
    socket.destroy()
    return text
  }
  const reset = /^HTTP\/1\.1 200 OK\r\n[^]*text\/event-stream[^]*"since":null,[^]*"reset":true/

  it.each([...UNREADABLE_CURSORS, 'zzzz.1', 'zzzz.9007199254740991'])('%j is no error, in a parameter, in the header or in both', async (cursor) => {
    expect(await firstOf(`${STREAM}?since=${cursor}`)).toMatch(reset)
    expect(await firstOf(STREAM, [`Last-Event-ID: ${decodeURIComponent(cursor).replace(/[\0\r\n]/g, '')}x`])).toMatch(reset)
    expect(await firstOf(`${STREAM}?last_event_id=${cursor}`, [`Last-Event-ID: ${cursor}`])).toMatch(reset)
  })
})

describe('a method that an address does not have', () => {
  it.each(['POST', 'PUT', 'PATCH', 'DELETE', 'TRACE', 'PROPFIND', 'QUERY'].flatMap((method) => [CHANGES, STREAM, '/v1/stream', '/v1/channels', '/healthz', '/metrics', '/openapi.yaml', '/', '/docs'].map((path) => [method, path] as const)))('%s %s is 405', async (method, path) => {
    const answer = await rawRequest(server.url, [`${method} ${path} HTTP/1.1`, 'Host: x', 'Connection: close', 'Content-Length: 0'])
    // What this Node does not know as a method is not HTTP to it.
    if (method === 'QUERY' && answer.status === 400) return expectProblem(answer, 400, 'malformed_request')
    expectProblem(answer, 405, 'method_not_allowed')
    expect(answer.headers.get('allow')).toBe('GET, HEAD, OPTIONS')
  })

  it('GET /demo/votes is 405 with its own', async () => {
    const answer = await rawGet(server.url, '/demo/votes')
    expectProblem(answer, 405, 'method_not_allowed')
    expect(answer.headers.get('allow')).toBe('POST, OPTIONS')
  })

  it('CONNECT is 405', async () => {
    expectProblem(await rawRequest(server.url, ['CONNECT example.com:443 HTTP/1.1', 'Host: x']), 405, 'method_not_allowed')
  })
})

describe('what is not HTTP as it should be', () => {
  it.each<[string, readonly string[], number, string]>([
    ['no Host', [`GET ${CHANGES} HTTP/1.1`, 'Connection: close'], 400, 'malformed_request'],
    ['two Hosts', [`GET ${CHANGES} HTTP/1.1`, 'Host: a', 'Host: b', 'Connection: close'], 400, 'malformed_request'],
    ['a relative address', ['GET v1/channels HTTP/1.1', 'Host: a', 'Connection: close'], 400, 'malformed_request'],
    ['no HTTP at all', ['hello'], 400, 'malformed_request'],
    ['a method nobody knows', ['FETCH / HTTP/1.1', 'Host: a'], 400, 'malformed_request'],
    ['a broken header', ['GET / HTTP/1.1', 'Host: a', 'no colon'], 400, 'malformed_request'],
    ['a header with a NUL', ['GET / HTTP/1.1', 'Host: a', 'X: a\0b'], 400, 'malformed_request'],
    ['two lengths', ['POST /demo/votes HTTP/1.1', 'Host: a', 'Content-Length: 1', 'Content-Length: 2'], 400, 'malformed_request'],
    ['length and chunks', ['POST /demo/votes HTTP/1.1', 'Host: a', 'Content-Length: 1', 'Transfer-Encoding: chunked'], 400, 'malformed_request'],
    ['headers of 40 KB', [`GET ${CHANGES} HTTP/1.1`, 'Host: a', `X: ${'x'.repeat(40_000)}`], 431, 'headers_too_large'],
  ])('%s', async (_what, request, status, code) => {
    expectProblem(await rawRequest(server.url, request), status, code)
  })

  it.each<[string, readonly string[]]>([
    ['an odd Host', ['Host: <script>"']],
    ['an empty Host', ['Host:']],
    ['a Host that is no host', ['Host: a b:99999999']],
    ['If-None-Match of 10 KB', ['Host: a', `If-None-Match: ${'"x",'.repeat(2_500)}`]],
    ['Prefer in a mess', ['Host: a', 'Prefer: wait=, "', 'Prefer: wait=abc; q="']],
    ['an expectation', ['Host: a', 'Expect: the-unexpected']],
    ['an upgrade', ['Host: a', 'Connection: Upgrade, close', 'Upgrade: websocket']],
    ['a body', ['Host: a', 'Content-Length: 5', '', 'hello']],
    ['ranges and conditions', ['Host: a', 'Range: bytes=0-1', 'If-Range: x', 'If-Modified-Since: yesterday', 'If-Match: "x"']],
  ])('%s does not matter', async (_what, headers) => {
    const answer = await rawRequest(server.url, [`GET ${CHANGES} HTTP/1.1`, ...headers.some((line) => line.startsWith('Connection')) ? [] : ['Connection: close'], ...headers])
    expect(answer.status).toBe(200)
    expect(JSON.parse(answer.body)).toMatchObject({ reset: true })
  })

  it('the absolute form of an address is understood', async () => {
    const answer = await rawGet(server.url, `http://example.com${CHANGES}?grp=a`)
    expect(JSON.parse(answer.body)).toMatchObject({ reset: true })
  })

  it('bytes after an open stream do not corrupt it', async () => {
    const socket = await openSocket(server.url)
    let text = ''
    socket.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
    socket.write(`GET ${STREAM} HTTP/1.1\r\nHost: x\r\n\r\n`)
    await expect.poll(() => text).toContain('"reset":true')
    socket.write(`garbage garbage\r\n\r\nGET ${CHANGES} HTTP/1.1\r\nHost: x\r\n\r\n`)
    await server.database.query('update items set owner = owner + 1')
    await expect.poll(() => text).toContain('"reset":false')
    socket.destroy()
    expect(text.match(/HTTP\/1\.1 /g)).toHaveLength(1)
    expect(text).not.toContain('problem')
  })
})

describe('Accept', () => {
  it.each([[CHANGES, 'application/xml'], [STREAM, 'application/json'], ['/v1/channels', 'text/html'], ['/v1/stream?channels=items', 'image/*'], [CHANGES, 'application/json;q=0']])('of %s as %s is 406', async (path, accept) => {
    expectProblem(await rawGet(server.url, path, [`Accept: ${accept}`]), 406, 'not_acceptable')
  })

  it.each(['*/*', 'application/*', 'text/html, */*;q=0.1', 'application/json', '', 'nonsense;;;, */*'])('%j of a poll is served', async (accept) => {
    expect((await rawGet(server.url, CHANGES, [`Accept: ${accept}`])).status).toBe(200)
  })
})

describe('a vote', () => {
  const post = async (body: string | Buffer, headers: readonly string[] = ['Content-Type: application/json']): Promise<RawAnswer> =>
    rawRequest(server.url, Buffer.concat([Buffer.from(['POST /demo/votes HTTP/1.1', 'Host: x', 'Connection: close', `Content-Length: ${Buffer.byteLength(body)}`, ...headers, '', ''].join('\r\n')), Buffer.from(body)]))

  it('for an option is 204', async () => {
    expect((await post('{"id":1}')).status).toBe(204)
  })

  it.each<[string, string, number, string]>([
    ['nothing', '', 400, 'malformed_body'],
    ['no JSON', '{', 400, 'malformed_body'],
    ['a number', '1', 400, 'malformed_body'],
    ['null', 'null', 400, 'malformed_body'],
    ['a list', '[1]', 400, 'malformed_body'],
    ['no id', '{}', 400, 'malformed_body'],
    ['a text as id', '{"id":"1"}', 400, 'malformed_body'],
    ['a fraction', '{"id":1.5}', 400, 'malformed_body'],
    ['an infinite id', '{"id":1e999}', 400, 'malformed_body'],
    ['an id too large', '{"id":1e300}', 400, 'malformed_body'],
    ['an id as prototype', '{"__proto__":{"id":1}}', 400, 'malformed_body'],
    ['a deep one', `{"id":${'['.repeat(400)}${']'.repeat(400)}}`, 400, 'malformed_body'],
    ['no such option', '{"id":2}', 400, 'malformed_body'],
    ['2 KB', JSON.stringify({ id: 1, x: 'x'.repeat(2_000) }), 413, 'payload_too_large'],
  ])('with %s is %s', async (_what, body, status, code) => {
    expectProblem(await post(body), status, code)
  })

  it.each<[string, readonly string[], number, string]>([
    ['a form', ['Content-Type: application/x-www-form-urlencoded'], 415, 'unsupported_media_type'],
    ['text, which needs no preflight', ['Content-Type: text/plain'], 415, 'unsupported_media_type'],
    ['no type', [], 415, 'unsupported_media_type'],
    ['another charset', ['Content-Type: application/json; charset=klingon'], 415, 'unsupported_media_type'],
    ['another encoding', ['Content-Type: application/json', 'Content-Encoding: x'], 415, 'unsupported_media_type'],
    ['broken gzip', ['Content-Type: application/json', 'Content-Encoding: gzip'], 400, 'malformed_body'],
  ])('as %s is %s', async (_what, headers, status, code) => {
    expectProblem(await post('{"id":1}', headers), status, code)
  })

  it('that breaks off is nobody\'s', async () => {
    const socket = await openSocket(server.url)
    socket.write('POST /demo/votes HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"i')
    socket.end()
    const chunks: Buffer[] = []
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    await new Promise((resolve) => socket.once('close', resolve))
    const text = Buffer.concat(chunks).toString()
    if (text !== '') expectProblem(parseAnswer(text), 400, 'malformed_request')
  })
})
