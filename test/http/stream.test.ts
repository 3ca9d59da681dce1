import { beforeAll, describe, expect, it } from 'vitest'
import { openSocket, parseAnswer, rawRequest } from '../support/raw.ts'
import { startTestServer, type TestServer } from '../support/server.ts'
import { openStream, Replica, type Delta } from '../support/sse.ts'

const SETUP = `
  create table public.items (id int primary key, grp text, n int not null default 0);
  insert into public.items select n, 'g' || n % 2 from generate_series(1, 4) n;
  select freshet.watch('public.items', filters => '{grp}');
  create table public.other (id int primary key);
  select freshet.watch('public.other');`

let server: TestServer
let stream: string
beforeAll(async () => {
  server = await startTestServer({ setup: SETUP, streams: { heartbeatMs: 400 } })
  stream = `${server.url}/v1/channels/items/stream`
})

/** Until every stream that a test opened has gone. */
async function noStreams(): Promise<void> {
  await expect.poll(async () => {
    const streams = /^freshet_streams (\d+)$/m.exec(await (await server.get('/metrics')).text())?.[1]
    return `${streams ?? ''} streams, ${server.server.hub.size.followers} followers`
  }).toBe('0 streams, 0 followers')
}

async function version(): Promise<string> {
  return (await server.poll('items')).version
}

/** Writes, and resolves to the new version. */
async function change(sql: string): Promise<string> {
  const before = await version()
  await server.database.query(sql)
  return (await server.pollUntilChanged('items', before)).version
}

describe('a stream', () => {
  it('has the headers of one, and a reset with the whole state first', async () => {
    const reader = await openStream(stream)
    expect(reader.status).toBe(200)
    expect(reader.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
    expect(reader.headers.get('cache-control')).toMatch(/no-store.*no-transform/)
    expect(reader.headers.get('x-accel-buffering')).toBe('no')
    expect(reader.headers.get('access-control-allow-origin')).toBe('*')
    const first = await reader.until(() => true)
    const delta = JSON.parse(first.data) as Delta
    expect(first).toMatchObject({ event: undefined, id: delta.version })
    expect(delta).toMatchObject({ channel: 'items', since: null, reset: true, more: false })
    expect(delta.changes).toHaveLength(4)
    expect(delta).not.toHaveProperty('poll_after_ms')
    reader.close()
    await noStreams()
  })

  it('says the same, byte for byte, on a socket of its own, behind another answer on its connection, and in HTTP/1.0', async () => {
    const head = await version()
    const behind = `GET /v1/channels/items/changes?since=${head}&wait=1 HTTP/1.1\r\nHost: localhost\r\n\r\n`
    const ask = (httpVersion: string): string => `GET /v1/channels/items/stream?since=x HTTP/${httpVersion}\r\nHost: localhost\r\n\r\n`
    const answers = await Promise.all([ask('1.1'), behind + ask('1.1'), ask('1.0')].map(async (requests) => {
      const socket = await openSocket(server.url)
      let text = ''
      socket.on('data', (chunk: Buffer) => { text += chunk.toString() })
      socket.write(requests)
      // The first heartbeat comes after the state, on all three.
      await expect.poll(() => text).toMatch(/"more":false[^]*\n:\n\n/)
      socket.destroy()
      const { headers, body } = parseAnswer(text.slice(text.lastIndexOf('HTTP/1.')))
      return { type: headers.get('content-type'), events: body.slice(0, body.indexOf('\n:\n\n')).replace(/^retry:\d+/, 'retry') }
    }))
    expect(answers[0]?.events).toContain('"reset":true')
    expect(answers).toEqual(Array(3).fill(answers[0]))
  })

  it('gets a delta for each version, in order, each beginning where the last ended', async () => {
    const seen: Delta[] = []
    const reader = await openStream(stream, {}, (delta) => seen.push(delta))
    await reader.delta(({ reset }) => reset)
    for (let n = 1; n <= 5; n += 1) await change(`update items set n = ${n} where id = 1`)
    await reader.delta(({ changes }) => changes[0]?.row?.['n'] === 5)
    expect(seen.slice(1).map(({ changes }) => changes.map(({ row }) => row?.['n']))).toEqual([[1], [2], [3], [4], [5]])
    for (const [index, { since, reset }] of seen.entries()) {
      expect(reset).toBe(index === 0)
      if (index > 0) expect(since).toBe(seen[index - 1]?.version)
    }
    expect(reader.events.map(({ id }) => id)).toEqual(seen.map((delta) => delta.version))
    reader.close()
  })

  it('that comes back after changes which its filter leaves out stays open, and is told where it is', async () => {
    const before = await version()
    const after = await change('update items set n = n + 1 where id = 1')
    const socket = await openSocket(server.url)
    let text = ''
    socket.on('data', (chunk: Buffer) => { text += chunk.toString() })
    socket.write(`GET /v1/channels/items/stream?grp=g0&since=${before} HTTP/1.1\r\nHost: x\r\n\r\n`)
    await expect.poll(() => text).toMatch(new RegExp(`id: ?${after}\n`))
    await change('update items set n = n + 1 where id = 2')
    // Its next delta begins there, on the same connection.
    await expect.poll(() => text).toContain(`"since":"${after}"`)
    expect(text).not.toContain('\r\n0\r\n')
    expect(text).not.toContain('"reset":true')
    socket.destroy()
  })

  it('says something at once, even while the state cannot be read', async () => {
    const client = await server.database.connect()
    await client.query('begin; lock table other in access exclusive mode')
    const socket = await openSocket(server.url)
    const first = new Promise<string>((resolve) => socket.once('data', (chunk: Buffer) => resolve(chunk.toString())))
    socket.write('GET /v1/channels/other/stream HTTP/1.1\r\nHost: x\r\n\r\n')
    expect(await first).toMatch(/^HTTP\/1\.1 200 OK[^]*retry:\d+/)
    await client.query('rollback')
    socket.destroy()
  })

  it('speaks HTTP/1.0 without chunks, as nginx asks by default', async () => {
    const socket = await openSocket(server.url)
    let text = ''
    socket.on('data', (chunk: Buffer) => { text += chunk.toString() })
    socket.write('GET /v1/channels/items/stream HTTP/1.0\r\n\r\n')
    await expect.poll(() => text).toContain('"reset":true')
    const { headers, body } = parseAnswer(text)
    expect(headers.has('transfer-encoding')).toBe(false)
    expect(headers.get('connection')).toBe('close')
    expect(body).toMatch(/^retry:\d+\n\n/)
    await change('update items set n = 77 where id = 1')
    await expect.poll(() => text).toContain('"n":77')
    socket.destroy()
  })

  it('answers HEAD with its headers and an end', async () => {
    for (const path of ['/v1/channels/items/stream', '/v1/stream?channels=items']) {
      const { status, headers, body } = await rawRequest(server.url, [`HEAD ${path} HTTP/1.1`, 'Host: x', 'Connection: close'])
      expect(status).toBe(200)
      expect(headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
      expect(body).toBe('')
    }
    await noStreams()
  })

  it('gets a reset when the table is emptied, and goes on', async () => {
    const reader = await openStream(stream)
    await reader.delta(({ reset }) => reset)
    await server.database.query('truncate items')
    await reader.delta(({ reset, changes }) => reset && changes.length === 0)
    await server.database.query(`insert into items values (1, 'g1'), (2, 'g0')`)
    await reader.delta(({ reset, changes }) => !reset && changes.length === 2)
    reader.close()
  })

  it('of more than a thousand rows comes in parts, with the id on the last', async () => {
    await change(`insert into items select n, 'bulk' from generate_series(1001, 3500) n`)
    const reader = await openStream(stream)
    await reader.until(({ id }) => id !== undefined)
    const parts = reader.events.map(({ data }) => JSON.parse(data) as Delta)
    expect(parts.reduce((sum, { changes }) => sum + changes.length, 0)).toBe(2_502)
    expect(Math.max(...parts.map(({ changes }) => changes.length))).toBeLessThanOrEqual(1_000)
    expect(parts.length).toBeGreaterThan(2)
    expect(parts.map(({ more }) => more)).toEqual(parts.map((_, index) => index < parts.length - 1))
    expect(reader.events.map(({ id }) => id)).toEqual(parts.map(({ more, version }) => more ? undefined : version))
    expect(new Set(parts.map((part) => `${part.version} ${String(part.since)} ${String(part.reset)}`)).size).toBe(1)
    await server.database.query(`delete from items where grp = 'bulk'`)
    await reader.delta(({ reset, more, changes }) => !reset && !more && changes.length === 500)
    reader.close()
  })
})

describe('a filtered stream', () => {
  it('gets what enters as upserts, what leaves as deletes, and nothing else', async () => {
    const seen: Delta[] = []
    const reader = await openStream(`${stream}?grp=mine`, {}, (delta) => seen.push(delta))
    await reader.delta(({ reset }) => reset)
    await change(`insert into items values (50, 'other')`)
    await change(`update items set grp = 'mine' where id = 50`)
    await change(`update items set grp = 'other' where id = 50`)
    await change(`delete from items where id = 50`)
    await change(`insert into items values (51, 'mine')`)
    await reader.delta(({ changes }) => changes[0]?.key['id'] === 51)
    expect(seen.slice(1).map(({ changes }) => changes.map(({ op, key }) => [op, key['id']]))).toEqual([
      [['upsert', 50]], [['delete', 50]], [['upsert', 51]],
    ])
    reader.close()
  })

  it('that nothing concerns is given a newer id with a heartbeat, so that its cursor does not grow old', async () => {
    const socket = await openSocket(server.url)
    let text = ''
    socket.on('data', (chunk: Buffer) => { text += chunk.toString() })
    socket.write('GET /v1/channels/items/stream?grp=nobody HTTP/1.0\r\n\r\n')
    await expect.poll(() => text).toContain('"reset":true')
    const newest = await change(`update items set n = n + 1 where id = 1`)
    await expect.poll(() => text).toMatch(new RegExp(`\\n:\\s*\\nid: ?${newest.replace('.', '\\.')}\\n\\n`))
    expect(text.match(/^data:/gm)).toHaveLength(1)
    socket.destroy()
  })

  it('that resumed behind changes it was not concerned by is given the newer id too', async () => {
    const old = await version()
    const newest = await change(`update items set n = n + 1 where id = 1`)
    const socket = await openSocket(server.url)
    let text = ''
    socket.on('data', (chunk: Buffer) => { text += chunk.toString() })
    socket.write(`GET /v1/channels/items/stream?grp=nobody&since=${old} HTTP/1.0\r\n\r\n`)
    await expect.poll(() => text).toMatch(new RegExp(`id: ?${newest.replace('.', '\\.')}\\n\\n`))
    expect(text).not.toContain('data:')
    socket.destroy()
  })
})

describe('heartbeats', () => {
  it('are comments, so that proxies see a living stream and clients nothing', async () => {
    const socket = await openSocket(server.url)
    let text = ''
    socket.on('data', (chunk: Buffer) => { text += chunk.toString() })
    socket.write('GET /v1/channels/other/stream HTTP/1.0\r\n\r\n')
    await expect.poll(() => text.match(/^:\s*$/gm)?.length ?? 0).toBeGreaterThanOrEqual(2)
    socket.destroy()
  })
})

describe('a change of the channel', () => {
  it('to other columns is a reset with the new columns, live', async () => {
    await server.database.query(`create table wide (id int primary key, a int, b int); insert into wide values (1, 2, 3);
      select freshet.watch('public.wide', columns => '{a}')`)
    await expect.poll(async () => (await server.get('/v1/channels/wide')).status).toBe(200)
    const replica = new Replica()
    const reader = await openStream(`${server.url}/v1/channels/wide/stream`, {}, (delta) => replica.apply(delta))
    await reader.delta(({ changes }) => 'a' in (changes[0]?.row ?? {}))
    await server.database.query(`select freshet.watch('public.wide', columns => '{b}')`)
    await reader.delta(({ reset, changes }) => reset && 'b' in (changes[0]?.row ?? {}))
    expect([...replica.rows.values()]).toEqual([{ id: 1, b: 3 }])
    await server.database.query('update wide set b = 4')
    await reader.delta(({ changes }) => changes[0]?.row?.['b'] === 4)
    reader.close()
  })

  it('to none, by unwatch, ends the stream; afterwards it is 404', async () => {
    const reader = await openStream(`${server.url}/v1/channels/wide/stream`)
    await reader.delta(({ reset }) => reset)
    await server.database.query(`select freshet.unwatch('wide')`)
    await reader.ended
    const response = await server.get('/v1/channels/wide/stream')
    expect(response.status).toBe(404)
    expect(await response.json()).toMatchObject({ code: 'unknown_channel' })
    expect((await server.get('/v1/channels/wide/changes')).status).toBe(404)
  })

  it('that drops its filter ends the streams that use it; afterwards they are 400', async () => {
    await server.database.query(`create table shelf (id int primary key, grp text); select freshet.watch('public.shelf', filters => '{grp}')`)
    await expect.poll(async () => (await server.get('/v1/channels/shelf')).status).toBe(200)
    const reader = await openStream(`${server.url}/v1/channels/shelf/stream?grp=a`)
    await reader.delta(({ reset }) => reset)
    await server.database.query(`select freshet.watch('public.shelf')`)
    await reader.ended
    expect((await server.get('/v1/channels/shelf/stream?grp=a')).status).toBe(400)
  })
})

describe('a client that leaves', () => {
  it.each([0, 1, 3, 10, 30])('%i ms after asking, leaves no stream behind', async (afterMs) => {
    await Promise.all(Array.from({ length: 25 }, async (_, index) => {
      const socket = await openSocket(server.url)
      socket.write(`GET /v1/channels/items/stream?grp=g${index % 3} HTTP/1.1\r\nHost: x\r\n\r\n`)
      // The moment itself is what is tested.
      await new Promise((resolve) => setTimeout(resolve, afterMs))
      if (index % 2 === 0) socket.resetAndDestroy()
      else socket.destroy()
    }))
    await noStreams()
  })

  it('in the middle of a large state leaves nothing behind', async () => {
    await server.database.query(`create table large (id int primary key, filler text); insert into large select n, repeat('x', 1000) from generate_series(1, 20000) n;
      select freshet.watch('public.large')`)
    await expect.poll(async () => (await server.get('/v1/channels/large')).status).toBe(200)
    for (let round = 0; round < 6; round += 1) {
      const socket = await openSocket(server.url)
      socket.write('GET /v1/channels/large/stream HTTP/1.1\r\nHost: x\r\n\r\n')
      await new Promise((resolve) => socket.once('data', resolve))
      socket.destroy()
    }
    await noStreams()
    const reader = await openStream(`${server.url}/v1/channels/large/stream`)
    await reader.delta(({ more }) => !more)
    reader.close()
  })
})
