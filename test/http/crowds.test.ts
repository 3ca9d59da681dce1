/** Many clients at once that behave badly, or meet a server that has no room, no database or no time: nobody is lost, nobody pays for others. */
import type { Socket } from 'node:net'
import { EventSource } from 'eventsource'
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { serve } from '../support/place.ts'
import { freePort } from '../support/ports.ts'
import { startProxy } from '../support/proxy.ts'
import { openSocket } from '../support/raw.ts'
import { Following } from '../support/replica.ts'
import type { TestServer } from '../support/server.ts'
import { openStream, Replica, type Delta } from '../support/sse.ts'
import { expectTruth, rowsOfT } from '../support/writer.ts'

const followings: Following[] = []

afterEach(async () => {
  await Promise.all(followings.splice(0).map((following) => following.stop()))
})

async function createWatched(sql = ''): Promise<TestDatabase> {
  const database = await createDatabase()
  onTestFinished(() => database.drop())
  await database.query(`create table t (id int primary key, v int not null); select freshet.watch('t', filters => '{v}'); ${sql}`)
  return database
}

async function metric(server: TestServer, name: string): Promise<number> {
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(await (await server.get('/metrics')).text())?.[1])
}

describe.skipIf(!hasPostgres)('a crowd that never reads', () => {
  const DEAD = 60

  it('Bounded: costs a bounded backlog each, nothing to those who read, and is cut after the deadline', { timeout: 60_000 }, async () => {
    const database = await createWatched(`create table bulk (id int primary key, filler text);
      insert into bulk select n, repeat('x', 1000) from generate_series(1, 8000) n; select freshet.watch('bulk')`)
    const server = await serve(database, { streams: { drainDeadlineMs: 5_000 } })
    followings.push(...[1, 2, 3].map(() => new Following().start(() => server.url, 't')))
    const dead: Socket[] = []
    onTestFinished(() => { for (const socket of dead) socket.destroy() })
    for (let n = 0; n < DEAD; n += 1) {
      const socket = await openSocket(server.url)
      socket.pause()
      socket.write('GET /v1/channels/bulk/stream HTTP/1.1\r\nHost: localhost\r\n\r\n')
      dead.push(socket)
    }
    await expect.poll(() => metric(server, 'freshet_streams')).toBe(DEAD + 3)
    // Changes to what they do not read go on, and so do those of the others.
    let backlog = 0
    for (let id = 1; id <= 50; id += 1) {
      await database.query(`update bulk set filler = filler || 'y' where id <= 200`)
      await database.query('insert into t values ($1, 0)', [id])
      if (id % 10 === 0) backlog = Math.max(backlog, await metric(server, 'freshet_stream_backlog_bytes'))
    }
    await expectTruth(database, followings)
    expect(backlog).toBeGreaterThan(0)
    // A part of an answer is at most about a megabyte; the rest of it has not been read from the database yet.
    expect(backlog / DEAD).toBeLessThan(1.5e6)
    await expect.poll(() => metric(server, 'freshet_streams'), { timeout: 30_000 }).toBe(3)
    expect(await metric(server, 'freshet_stream_backlog_bytes')).toBe(0)
    expect(followings.map(({ streams, replica }) => [streams, replica.resets])).toEqual(Array(3).fill([1, 1]))
  })
})

describe.skipIf(!hasPostgres)('an EventSource', () => {
  it('is lost for ever by nothing that a server does: no room, no database, a drain, a restart', { timeout: 90_000 }, async () => {
    const database = await createWatched()
    await database.query('insert into t values (1, 7)')
    const proxy = await startProxy(database.url)
    const PORT = String(await freePort())
    const first = await serve(database, { databaseUrl: proxy.url, environment: { PORT, MAX_STREAMS: '2', DRAIN_SECONDS: '1' } })
    const sources: { readonly source: EventSource; readonly replica: Replica; ends: number; isLost: boolean }[] = []
    onTestFinished(() => { for (const { source } of sources) source.close() })
    const open = (query = ''): { ends: number } => {
      const source = new EventSource(`${first.url}/v1/channels/t/stream${query}`)
      const client = { source, replica: new Replica(), ends: 0, isLost: false }
      source.onmessage = ({ data }: { readonly data: string }) => { client.replica.apply(JSON.parse(data) as Delta) }
      source.onerror = () => {
        client.replica.disconnected()
        client.ends += 1
        client.isLost ||= source.readyState === EventSource.CLOSED
      }
      sources.push(client)
      return client
    }
    const seated = [await openStream(`${first.url}/v1/channels/t/stream`), await openStream(`${first.url}/v1/channels/t/stream`)]
    await Promise.all(seated.map((reader) => reader.delta(() => true)))
    const unseated = open()
    await expect.poll(() => unseated.ends).toBe(1)
    for (const reader of seated) reader.close()
    await expect.poll(() => metric(first, 'freshet_streams')).toBe(0)

    proxy.cut()
    await expect.poll(async () => (await first.get('/readyz')).status).toBe(503)
    const uncheckable = open('?v=7')
    await expect.poll(() => uncheckable.ends).toBe(1)
    proxy.mend()

    const closing = first.close()
    const late = open()
    await expect.poll(() => late.ends).toBeGreaterThan(0)
    await closing
    const again = await serve(database, { environment: { PORT } })
    await database.query('insert into t values (2, 7)')
    for (const { replica } of sources) {
      await expect.poll(() => [...replica.rows.values()].map((row) => JSON.stringify(row)).sort(), { timeout: 40_000 }).toEqual(await rowsOfT(database))
    }
    expect(sources.map(({ isLost }) => isLost)).toEqual([false, false, false])
    expect(again.url).toBe(first.url)
  })
})
