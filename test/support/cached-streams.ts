/** What whatever stands in front of a server owes to streams. Called once by the test file of each. */
import { EventSource } from 'eventsource'
import { describe, expect, it } from 'vitest'
import type { CachedServer } from './cache.ts'
import { Poller } from './poller.ts'
import { Following } from './replica.ts'
import { startTestServer } from './server.ts'
import { openStream, Replica, type Delta } from './sse.ts'

const STREAM = '/v1/channels/items/stream'

/** `cached` is asked for while the tests run. Afterwards another server is behind the cache. */
export function describeStreams(cached: () => CachedServer): void {
  const add = (id: number): Promise<unknown> => cached().server.database.query(`insert into public.items values ($1, 'streamed', 'a')`, [id])
  const has = (id: number) => ({ changes }: Delta): boolean => changes.some(({ key }) => key['id'] === id)

  describe('a stream', () => {
    it('is live, and resumes by Last-Event-ID', async () => {
      const first = await openStream(cached().url + STREAM)
      expect(first.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
      expect(await first.delta(() => true)).toMatchObject({ reset: true })
      await add(7_000)
      const { version } = await first.delta(has(7_000))
      first.close()
      await add(7_001)
      const second = await openStream(cached().url + STREAM, { 'Last-Event-ID': version })
      expect(await second.delta(() => true)).toMatchObject({ since: version, reset: false, changes: [{ key: { id: 7_001 } }] })
      second.close()
    })

    it('brings its heartbeats one by one', async () => {
      const abort = new AbortController()
      const { body } = await fetch(cached().url + STREAM, { signal: abort.signal })
      const decoder = new TextDecoder()
      let beats = 0
      for await (const chunk of body ?? []) {
        if (/^:/m.test(decoder.decode(chunk as Uint8Array, { stream: true }))) beats += 1
        if (beats === 3) break
      }
      expect(beats).toBe(3)
    })

    it('that a client leaves is over at the server', async () => {
      const streams = await Promise.all(Array.from({ length: 20 }, () => openStream(cached().url + STREAM)))
      await Promise.all(streams.map((stream) => stream.delta(() => true)))
      const { hub } = cached().server.server
      expect(hub.size.followers).toBeGreaterThanOrEqual(20)
      for (const stream of streams) stream.close()
      await expect.poll(() => hub.size.followers, { timeout: 30_000 }).toBe(0)
    })

    it('outlives the only node', async () => {
      const { server, url } = cached()
      const replica = new Replica()
      const source = new EventSource(url + STREAM)
      source.onmessage = ({ data }) => { replica.apply(JSON.parse(String(data)) as Delta) }
      await expect.poll(() => replica.version, { timeout: 30_000 }).not.toBeNull()
      await server.close()
      await add(7_002)
      await expect.poll(() => source.readyState).toBe(source.CONNECTING)
      await startTestServer({ database: server.database, environment: { PORT: new URL(server.url).port, TRUST_PROXY: '1' } })
      // Whoever comes back before the node has read its database is told to come again, up to fifteen seconds later.
      await expect.poll(() => replica.rows.has('{"id":7002}'), { timeout: 40_000 }).toBe(true)
      expect(replica.resets).toBe(1)
      source.close()
    }, 60_000)
  })
}

/** `start` puts whatever it is in front of the nodes at the given addresses. */
export function describeNodes(start: (...nodes: readonly string[]) => Promise<{ readonly url: string }>): void {
  it('two nodes, of which one shuts down, are one to those who poll and stream', async () => {
    const environment = { TRUST_PROXY: '1', DRAIN_SECONDS: '1' }
    const leaving = await startTestServer({ setup: `create table public.items (id int primary key); select freshet.watch('public.items')`, environment })
    const staying = await startTestServer({ database: leaving.database, environment })
    const { url } = await start(leaving.url, staying.url)
    const followings = Array.from({ length: 8 }, () => new Following().start(() => url, 'items'))
    await expect.poll(() => followings.every(({ replica }) => replica.version !== null), { timeout: 30_000 }).toBe(true)
    expect(leaving.server.hub.size.followers).toBeGreaterThan(0)

    const gone = leaving.server.close().then(() => true)
    const poller = new Poller(`${url}/v1/channels/items/changes`)
    let polls = 0
    do {
      await poller.poll()
      polls += 1
    } while (!await Promise.race([gone, immediately()]) || polls < 100)
    expect(poller.faults).toEqual([])
    poller.close()

    await leaving.database.query('insert into public.items values (1)')
    for (const following of followings) {
      await expect.poll(() => following.values('id'), { timeout: 30_000 }).toEqual([1])
      expect(following.faults).toEqual([])
      expect(following.replica.resets).toBe(1)
      await following.stop()
    }
  })
}

function immediately(): Promise<boolean> {
  return new Promise((resolve) => setImmediate(() => resolve(false)))
}
