/** Anybody who may connect may NOTIFY on the channel of the bell. Whatever is sent, and however much: nobody is the poorer for it. */
import type { Client } from 'pg'
import { beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { startChildServer } from '../support/child-server.ts'
import { createDatabase, type TestDatabase } from '../support/database.ts'
import { startNode } from '../support/node.ts'
import { Following } from '../support/replica.ts'
import { startTestServer } from '../support/server.ts'

const SETUP = `
  create table public.items (id int primary key, n int not null);
  insert into public.items values (1, 0);
  select freshet.watch('public.items');`

let database: TestDatabase
beforeAll(async () => {
  database = await createDatabase()
  await database.query(SETUP)
})

/** A connection that logged in as a role to which nothing was granted. */
async function connectAsNobody(): Promise<Client> {
  const client = await database.connect()
  const role = `nobody_${new URL(database.url).pathname.slice(1)}`
  await client.query(`do $$ begin create role ${role}; exception when duplicate_object then null; end $$`)
  await client.query(`set session authorization ${role}`)
  await expect(client.query('select from freshet.changes')).rejects.toMatchObject({ code: '42501' })
  return client
}

describe('a notification', () => {
  it.each<[string, string]>([
    ['nothing', ''],
    ['JSON', '{"version":1,"bell":true}'],
    ['half of JSON', '{"a":['],
    ['a word of ours, nearly', 'bell '],
    ['a version that nobody numbered', 'version'],
    ['a bell that nobody rang', 'bell'],
    ['a probe of somebody else', 'probe 1.1'],
    ['a name that every object has', '__proto__'],
    ['a name that events have', 'error'],
    ['characters of every kind', '\u0001\t\r\n"\\ é \u2028 \u{1F375} \uFEFF \uFFFF'],
    ['7,999 bytes', 'é'.repeat(3_999) + 'x'],
    ['SQL', `'; drop schema freshet cascade; --`],
  ])('of %s from a role without rights is harmless', async (_what, payload) => {
    const server = await startTestServer({ database })
    const nobody = await connectAsNobody()
    const { version } = await server.poll('items')
    for (let round = 0; round < 3; round += 1) await nobody.query(`select pg_notify('freshet', $1)`, [payload])
    const [row] = await database.query<{ n: number }>('update items set n = n + 1 returning n')
    expect(await server.pollUntilChanged('items', version)).toMatchObject({ reset: false, changes: [{ op: 'upsert', row: { id: 1, n: row?.n } }] })
    expect(await (await server.get('/readyz')).json()).toMatchObject({ checks: { listener: { ok: true }, clock: { ok: true } } })
    expect(server.warnings).toEqual([])
    await server.close()
  })
})

describe('a flood of notifications', () => {
  const SENDERS = 4

  /** Payloads that differ, since equal ones of a transaction are sent once; `$1` tells the senders apart. */
  it.each([
    { what: 'a million short ones', payload: `'{"n":' || $1::int || ',' || n`, batch: 25_000, rounds: 10 },
    { what: '16,000 of 7,999 bytes', payload: `rpad($1::int || '.' || n || '.', 7999, 'x')`, batch: 400, rounds: 10 },
  ])('Up, Ordered, Bounded: $what break nothing; changes arrive among them', { timeout: 120_000 }, async ({ what, payload, batch, rounds }) => {
    const server = await startChildServer(database.url)
    onTestFinished(() => server.stop())
    await expect.poll(async () => (await fetch(`${server.url}/v1/channels/items`)).status, { timeout: 20_000 }).toBe(200)
    const following = new Following().start(() => server.url, 'items')
    onTestFinished(() => following.stop())
    await expect.poll(() => following.replica.rows.size, { timeout: 20_000 }).toBe(1)

    const senders = await Promise.all(Array.from({ length: SENDERS }, connectAsNobody))
    // A listener of our own: the next batch is sent when this one has been heard, so that the flood is one of hearing too.
    const listener = await database.connect()
    let heard = 0
    listener.on('notification', () => { heard += 1 })
    await listener.query('listen freshet')
    const round = async (): Promise<void> => {
      const before = heard
      const sending = senders.map((sender, index) => sender.query(`select count(pg_notify('freshet', ${payload})) from generate_series(1, $2::int) n`, [index, batch]))
      const [row] = await database.query<{ n: number }>('update items set n = n + 1 returning n')
      await expect.poll(() => following.values('n'), { timeout: 30_000, interval: 5 }).toEqual([row?.n])
      const answer = await fetch(`${server.url}/v1/channels/items/changes`)
      expect(await answer.json()).toMatchObject({ changes: [{ row: { n: row?.n } }] })
      await Promise.all(sending)
      await expect.poll(() => heard - before, { timeout: 30_000, interval: 5 }).toBeGreaterThanOrEqual(SENDERS * batch)
    }
    // The first brings the process to its working size.
    await round()
    const before = await server.residentBytes()
    const startedMs = performance.now()
    for (let index = 0; index < rounds; index += 1) await round()
    const seconds = (performance.now() - startedMs) / 1_000
    const after = await server.residentBytes()
    console.log(`${what}: ${Math.round(rounds * SENDERS * batch / seconds)} a second, heard; resident ${Math.round(before / 1e6)} MB before, ${Math.round(after / 1e6)} MB after`)
    expect(after - before).toBeLessThan(100e6)
    expect([following.faults, following.replica.resets]).toEqual([[], 1])
    await expect.poll(async () => (await fetch(`${server.url}/readyz`)).status).toBe(200)
  })
})

describe('a flood of forged notices', () => {
  /** Sends them one a transaction, since equal ones of a transaction are sent once, until `most` were sent. */
  async function forge(payload: string, most: number): Promise<number> {
    const startedMs = performance.now()
    const senders = await Promise.all([1, 2, 3, 4].map(connectAsNobody))
    let sent = 0
    await Promise.all(senders.map(async (sender) => {
      for (; sent < most; sent += 1) await sender.query(`notify freshet, '${payload}'`)
    }))
    return (performance.now() - startedMs) / 1_000
  }

  it('makes neither the leader nor a follower read more than a few dozen times a second', { timeout: 60_000 }, async () => {
    const leader = await startTestServer({ database })
    const follower = startNode(database, { neverLeads: true })
    await follower.hub.load()
    const clockReads = vi.spyOn(leader.server.hub.freshness, 'contact')
    const followerReads = vi.spyOn(follower.pool, 'query')
    for (const [payload, reads] of [['bell', clockReads], ['version', followerReads]] as const) {
      reads.mockClear()
      const seconds = await forge(payload, 10_000)
      console.log(`10,000 forged "${payload}" in ${seconds.toFixed(1)} s: ${Math.round(reads.mock.calls.length / seconds)} reads a second`)
      expect(reads.mock.calls.length).toBeLessThan(60 * seconds + 20)
    }
    const { version } = await leader.poll('items')
    await database.query('update items set n = n + 1')
    expect(await leader.pollUntilChanged('items', version)).toMatchObject({ reset: false })
    await leader.close()
  })
})
