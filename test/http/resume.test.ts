import { EventSource } from 'eventsource'
import { beforeAll, describe, expect, it } from 'vitest'
import { freePort } from '../support/ports.ts'
import { startTestServer, type TestServer } from '../support/server.ts'
import { openStream, Replica, type Delta } from '../support/sse.ts'

const SETUP = `
  create table public.items (id int primary key, grp text not null default 'a', n int not null default 0);
  insert into public.items (id) select generate_series(1, 5);
  select freshet.watch('public.items', filters => '{grp}');`

let server: TestServer
let stream: string
beforeAll(async () => {
  server = await startTestServer({ setup: SETUP })
  stream = `${server.url}/v1/channels/items/stream`
})

async function change(sql: string): Promise<string> {
  const { version } = await server.poll('items')
  await server.database.query(sql)
  return (await server.pollUntilChanged('items', version)).version
}

/** The rows as SELECT returns them, as a replica holds them. */
async function selected(from: TestServer): Promise<unknown[]> {
  return from.database.query('select id, grp, n from items order by id')
}

function rowsOf(replica: Replica): unknown[] {
  return [...replica.rows.values()].toSorted((a, b) => Number(a['id']) - Number(b['id']))
}

describe('a cursor', () => {
  it.each([
    ['the header Last-Event-ID', (version: string) => ['', { 'Last-Event-ID': version }] as const],
    ['last_event_id', (version: string) => [`?last_event_id=${version}`, {}] as const],
    ['lastEventId', (version: string) => [`?lastEventId=${version}`, {}] as const],
    ['evs_last_event_id', (version: string) => [`?evs_last_event_id=${version}&evs_preamble=1&padding=xyz`, {}] as const],
    ['since', (version: string) => [`?since=${version}`, {}] as const],
    ['the header before every parameter', (version: string) => ['?last_event_id=zzzz.1&since=zzzz.1', { 'Last-Event-ID': version }] as const],
    ['last_event_id before lastEventId', (version: string) => [`?lastEventId=zzzz.1&last_event_id=${version}`, {}] as const],
    ['lastEventId before since', (version: string) => [`?since=zzzz.1&lastEventId=${version}`, {}] as const],
    ['the first that is not empty', (version: string) => [`?last_event_id=&lastEventId=&since=${version}`, { 'Last-Event-ID': '' }] as const],
  ])('by %s begins where the client left', async (_what, ask) => {
    const { version } = await server.poll('items')
    await change('update items set n = n + 1 where id = 1')
    const [query, headers] = ask(version)
    const reader = await openStream(stream + query, headers)
    const first = await reader.delta(() => true)
    expect(first).toMatchObject({ since: version, reset: false })
    expect(first.changes.map(({ key }) => key['id'])).toEqual([1])
    reader.close()
  })

  it('that is current gets nothing until something changes', async () => {
    const { version } = await server.poll('items')
    const reader = await openStream(`${stream}?since=${version}`)
    await expect.poll(() => server.server.hub.size.followers).toBe(1)
    expect(reader.events).toEqual([])
    await server.database.query('update items set n = n + 1 where id = 2')
    expect(await reader.delta(() => true)).toMatchObject({ since: version, reset: false })
    reader.close()
  })

  it.each(['nonsense', 'k3f9', '%00', '%zz', 'k3f9.1.r.abc', 'x'.repeat(200), 'zzzz.12', 'k3f9.1%0adata:x'])('%j gets a reset, since EventSource gives up on an error', async (cursor) => {
    for (const [query, headers] of [[`?since=${cursor}`, {}], ['', { 'Last-Event-ID': cursor }]] as const) {
      const reader = await openStream(stream + query, headers)
      expect(reader.status).toBe(200)
      expect(await reader.delta(() => true)).toMatchObject({ since: null, reset: true })
      reader.close()
    }
  })

  it('goes from a stream to a poll and back', async () => {
    const reader = await openStream(stream)
    const { version } = await reader.delta(({ reset }) => reset)
    reader.close()
    await change('update items set n = n + 1 where id = 3')
    const polled = await server.poll('items', `?since=${version}`)
    expect(polled).toMatchObject({ since: version, reset: false })
    await change('update items set n = n + 1 where id = 4')
    const again = await openStream(stream, { 'Last-Event-ID': polled.version })
    const delta = await again.delta(() => true)
    expect(delta).toMatchObject({ since: polled.version, reset: false })
    expect(delta.changes.map(({ key }) => key['id'])).toEqual([4])
    again.close()
  })

  it('of which the versions in between are in the log only gets what memory would have given, byte for byte', async () => {
    const { version } = await server.poll('items')
    await change('update items set n = n + 1 where id = 3; update items set n = n + 1 where id = 1')
    await change('delete from items where id = 5; insert into items (id) values (6)')
    const bytes = async (from: TestServer): Promise<string | undefined> => {
      const reader = await openStream(`${from.url}/v1/channels/items/stream?since=${version}`)
      const { data } = await reader.until(() => true)
      reader.close()
      return data
    }
    const remembered = await bytes(server)
    const fresh = await startTestServer({ database: server.database })
    const read = await bytes(fresh)
    expect(read).toBe(remembered)
    await fresh.close()
  })
})

describe('a client that breaks off and comes back', () => {
  it('under concurrent writes never meets a gap, a repetition or an older row', async () => {
    await change('delete from items; insert into items (id) select generate_series(1, 20)')
    const replica = new Replica()
    const faults: string[] = []
    const apply = (delta: Delta): void => {
      if (!delta.reset && delta.since !== replica.version) faults.push(`since ${String(delta.since)} at ${String(replica.version)}`)
      for (const { key, row } of delta.changes) {
        const held = replica.rows.get(JSON.stringify(key))
        if (held !== undefined && row !== undefined && !delta.reset && Number(row['n']) <= Number(held['n'])) faults.push(`row ${JSON.stringify(row)} after ${JSON.stringify(held)}`)
      }
      replica.apply(delta)
    }
    const writers = { areDone: false }
    let connections = 0
    const write = async (seed: number): Promise<void> => {
      for (let n = 0; n < 75 || connections < 15; n += 1) await server.database.query('update items set n = n + 1 where id in ($1, $2)', [(seed + n) % 20 + 1, (seed * 7 + n * 3) % 20 + 1].toSorted((a, b) => a - b))
    }
    const writing = Promise.all([1, 2, 3, 4].map(write)).finally(() => { writers.areDone = true })
    while (!writers.areDone) {
      const reader = await openStream(stream, replica.version === null ? {} : { 'Last-Event-ID': replica.version }, apply)
      let seen = 0
      await reader.until(() => (seen += 1) > connections % 4 || writers.areDone).catch(() => undefined)
      reader.close()
      await reader.ended
      replica.disconnected()
      connections += 1
    }
    await writing
    const last = await openStream(stream, { 'Last-Event-ID': replica.version ?? '' }, apply)
    const expected = await selected(server)
    await expect.poll(() => rowsOf(replica)).toEqual(expected)
    last.close()
    expect(faults).toEqual([])
    expect(replica.resets).toBe(1)
  })
})

describe('the EventSource of npm', () => {
  it('goes on where it was after the server was started again on the same port', async () => {
    const environment = { PORT: String(await freePort()) }
    const first = await startTestServer({ setup: SETUP, environment })
    const replica = new Replica()
    const source = new EventSource(`${first.url}/v1/channels/items/stream`)
    source.onmessage = ({ data }: { readonly data: string }) => { replica.apply(JSON.parse(data) as Delta) }
    await expect.poll(() => replica.rows.size).toBe(5)
    await first.database.query('update items set n = 1')
    await expect.poll(() => rowsOf(replica)).toEqual(await selected(first))
    await first.close()
    await first.database.query('update items set n = 2 where id = 1; delete from items where id = 2')
    const second = await startTestServer({ database: first.database, environment })
    await expect.poll(() => rowsOf(replica)).toEqual(await selected(second))
    expect(replica.resets).toBe(1)
    source.close()
    await second.close()
  })
})
