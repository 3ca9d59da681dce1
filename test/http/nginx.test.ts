/** nginx in front with nothing but `proxy_pass`: HTTP/1.0 to the server, buffering on, sixty seconds of patience. */
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { aroundServer, hasNginx, startNginx, type Nginx } from '../support/nginx.ts'
import { openSocket } from '../support/raw.ts'
import { Following } from '../support/replica.ts'
import { startTestServer, type TestServer } from '../support/server.ts'
import { openStream } from '../support/sse.ts'
import { expectTruth } from '../support/writer.ts'

const STREAM = '/v1/channels/t/stream'
const CHANGES = '/v1/channels/t/changes'

describe.skipIf(!hasNginx)('behind nginx with its defaults', () => {
  let server: TestServer
  let id = 0

  beforeAll(async () => {
    server = await startTestServer({
      setup: `create table t (id int primary key, v int not null); insert into t values (1, 0), (2, 0); select freshet.watch('t')`,
      streams: { heartbeatMs: 500 },
    })
  })

  function startProxy(more = ''): Promise<Nginx> {
    return startNginx(aroundServer(`${more} location / { proxy_pass ${server.url}; }`))
  }

  async function write(): Promise<number> {
    id += 1
    await server.database.query('update t set v = $1 where id = 1', [id])
    return id
  }

  it('a stream is live: each change comes at once and heartbeats come, though responses are buffered', async () => {
    const nginx = await startProxy()
    const socket = await openSocket(nginx.url)
    onTestFinished(() => { socket.destroy() })
    let text = ''
    socket.on('data', (chunk: Buffer) => { text += chunk.toString() })
    socket.write(`GET ${STREAM} HTTP/1.1\r\nHost: localhost\r\n\r\n`)
    await expect.poll(() => text).toContain('"reset":true')
    for (let round = 0; round < 3; round += 1) {
      const value = await write()
      await expect.poll(() => text).toContain(`{"id":1,"v":${value}}`)
    }
    text = ''
    await expect.poll(() => text.match(/^:/gm)?.length, { timeout: 10_000 }).toBeGreaterThan(1)
  })

  it('Resumable: a stream goes on from its Last-Event-ID, also when nginx reads its configuration anew or is started again', { timeout: 60_000 }, async () => {
    let nginx = await startProxy()
    const following = new Following().start(() => nginx.url, 't')
    onTestFinished(() => following.stop())
    await expect.poll(() => following.replica.version).not.toBeNull()
    nginx.reload()
    // The old worker keeps what it has; whoever comes now is served by a new one.
    await write()
    await expectTruth(server.database, [following])
    const fresh = await openStream(nginx.url + STREAM)
    await fresh.delta(({ reset }) => reset)
    fresh.close()
    const before = nginx
    nginx = await startProxy()
    await before.stop()
    await write()
    await expectTruth(server.database, [following])
    expect([following.replica.resets, following.streams]).toEqual([1, 2])
  })

  it('304 is the truth: through gzip too, where the ETag stays a weak one and the body the same', async () => {
    const nginx = await startProxy('gzip on; gzip_types application/json; gzip_proxied any; gzip_min_length 1;')
    const { version } = await server.poll('t')
    const plain = await server.get(`${CHANGES}?since=zzzz.12`)
    const zipped = await fetch(`${nginx.url}${CHANGES}?since=zzzz.12`, { headers: { 'Accept-Encoding': 'gzip' } })
    expect([zipped.status, zipped.headers.get('content-encoding'), zipped.headers.get('etag')]).toEqual([200, 'gzip', `W/"${version}"`])
    expect(await zipped.json()).toMatchObject({ version, changes: (await plain.json() as { changes: unknown }).changes })
    const same = await fetch(nginx.url + CHANGES, { headers: { 'Accept-Encoding': 'gzip', 'If-None-Match': `W/"${version}"` } })
    expect([same.status, await same.text()]).toEqual([304, ''])
    expect(Number(same.headers.get('poll-after-ms'))).toBeGreaterThanOrEqual(1_000)
    await write()
    await expect.poll(async () => (await fetch(nginx.url + CHANGES, { headers: { 'Accept-Encoding': 'gzip', 'If-None-Match': `W/"${version}"` } })).status).toBe(200)
  })

  it('a held poll is held, and answered by the change', async () => {
    const nginx = await startProxy()
    const { version } = await server.poll('t')
    const held = fetch(`${nginx.url}${CHANGES}?since=${version}&wait=20`)
    await expect.poll(() => server.server.hub.size.followers).toBe(1)
    const value = await write()
    expect(await (await held).json()).toMatchObject({ since: version, changes: [{ row: { id: 1, v: value } }] })
  })
})
