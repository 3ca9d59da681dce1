/** Streams whose clients are gone, however they went: nothing may be left of them at the server. */
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { openSocket } from '../support/raw.ts'
import { startTestServer, type TestServer } from '../support/server.ts'

const ONE = '/v1/channels/items/stream'
const FILTERED = '/v1/channels/items/stream?grp=g1'
const MANY = '/v1/stream?channels=items,other'

let server: TestServer
beforeAll(async () => {
  server = await startTestServer({ setup: `
    create table public.items (id int primary key, grp text, n int not null default 0);
    insert into public.items select n, 'g' || n % 2 from generate_series(1, 4) n;
    select freshet.watch('public.items', filters => '{grp}');
    create table public.other (id int primary key, filler text);
    insert into public.other select n, repeat('x', 1000) from generate_series(1, 30000) n;
    select freshet.watch('public.other');` })
})

function get(path: string, version = '1.1'): string {
  return `GET ${path} HTTP/${version}\r\nHost: localhost\r\n\r\n`
}

/** What the server keeps for streams and for polls that are held. */
async function kept(): Promise<string> {
  const metrics = await (await server.get('/metrics')).text()
  const value = (name: string): string => new RegExp(`^${name} (\\d+)$`, 'm').exec(metrics)?.[1] ?? '?'
  return `${value('freshet_streams')} streams, ${server.server.hub.size.followers} followers, ${value('freshet_stream_backlog_bytes')} bytes`
}

/** A connection on which `requests` were sent, once the first bytes of an answer have come. */
async function opened(requests: string): Promise<Socket> {
  const socket = await openSocket(server.url)
  socket.write(requests)
  await once(socket, 'data')
  return socket.resume()
}

/** The requests on the connection have reached the application when one behind them on another connection was answered. */
async function heard(): Promise<void> {
  for (let round = 0; round < 3; round += 1) await (await server.get('/healthz')).text()
}

describe('of a stream whose client has gone nothing is left', () => {
  afterEach(async () => { await expect.poll(kept).toBe('0 streams, 0 followers, 0 bytes') })

  for (const path of [ONE, FILTERED, MANY]) {
    it(`asked many times on one connection (${path})`, async () => {
      const socket = await opened(get(path).repeat(30))
      await heard()
      // Those behind the first wait for their turn, which never comes: they have no place yet.
      expect(await kept()).toMatch(/^1 streams, /)
      socket.destroy()
    })

    it(`behind a poll that is held (${path})`, async () => {
      const { version } = await server.poll('items')
      const socket = await openSocket(server.url)
      socket.write(get(`/v1/channels/items/changes?since=${version}&wait=20`) + get(path).repeat(10))
      await expect.poll(() => server.server.hub.size.followers).toBe(1)
      await heard()
      expect(await kept()).toMatch(/^0 streams, /)
      socket.destroy()
    })

    it(`half closed by its client (${path})`, async () => {
      const socket = await opened(get(path))
      socket.end()
      await once(socket, 'close')
    })

    it(`gone before its head (${path})`, async () => {
      for (let round = 0; round < 20; round += 1) {
        const socket = await openSocket(server.url)
        socket.write(get(path, round % 2 === 0 ? '1.1' : '1.0'), () => { socket.destroy() })
        await once(socket, 'close')
      }
      await heard()
    })

    it(`gone after its head, as HTTP/1.1 and 1.0 (${path})`, async () => {
      for (const version of ['1.1', '1.0']) {
        const socket = await opened(get(path, version))
        socket.resetAndDestroy()
      }
      await heard()
    })
  }

  it('while its state waits for a lock', async () => {
    const client = await server.database.connect()
    await client.query('begin; lock table items in access exclusive mode')
    const sockets = await Promise.all([ONE, FILTERED, MANY].map((path) => opened(get(path))))
    expect(await kept()).toMatch(/^3 streams, /)
    for (const socket of sockets) socket.destroy()
    await expect.poll(kept).toMatch(/^0 streams, /)
    await client.query('rollback')
  })

  it('in the middle of a large state, which it does not read', async () => {
    const sockets = await Promise.all(['/v1/channels/other/stream', MANY].map(async (path) => (await opened(get(path))).pause()))
    await expect.poll(kept).not.toMatch(/, 0 bytes$/)
    for (const socket of sockets) socket.destroy()
  })

  it('and those behind a poll get their turn when it is answered', async () => {
    const { version } = await server.poll('items')
    const socket = await openSocket(server.url)
    let text = ''
    socket.on('data', (chunk: Buffer) => { text += chunk.toString() })
    socket.write(get(`/v1/channels/items/changes?since=${version}&wait=20`) + get(ONE))
    await expect.poll(() => server.server.hub.size.followers).toBe(1)
    await server.database.query('update items set n = n + 1 where id = 1')
    await expect.poll(() => text).toMatch(/"poll_reason":[^]*text\/event-stream[^]*"reset":true/)
    await server.database.query('update items set n = 777 where id = 1')
    await expect.poll(() => text).toContain('"n":777')
    socket.destroy()
  })

  it('of polls that were held behind one another on one connection neither', async () => {
    const { version } = await server.poll('items')
    const socket = await openSocket(server.url)
    socket.write(get(`/v1/channels/items/changes?since=${version}&wait=20`).repeat(5))
    await expect.poll(() => server.server.hub.size.followers).toBe(5)
    socket.destroy()
  })
})
