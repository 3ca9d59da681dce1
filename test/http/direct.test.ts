/** Connections that are answered past node:http, beside such as node:http has had from the start. */
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import type { Environment } from '../../src/config.ts'
import { answerDirectly, readHead, type DirectConnections, type DirectOptions } from '../../src/transport/direct.ts'
import { closeAtEnd } from '../support/cleanup.ts'
import { createDatabase, type TestDatabase } from '../support/database.ts'
import { openSocket, withoutMoving } from '../support/raw.ts'
import { startTestServer, type TestServer } from '../support/server.ts'

/** Everything that comes until the server closes. */
async function readAll(socket: Socket): Promise<string> {
  let text = ''
  socket.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
  await once(socket, 'close')
  return text
}

function get(path: string, ...headers: readonly string[]): string {
  return [`GET ${path} HTTP/1.1`, 'Host: localhost', ...headers].join('\r\n') + '\r\n\r\n'
}

function afterFirst(answers: string): string {
  return answers.split(/(?=HTTP\/1\.1 )/).slice(1).join('')
}

const LAST = get('/healthz', 'Connection: close')

describe('whatever is asked on a connection, and however its bytes are cut, the answers are those of node:http', () => {
  let server: TestServer
  let requests: readonly string[]
  /** Node itself answers none of them, or not always what is asked beside them. */
  let broken: readonly string[]
  beforeAll(async () => {
    server = await startTestServer({ setup: `
      create table public.items (id int primary key, grp text, n int not null default 0);
      insert into public.items select n, 'g' || n % 2 || 'é' from generate_series(1, 4) n;
      select freshet.watch('public.items', filters => '{grp}');
      create table public.secrets (id int primary key);
      select freshet.watch('public.secrets', public => false);` })
    const { version: since } = await server.poll('items')
    await server.database.query('update items set n = n + 1 where id = 1')
    const { version: head } = await server.pollUntilChanged('items', since)
    const { version: secret } = await server.poll('secrets')
    const items = '/v1/channels/items/changes'
    const common = [
      get(items, `If-None-Match: "${head}"`), get(`${items}?since=${since}`), get(`${items}?since=${head}`), get(`${items}?since=${since}&grp=g1%C3%A9`),
      get(items, `If-None-Match: W/"${since}"`, 'Accept: */*', 'User-Agent: a television', 'Connection: keep-alive', 'Accept-Encoding: gzip'),
      get(`${items}?since=${since}`, `If-None-Match:"${head}"  `), get('/v1/channels/secrets/changes', `If-None-Match: "${secret}"`),
    ]
    const others = [
      get(items), get(`${items}?since=${since}&limit=1`), get(`${items}?colour=red`), get(`${items}?since=%00`), get('/v1/channels/nothing/changes'), get('/nowhere'),
      get(`${items}?since=${since}`, 'Accept: text/html'), get(`${items}?since=${since}`, `If-None-Match: "${head}"`, 'If-None-Match: *'), get('/healthz'),
      get(`${items}?since=${since}`, 'X-Long: '.padEnd(6_000, 'x')), get(`${items}?since=${since}`).replace('GET', 'HEAD'), get(`${items}?since=${since}`, 'Content-Length: 0'),
      get(`${items}?since=${since}`, 'Expect: 100-continue'), get(`http://localhost${items}?since=${since}`), get(`${items}?since=${since}`, 'X: é'),
      get(`${items}?since=${since}`, 'Transfer-Encoding: chunked') + '3\r\nGET\r\n0\r\n\r\n', get(`${items}?since=${since}`, 'Connection: Keep-Alive'),
      get(`${items}?since=${since}`, 'Host: twice'), get(`${items}?since=${since}`).replace('Host', 'Ghost'),
    ]
    broken = [
      get(`${items}?since=${since}`).replaceAll('\r\n', '\n'), get(`${items}?since=${since}`, 'X-é: é'), get(`${items}?since=${since}`, 'Content-Length: 2', 'Content-Length: 3'),
      get(`${items}?since=${since}`, 'folded: one', ' two'), get(`${items}?since=${since}#here`), get(`${items}?since=${since}`, 'Host : twice'), get(items).replace('1.1', '9.9'), get(items).replace('1.1', '1.0'),
    ]
    // Mostly those that are answered directly: what else comes ends that.
    requests = [...Array.from({ length: 8 }, () => common).flat(), ...others]
  })

  /** The answers to all, on a connection that begins with `before`. */
  async function answersTo(before: string, bytes: Buffer, cuts: readonly number[]): Promise<string> {
    const socket = await openSocket(server.url)
    socket.setNoDelay(true)
    socket.write(before)
    const [first] = await once(socket, 'data') as [Buffer]
    const answers = readAll(socket)
    let from = 0
    for (const cut of [...cuts, bytes.length]) {
      socket.write(bytes.subarray(from, cut))
      from = cut
      // Not together with the next, mostly.
      for (let turns = 0; turns < 3; turns += 1) await turn()
    }
    return withoutMoving(String(first) + await answers)
  }

  it('byte for byte', async () => {
    const asked = fc.array(fc.nat({ max: 74 }), { minLength: 1, maxLength: 6 })
    await fc.assert(fc.asyncProperty(asked, fc.array(fc.nat({ max: 1_500 }), { maxLength: 4 }), fc.boolean(), async (indices, places, areApart) => {
      const texts = [...indices.map((index) => requests[index % requests.length] ?? ''), LAST]
      const bytes = Buffer.from(texts.join(''))
      const ends = texts.map((_, index) => Buffer.byteLength(texts.slice(0, index + 1).join('')))
      const cuts = (areApart ? ends : places).filter((place) => place < bytes.length).toSorted((a, b) => a - b)
      // The first question makes one connection node:http's.
      const [plain, direct] = await Promise.all([answersTo(get('/healthz'), bytes, cuts), answersTo(requests[0] ?? '', bytes, cuts)])
      expect(plain.slice(0, 15)).toBe('HTTP/1.1 200 OK')
      expect(direct.slice(0, 12)).toBe('HTTP/1.1 304')
      expect(afterFirst(direct)).toBe(afterFirst(plain))
    }), { numRuns: 150, seed: 20_261_122 })
  })

  it('also to what is none', async () => {
    for (const request of broken) {
      const [plain, direct] = await Promise.all([get('/healthz'), requests[0] ?? ''].map((before) => answersTo(before, Buffer.from(request + LAST), [])))
      expect(afterFirst(direct ?? '')).toBe(afterFirst(plain ?? ''))
    }
  })
})

describe('one address that asks too often on one connection', () => {
  let database: TestDatabase
  beforeAll(async () => {
    database = await createDatabase()
    await database.query(`create table public.items (id int primary key); select freshet.watch('public.items')`)
  })

  /** Statuses of polls that are asked one after another, as fast as answers come. */
  async function statuses(environment: Environment, headersOf: (index: number) => readonly string[]): Promise<readonly string[]> {
    const server = await startTestServer({ database, environment })
    const { version } = await server.poll('items')
    const socket = (await openSocket(server.url)).setEncoding('utf8')
    const answers: string[] = []
    for (let index = 0; index < 60; index += 1) {
      socket.write(get('/v1/channels/items/changes', `If-None-Match: "${version}"`, ...headersOf(index)))
      let answer = ''
      while (!/\r\n\r\n(\{.*\})?$/.test(answer) || (answer.startsWith('HTTP/1.1 429') && !answer.endsWith('}'))) answer += String((await once(socket, 'data'))[0])
      answers.push(answer.slice(9, 12))
    }
    socket.destroy()
    return answers
  }

  it('is refused', async () => {
    expect(await statuses({ RATE_LIMIT: '20' }, () => [])).toContain('429')
  })

  it('is refused by the address that a trusted proxy names, and nobody else', async () => {
    expect(await statuses({ RATE_LIMIT: '20', TRUST_PROXY: '1' }, () => ['X-Forwarded-For: 10.0.0.1'])).toContain('429')
    expect(new Set(await statuses({ RATE_LIMIT: '20', TRUST_PROXY: '1' }, (index) => [`X-Forwarded-For: 10.0.0.${index}`]))).toEqual(new Set(['304']))
  })
})

describe('a connection', () => {
  const ANSWER = { status: 200, headers: ['Content-Length', '5'], body: 'hello' } as const
  const isMine = (url: string): boolean => url.startsWith('/mine')

  interface Place {
    readonly url: string
    readonly server: Server
    /** What node:http was asked. */
    readonly asked: string[]
    /** The server's ends. */
    readonly sockets: readonly Socket[]
    readonly connections: DirectConnections
  }

  async function start(options: Partial<DirectOptions> = {}, timeouts: { readonly headersTimeout?: number; readonly keepAliveTimeout?: number } = {}): Promise<Place> {
    const asked: string[] = []
    const server = createServer({ headersTimeout: 60_000, keepAliveTimeout: 60_000, connectionsCheckingInterval: 50, ...timeouts }, (request, response) => {
      asked.push(request.url ?? '')
      response.end('plain')
    })
    const connections = answerDirectly(server, { drainDeadlineMs: 60_000, answer: ({ url }) => Promise.resolve(isMine(url) ? { ...ANSWER, headers: [...ANSWER.headers] } : null), ...options })
    const sockets: Socket[] = []
    server.on('connection', (socket: Socket) => sockets.push(socket))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    closeAtEnd(() => {
      connections.destroy()
      server.closeAllConnections()
      server.close()
    })
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, server, asked, sockets, connections }
  }

  async function says(socket: Socket, text: string): Promise<void> {
    for (let heard = ''; !heard.includes(text);) heard += String((await once(socket, 'data'))[0])
  }

  it('is node:http’s from the first other question on', async () => {
    const { url, asked } = await start()
    const socket = await openSocket(url)
    for (const [path, answer] of [['/mine/1', 'hello'], ['/mine/2', 'hello'], ['/yours', 'plain'], ['/mine/3', 'plain']] as const) {
      socket.write(get(path))
      await says(socket, answer)
    }
    expect(asked).toEqual(['/yours', '/mine/3'])
    socket.destroy()
  })

  it('answers in order what is asked before the answer is there', async () => {
    let resolve = (): void => undefined
    const { url, sockets } = await start({ answer: () => new Promise((answered) => { resolve = () => answered({ status: 200, headers: ['Content-Length', '0'], body: '' }) }) })
    const socket = await openSocket(url)
    const answers = readAll(socket)
    socket.write(get('/mine/1'))
    await expect.poll(() => sockets[0]?.bytesRead).toBe(get('/mine/1').length)
    const rest = get('/mine/2') + get('/yours', 'Connection: close')
    socket.write(rest)
    await expect.poll(() => sockets[0]?.bytesRead).toBe(get('/mine/1').length + rest.length)
    resolve()
    // Two in one piece are one too many.
    expect([...(await answers).matchAll(/Content-Length: 0|plain/g)].map(([text]) => text)).toEqual(['Content-Length: 0', 'plain', 'plain'])
  })

  it('on which nothing is said is told so by node:http', async () => {
    const { url } = await start({}, { headersTimeout: 100 })
    expect(await readAll(await openSocket(url))).toMatch(/^HTTP\/1\.1 408 /)
  })

  it('that rests after an answer is closed as node:http would close it', async () => {
    const { url, asked } = await start({}, { keepAliveTimeout: 100 })
    const socket = await openSocket(url)
    socket.write(get('/mine'))
    expect(await readAll(socket)).toMatch(/hello$/)
    expect(asked).toEqual([])
  })

  it('whose reader takes nothing is cut, also one that goes on sending', async () => {
    const body = 'x'.repeat(30_000_000)
    const { url, sockets } = await start({ drainDeadlineMs: 100, answer: () => Promise.resolve({ status: 200, headers: [], body }) })
    const socket = (await openSocket(url)).pause()
    socket.write(get('/mine'))
    const sending = setInterval(() => socket.write('x'), 20)
    let received = 0
    await expect.poll(() => sockets[0]?.destroyed).toBe(true)
    clearInterval(sending)
    // Not by `once`: a connection that was cut may end in an error.
    const closed = new Promise((resolve) => socket.on('close', resolve))
    socket.on('data', (chunk: Buffer) => { received += chunk.length }).resume()
    await closed
    expect(received).toBeLessThan(body.length)
  })

  it('on which more is asked than is answered makes its client wait', async () => {
    let resolve: (answer: null) => void = () => undefined
    const { url, sockets } = await start({ answer: () => new Promise((answered) => { resolve = answered }) })
    const socket = await openSocket(url)
    const answers = readAll(socket)
    socket.write(get('/mine/1'))
    await expect.poll(() => sockets[0]?.bytesRead).toBeGreaterThan(0)
    const rest = Array.from({ length: 100_000 }, (_, index) => get(`/yours/${index}`)).join('') + get('/yours/last', 'Connection: close')
    socket.write(rest)
    // Whatever the kernels hold is not ours to bound.
    await expect.poll(() => sockets[0]?.isPaused()).toBe(true)
    expect(sockets[0]?.bytesRead).toBeLessThan(rest.length / 2)
    resolve(null)
    expect((await answers).split('plain').length - 1).toBe(100_002)
  })

  it('whose reader takes nothing does not keep the server from closing', async () => {
    const { url, server, sockets, connections } = await start({ answer: () => Promise.resolve({ status: 200, headers: [], body: 'x'.repeat(30_000_000) }) })
    const socket = (await openSocket(url)).pause()
    socket.write(get('/mine'))
    await expect.poll(() => sockets[0]?.writableNeedDrain).toBe(true)
    const closed = once(server, 'close')
    server.close()
    connections.close()
    expect(sockets[0]?.destroyed).toBe(false)
    connections.destroy()
    await closed
    socket.destroy()
  })

  it('ends with its client, with the server, or in the middle of an answer, and nothing else does', async () => {
    let resolve: (answer: null) => void = () => undefined
    const { url, server, connections } = await start({ answer: () => new Promise((answered) => { resolve = answered }) })
    const left = await openSocket(url)
    left.write(get('/mine'))
    await expect.poll(() => server.listening).toBe(true)
    left.destroy()
    await once(left, 'close')
    resolve(null)
    const [idle, ended] = [await openSocket(url), await openSocket(url)]
    ended.end()
    await once(ended.resume(), 'close')
    const closed = once(server, 'close')
    server.close()
    connections.close()
    await Promise.all([closed, once(idle.resume(), 'close')])
  })
})

describe('a head', () => {
  const socket = null as unknown as Socket
  const read = (text: string) => readHead(Buffer.from(text, 'latin1'), socket)

  it('is read as node:http reads it', () => {
    expect(read(get('/a?b=c', 'If-None-Match:  "x" \t', 'PREFER: wait=1', 'Empty:'))).toEqual({
      url: '/a?b=c', headers: { 'host': 'localhost', 'if-none-match': '"x"', 'prefer': 'wait=1', 'empty': '' }, socket,
    })
  })

  it.each([
    ['half a head', 'GET / HTTP/1.1\r\nHost: x\r\n'], ['more than a head', `${get('/')}G`], ['two', get('/') + get('/')], ['a body', get('/', 'Content-Length: 2') + 'ab'],
    ['an empty body', get('/', 'Content-Length: 0')], ['chunks', get('/', 'Transfer-Encoding: chunked')], ['an upgrade', get('/', 'Upgrade: websocket')],
    ['an expectation', get('/', 'Expect: 100-continue')], ['an end', get('/', 'Connection: close')], ['a header twice', get('/', 'Prefer: wait=1', 'prefer: wait=2')],
    ['a name with a space', get('/', 'Host : x')], ['a folded line', get('/', 'a: b', ' c')], ['a bare line feed', get('/', 'a: b\nc: d')], ['no host', 'GET / HTTP/1.1\r\nA: b\r\n\r\n'],
    ['no header', 'GET / HTTP/1.1\r\n\r\n'], ['another method', get('/').replace('GET', 'POST')], ['another version', get('/').replace('1.1', '1.0')],
    ['a whole address', get('http://localhost/')], ['a fragment', get('/#a')], ['bytes beyond ASCII', get('/', 'a: \u00e9')], ['another end', get('/', 'Proxy-Connection: close')], ['a null byte', get('/', 'a: \0')], ['nothing', ''],
  ])('is not read when it is %s', (_what, text) => {
    expect(read(text)).toBeNull()
  })
})
