/** Several servers on one database: what one says, the other must stand by. */
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { Following } from '../support/replica.ts'
import { startTestServer, type TestServer } from '../support/server.ts'
import { openStream, Replica } from '../support/sse.ts'

async function leads(node: TestServer): Promise<boolean> {
  const { checks } = await (await node.get('/readyz')).json() as { checks: { clock: { detail: string } } }
  return checks.clock.detail.startsWith('This node')
}

/** Leader first. */
async function startNodes(database: TestDatabase): Promise<readonly [TestServer, TestServer]> {
  const [one, two] = [await startTestServer({ database }), await startTestServer({ database })]
  return await leads(one) ? [one, two] : [two, one]
}

describe.skipIf(!hasPostgres)('two servers on one database', () => {
  let database: TestDatabase
  let nodes: readonly [TestServer, TestServer]
  let id = 0

  beforeAll(async () => {
    database = await createDatabase()
    await database.query(`create table t (id int primary key, v int not null); select freshet.watch('t', filters => '{v}')`)
    nodes = await startNodes(database)
  })

  async function write(): Promise<number> {
    id += 1
    await database.query('insert into t values ($1, 0)', [id])
    return id
  }

  it('both show a change to those who stream and to those who poll', async () => {
    const streams = await Promise.all(nodes.map(({ url }) => openStream(`${url}/v1/channels/t/stream`)))
    const states = await Promise.all(streams.map((stream) => stream.delta(({ reset }) => reset)))
    const polls = nodes.map((node) => node.pollUntilChanged('t', states[0]?.version ?? ''))
    const written = await write()
    const deltas = await Promise.all([...streams.map((stream) => stream.delta(({ reset }) => !reset)), ...polls])
    expect(new Set(deltas.map(({ version }) => version)).size).toBe(1)
    for (const { changes } of deltas) expect(changes.map(({ key }) => key)).toEqual([{ id: written }])
    for (const stream of streams) stream.close()
  })

  it('Resumable, Poll = stream: a cursor goes on from any of them to any other, by any transport, in the same bytes', async () => {
    const replica = new Replica()
    const since = (): string => replica.version ?? ''
    await write()
    await write()
    for (let round = 0; round < 6; round += 1) {
      const [here, there] = round % 2 === 0 ? nodes : [nodes[1], nodes[0]]
      replica.apply(await here.poll('t', round === 0 ? '' : `?since=${since()}`))
      await database.query('update t set v = $1 where id <= 2', [round + 100])
      // Until both have heard of it.
      for (const node of nodes) {
        await expect.poll(async () => (await node.poll('t', `?since=${since()}`)).changes).toContainEqual({ op: 'upsert', key: { id: 1 }, row: { id: 1, v: round + 100 } })
      }
      const { poll_after_ms, poll_reason, ...polled } = await here.poll('t', `?since=${since()}`)
      expect([poll_after_ms, poll_reason]).not.toContain(undefined)
      const stream = await openStream(`${there.url}/v1/channels/t/stream`, { 'Last-Event-ID': since() })
      expect(await stream.delta(() => true)).toEqual(polled)
      stream.close()
      replica.apply(polled)
      await database.query('update t set v = $1 where id = 2', [round])
      const tagged = await there.get('/v1/channels/t/changes', { 'If-None-Match': `W/"${since()}"` })
      // The node may not have heard yet; then the tag is still true of it.
      if (tagged.status === 200) replica.apply(await tagged.json() as typeof polled)
    }
    const truth = await database.query('select id, v from t order by id')
    await expect.poll(async () => {
      replica.apply(await nodes[0].poll('t', `?since=${since()}`))
      return [...replica.rows.values()].sort((a, b) => Number(a['id']) - Number(b['id']))
    }).toEqual(truth)
    expect((await nodes[0].get(`/v1/channels/t/changes`, { 'If-None-Match': `W/"${since()}"` })).status).toBe(304)
    expect(replica.resets).toBe(1)
  })

  it('304 is the truth: a tag of one is good at the other until something changes', async () => {
    const [one, two] = nodes
    const tag = (await one.get('/v1/channels/t/changes')).headers.get('etag') ?? ''
    expect((await two.get('/v1/channels/t/changes', { 'If-None-Match': tag })).status).toBe(304)
    await write()
    await expect.poll(async () => (await two.get('/v1/channels/t/changes', { 'If-None-Match': tag })).status).toBe(200)
    expect((await one.get('/v1/channels/t/changes', { 'If-None-Match': tag })).status).toBe(200)
  })

  it('a version that one has issued a moment ago is awaited by the other, not refused', async () => {
    const [leader, follower] = nodes
    for (let round = 0; round < 10; round += 1) {
      const before = await leader.poll('t')
      await write()
      const { version } = await leader.pollUntilChanged('t', before.version)
      const answer = await follower.poll('t', `?since=${version}`)
      expect(answer).toMatchObject({ reset: false, version, changes: [] })
    }
  })
})

describe.skipIf(!hasPostgres)('the end of a leader', () => {
  const followings: Following[] = []

  afterEach(async () => {
    await Promise.all(followings.splice(0).map((following) => following.stop()))
  })

  it('No loss, Ordered: under load the other leads, streams go on there with their cursors, and nobody notices', async () => {
    const database = await createDatabase()
    await database.query(`create table t (id int primary key, v int not null); select freshet.watch('t')`)
    const [leader, other] = await startNodes(database)
    let home = leader
    followings.push(...[() => home.url, () => other.url, () => home.url].map((serverOf) => new Following().start(serverOf, 't')))
    await expect.poll(() => followings.map(({ replica }) => replica.version === null)).toEqual([false, false, false])
    const life = { isOver: false }
    let written = 0
    const writing = (async () => {
      while (!life.isOver) {
        written += 1
        await database.query('insert into t values ($1, $1)', [written])
      }
    })()
    await expect.poll(() => followings[0]?.replica.rows.size).toBeGreaterThan(50)
    home = other
    const startedMs = performance.now()
    await leader.close()
    await expect.poll(() => leads(other), { interval: 10 }).toBe(true)
    const tookMs = performance.now() - startedMs
    const before = written
    await expect.poll(() => followings.map(({ replica }) => replica.rows.size > before + 50)).toEqual([true, true, true])
    life.isOver = true
    await writing
    const all = Array.from({ length: written }, (_, index) => index + 1)
    for (const following of followings) {
      await expect.poll(() => following.values('id')).toEqual(all)
      expect(following.faults).toEqual([])
      expect(following.replica.resets, 'resumed, not started anew').toBe(1)
    }
    expect(followings.map(({ streams }) => streams > 1)).toEqual([true, false, true])
    console.log(`the other server led ${Math.round(tookMs)} ms after the leader was told to stop`)
  })
})
