/** `deploy/nginx.conf` as it stands, but for addresses, ports, paths and the time that a reload leaves to streams. */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { connect, type ClientHttp2Session, type IncomingHttpHeaders } from 'node:http2'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { describeNodes, describeStreams } from '../support/cached-streams.ts'
import { describeCache, expectNoNode, startCached, type CachedServer } from '../support/cache.ts'
import { adapt } from '../support/daemon.ts'
import { hasNginx, startNginx, type Nginx } from '../support/nginx.ts'
import { Following } from '../support/replica.ts'
import { findExecutable, requireTool } from '../support/tools.ts'
import { freePort } from '../support/ports.ts'

const openssl = findExecutable('openssl')
const hasOpenssl = requireTool('openssl', openssl !== null)

interface Front extends Nginx {
  /** With TLS. */
  readonly secureUrl: string
}

async function startFront(...nodes: readonly string[]): Promise<Front> {
  const securePort = await freePort()
  const config = await readFile(new URL('../../deploy/nginx.conf', import.meta.url), 'utf8')
  const nginx = await startNginx(({ port, directory }) => {
    execFileSync(openssl ?? '', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
      '-subj', '/CN=localhost', '-keyout', join(directory, 'privkey.pem'), '-out', join(directory, 'fullchain.pem')], { stdio: 'pipe' })
    return adapt(config, {
      'server 127.0.0.1:8080 max_fails=0;': nodes.map((node) => `server ${new URL(node).host} max_fails=0;`).join(' '),
      'listen 80;': `listen 127.0.0.1:${port};`,
      'listen 443': `listen 127.0.0.1:${securePort}`,
      '/etc/nginx/tls/fullchain.pem': 'fullchain.pem',
      '/etc/nginx/tls/privkey.pem': 'privkey.pem',
      '/var/cache/nginx/freshet': 'cache',
      'worker_shutdown_timeout 30s': 'worker_shutdown_timeout 1s',
    })
  })
  return { ...nginx, secureUrl: `https://127.0.0.1:${securePort}` }
}

describe.skipIf(!hasNginx || !hasOpenssl)('behind nginx', () => {
  let front: Front
  let cached: CachedServer
  beforeAll(async () => { cached = await startCached(async (node) => front = await startFront(node)) })
  describeCache(() => cached)

  it('a reload ends the streams, and they go on where they were', async () => {
    const following = new Following().start(() => front.url, 'items')
    await expect.poll(() => following.replica.version).not.toBeNull()
    front.reload()
    await expect.poll(() => following.streams, { timeout: 20_000 }).toBe(2)
    await cached.server.database.query(`insert into public.items values (5000, 'after the reload', 'a')`)
    await expect.poll(() => following.values('id'), { timeout: 10_000 }).toContain(5000)
    expect(following.faults).toEqual([])
    expect(following.replica.resets).toBe(1)
    await following.stop()
  })

  describe('over HTTP/2 with TLS', () => {
    it('streams and polls share one connection', async () => {
      const session = connect(front.secureUrl, { rejectUnauthorized: false })
      const streams = Array.from({ length: 20 }, () => read(session, '/v1/channels/items/stream'))
      await Promise.all(streams.map(({ until }) => until('data: {')))
      const { version } = await cached.server.poll('items')
      const polls = Array.from({ length: 20 }, () => read(session, `/v1/channels/items/changes?since=${version}&wait=20`))
      await expect.poll(() => cached.server.server.hub.size.followers).toBe(40)
      await cached.server.database.query(`insert into public.items values (6000, 'multiplexed', 'a')`)
      await Promise.all([...streams, ...polls].map(({ until }) => until('multiplexed')))
      for (const { headers } of [...streams, ...polls]) expect((await headers)[':status']).toBe(200)
      session.destroy()
    })
  })

  describeStreams(() => cached)
})

describe.skipIf(!hasNginx || !hasOpenssl)('behind nginx', () => {
  describeNodes(startFront)
})

describe.skipIf(!hasNginx || !hasOpenssl)('nginx before no node', () => {
  let front: Front
  beforeAll(async () => { front = await startFront(`http://127.0.0.1:${await freePort()}`) })

  it('tells a stream to come back, in the one way that EventSource understands', async () => {
    const stream = await fetch(`${front.url}/v1/channels/items/stream`)
    expect(stream.status).toBe(200)
    expect(stream.headers.get('content-type')).toBe('text/event-stream')
    expect(await stream.text()).toMatch(/^retry: [2-6]000\n\n$/)
  })

  it('tells a poll when to ask again', () => expectNoNode(front.url))
})

interface Reading {
  readonly headers: Promise<IncomingHttpHeaders>
  /** Resolves once what has come contains `text`. */
  readonly until: (text: string) => Promise<void>
}

function read(session: ClientHttp2Session, path: string): Reading {
  const stream = session.request({ ':path': path })
  const headers = once(stream, 'response').then(([first]) => first as IncomingHttpHeaders)
  let received = ''
  stream.setEncoding('utf8').on('data', (chunk: string) => { received += chunk }).on('error', () => undefined)
  return { headers, until: (text) => expect.poll(() => received, { timeout: 10_000 }).toContain(text) }
}
