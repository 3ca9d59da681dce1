/** Slow readers, full servers, drains: what happens when a stream cannot simply go on. */
import type { Socket } from 'node:net'
import { beforeAll, describe, expect, it } from 'vitest'
import { openSocket, rawGet } from '../support/raw.ts'
import { startTestServer, type TestServer } from '../support/server.ts'
import { openStream, Replica, type Delta } from '../support/sse.ts'
import { createParser } from 'eventsource-parser'

const SETUP = `
  create table public.items (id int primary key, n int not null default 0, filler text);
  insert into public.items (id, filler) select n, repeat('x', 200) from generate_series(1, 50) n;
  select freshet.watch('public.items');`
const STREAM = '/v1/channels/items/stream'

async function metric(server: TestServer, name: string): Promise<number> {
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(await (await server.get('/metrics')).text())?.[1])
}

describe('a full server', () => {
  let server: TestServer
  beforeAll(async () => { server = await startTestServer({ setup: SETUP, environment: { MAX_STREAMS: '5', MAX_STREAMS_PER_IP: '3', TRUST_PROXY: '1' } }) })

  /** Sixteen at once from as many addresses: how many stay, and what the others are told. */
  it('ends what is too much as a 200 with retry, also when all come at once', async () => {
    const readers = await Promise.all(Array.from({ length: 16 }, (_, index) => openStream(server.url + STREAM, { 'X-Forwarded-For': `10.0.0.${index}` })))
    expect(readers.map(({ status }) => status)).toEqual(Array(16).fill(200))
    const isRefused = await Promise.all(readers.map((reader) => Promise.race([reader.ended.then(() => true), reader.delta(() => true).then(() => false, () => true)])))
    expect(isRefused.filter((refused) => !refused)).toHaveLength(5)
    expect(await metric(server, 'freshet_streams')).toBe(5)
    const refused = await rawGet(server.url, STREAM)
    expect(refused.status).toBe(200)
    expect(Number(/retry:(\d+)\n\n$/.exec(refused.body)?.[1])).toBeGreaterThanOrEqual(5_000)
    for (const reader of readers) reader.close()
    await expect.poll(() => metric(server, 'freshet_streams')).toBe(0)
  })

  it('counts by the address of the client, and gives the place back', async () => {
    const open = (address: string): ReturnType<typeof openStream> => openStream(server.url + STREAM, { 'X-Forwarded-For': address })
    const three = await Promise.all([1, 2, 3].map(() => open('10.1.1.1')))
    await Promise.all(three.map((reader) => reader.delta(() => true)))
    await (await open('10.1.1.1')).ended
    const other = await open('10.1.1.2')
    await other.delta(() => true)
    three[0]?.close()
    await expect.poll(() => metric(server, 'freshet_streams')).toBe(3)
    const again = await open('10.1.1.1')
    await again.delta(() => true)
    for (const reader of [...three, other, again]) reader.close()
  })

  it('that limits requests refuses polls with 429, and streams as EventSource understands it', async () => {
    const limited = await startTestServer({ setup: SETUP, environment: { RATE_LIMIT: '5' } })
    const answers = await Promise.all(Array.from({ length: 12 }, () => limited.get('/v1/channels/items/changes')))
    const refused = answers.filter(({ status }) => status === 429)
    expect(refused.length).toBeGreaterThanOrEqual(5)
    expect(await refused[0]?.json()).toMatchObject({ code: 'rate_limited' })
    const streams = await Promise.all(Array.from({ length: 12 }, () => openStream(limited.url + STREAM)))
    expect(streams.map(({ status }) => status)).toEqual(Array(12).fill(200))
    for (const reader of streams) reader.close()
    expect((await limited.get('/healthz')).status).toBe(200)
  })
})

describe('a server that stops', () => {
  it('refuses polls and readiness at once, answers held polls, and ends each stream with retry within the window', async () => {
    const server = await startTestServer({ setup: SETUP, environment: { DRAIN_SECONDS: '1' } })
    const { version } = await server.poll('items')
    const sockets = await Promise.all(Array.from({ length: 10 }, async () => {
      const socket = await openSocket(server.url)
      let text = ''
      socket.on('data', (chunk: Buffer) => { text += chunk.toString() })
      const ended = new Promise<string>((resolve) => socket.on('close', () => resolve(text)))
      socket.write(`GET ${STREAM} HTTP/1.1\r\nHost: x\r\n\r\n`)
      await expect.poll(() => text).toContain('"reset":true')
      return { ended }
    }))
    const heldPoll = server.poll('items', `?since=${version}&wait=20`)
    await expect.poll(() => server.server.hub.size.followers).toBe(11)
    const startedMs = performance.now()
    const closed = server.close()
    const ready = await server.get('/readyz')
    expect(ready.status).toBe(503)
    expect(await ready.json()).toMatchObject({ status: 'draining' })
    const refused = await server.get('/v1/channels/items/changes')
    expect(refused.status).toBe(503)
    expect(await refused.json()).toMatchObject({ code: 'draining' })
    expect(await heldPoll).toMatchObject({ since: version, version, changes: [] })
    const late = await openStream(server.url + STREAM)
    expect(late.status).toBe(200)
    await late.ended
    const texts = await Promise.all(sockets.map(({ ended }) => ended))
    for (const text of texts) expect(text).toMatch(/retry:\d+\n\n\r\n0\r\n\r\n$/)
    await closed
    // Two by design, and twenty if the held poll were waited for; the rest is for a busy machine.
    expect(performance.now() - startedMs).toBeLessThan(10_000)
  })

  it('ends old streams with retry, so that clients spread over the nodes again', async () => {
    const server = await startTestServer({ setup: SETUP, streams: { maxAgeMs: 700 } })
    const answer = await rawGet(server.url, STREAM)
    expect(answer.status).toBe(200)
    expect(answer.body).toMatch(/^retry:\d+\n\n[^]*"reset":true[^]*retry:\d+\n\n$/)
  })
})

describe('a slow reader', () => {
  let server: TestServer
  beforeAll(async () => { server = await startTestServer({ setup: SETUP, streams: { drainDeadlineMs: 1_500 } }) })

  /** A stream that is read only when it is told to. */
  async function openPaused(path = STREAM): Promise<Socket> {
    const socket = await openSocket(server.url)
    socket.pause()
    socket.write(`GET ${path} HTTP/1.0\r\n\r\n`)
    return socket
  }

  it('costs a number, not a queue, while 200,000 changes pass, and then holds what SELECT returns', async () => {
    const patient = await startTestServer({ database: server.database })
    const socket = await openSocket(patient.url)
    const replica = new Replica()
    let events = 0
    const parser = createParser({ onEvent: ({ data, event }) => {
      if (event !== undefined) return
      events += 1
      replica.apply(JSON.parse(data) as Delta)
    } })
    socket.on('data', (chunk: Buffer) => parser.feed(chunk.toString()))
    socket.write(`GET ${STREAM} HTTP/1.0\r\n\r\n`)
    await expect.poll(() => replica.rows.size).toBe(50)
    socket.pause()
    // Some 60 MB if every version were kept for the reader.
    await server.database.query(`insert into items (id, filler) select n, repeat('x', 200) from generate_series(51, 1000) n`)
    for (let round = 0; round < 200; round += 1) await server.database.query(`update items set n = n + 1`)
    const { version } = await patient.poll('items')
    await expect.poll(() => metric(patient, 'freshet_streams_conflated_total')).toBeGreaterThan(0)
    expect(await metric(patient, 'freshet_stream_backlog_bytes')).toBeLessThan(4e6)
    const before = events
    socket.resume()
    await expect.poll(() => replica.version).toBe(version)
    expect([...replica.rows.values()].map(({ n }) => n)).toEqual(Array(1_000).fill(200))
    expect(events - before).toBeLessThan(150)
    expect(replica.resets).toBe(1)
    socket.destroy()
    await patient.close()
  })

  it('that takes nothing at all is cut after the deadline; one that takes a little is not', async () => {
    await server.database.query(`create table bulk (id int primary key, filler text); insert into bulk select n, repeat('y', 1000) from generate_series(1, 30000) n;
      select freshet.watch('public.bulk')`)
    await expect.poll(async () => (await server.get('/v1/channels/bulk')).status).toBe(200)
    const dead = await openPaused('/v1/channels/bulk/stream')
    const deadPoll = await openPaused('/v1/channels/bulk/changes')
    // Listened for from the beginning: who writes to a connection that was cut learns of its end though he does not read.
    const closed = Promise.all([dead, deadPoll].map((socket) => new Promise((resolve) => socket.once('close', resolve))))
    const slow = await openPaused('/v1/channels/bulk/stream')
    let received = 0
    // A sip is 64 KB, and the kernel reports room only when a third of its buffer (some megabytes here) is free:
    // sips must add up to that well within the deadline.
    const sipping = setInterval(() => { received += (slow.read() as Buffer | null)?.length ?? 0 }, 10)
    await expect.poll(() => metric(server, 'freshet_streams')).toBe(2)
    // What a client sends says nothing of what it takes.
    const sending = setInterval(() => dead.write('x'), 50)
    await expect.poll(() => metric(server, 'freshet_streams')).toBe(1)
    clearInterval(sending)
    // Several deadlines later it is still there, and has much to read.
    const before = received
    await expect.poll(() => received, { timeout: 20_000 }).toBeGreaterThan(before + 2e6)
    expect(await metric(server, 'freshet_streams')).toBe(1)
    clearInterval(sipping)
    dead.resume()
    deadPoll.resume()
    await closed
    slow.destroy()
    await expect.poll(() => metric(server, 'freshet_streams')).toBe(0)
  })
})
