/** Standbys: one that takes over without the last changes of its primary, and one that is asked to do what it cannot. */
import pino from 'pino'
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { readConfig } from '../../src/config.ts'
import { startServer } from '../../src/server.ts'
import { Cluster } from '../support/cluster.ts'
import type { TestDatabase } from '../support/database.ts'
import { openHere, serve, startPlace, type Place } from '../support/place.ts'
import { startProxy, type Proxy } from '../support/proxy.ts'
import { Following } from '../support/replica.ts'
import { expectTruth } from '../support/writer.ts'

const followings: Following[] = []

afterEach(async () => {
  await Promise.all(followings.splice(0).map((following) => following.stop()))
})

/** A server on a primary, and a standby that replicates through a network which may be cut. */
async function startPair(): Promise<Place & { readonly standby: TestDatabase; readonly network: Proxy }> {
  const place = await startPlace()
  const network = await startProxy(place.cluster.url)
  const cluster = await Cluster.startStandby(place.cluster, network.url)
  onTestFinished(() => cluster.remove())
  const standby = openHere(cluster.url)
  // The server has its primary back, and the standby follows.
  await expect.poll(() => place.database.query('insert into t values (1, 1) on conflict do nothing').then(() => true, () => false), { timeout: 10_000 }).toBe(true)
  followings.push(new Following().start(() => place.test.url, 't'))
  await expect.poll(() => followings[0]?.replica.rows.size, { timeout: 20_000 }).toBe(1)
  await expect.poll(async () => (await standby.query('select from t')).length, { timeout: 20_000 }).toBe(1)
  return { ...place, standby, network }
}

describe('a standby that is promoted', () => {
  it('Loud: without the tail of its primary begins a new epoch, and what was lost is on no screen any more', { timeout: 90_000 }, async () => {
    const { cluster, database, test, standby, network } = await startPair()
    network.cut()
    await database.query('insert into t values (2, 2)')
    const lost = await test.pollUntilChanged('t', followings[0]?.replica.version ?? '')
    expect(lost.changes).toMatchObject([{ key: { id: 2 } }])
    await test.close()
    await cluster.crash()

    await standby.query('select pg_promote()')
    await standby.query('insert into t values (3, 3)')
    const home = await serve(standby)
    await expect.poll(async () => (await home.poll('t', `?since=${lost.version}`)).version.split('.')[0], { timeout: 10_000 }).not.toBe(lost.version.split('.')[0])
    const answer = await home.poll('t', `?since=${lost.version}`)
    expect([answer.reset, answer.changes.map(({ key }) => key)]).toEqual([true, [{ id: 1 }, { id: 3 }]])
    const following = new Following()
    following.replica.version = lost.version
    followings.splice(0, 1, following.start(() => home.url, 't'))
    await expectTruth(standby, followings)
    await standby.query('insert into t values (4, 4)')
    await expectTruth(standby, followings)
    expect(following.replica.resets).toBe(1)
  })
})

describe('a server on a standby', () => {
  it('Loud, Up: says what it cannot do and where to point it, follows whoever leads on the primary, and leads when the standby is promoted', { timeout: 90_000 }, async () => {
    const { cluster, database, test, standby } = await startPair()
    const warnings: string[] = []
    const reader = await startServer({
      config: readConfig({ PORT: '0', RATE_LIMIT: '0', DRAIN_SECONDS: '0' }), databaseUrl: standby.url, vote: null, safetyMs: 500,
      log: pino({ level: 'warn' }, { write: (line: string) => { warnings.push(line) } }),
    })
    onTestFinished(() => reader.close())
    await expect.poll(() => warnings.join(), { timeout: 10_000 }).toContain('this PostgreSQL is a standby: nothing can be written, and LISTEN does not work; point DATABASE_URL at the primary.')
    const ready = await fetch(`${reader.url}/readyz`)
    expect([ready.status, await ready.json()]).toMatchObject([503, { checks: { clock: { ok: false }, listener: { ok: false } } }])
    const following = new Following().start(() => reader.url, 't')
    followings.push(following)
    await database.query('insert into t values (2, 2)')
    await expectTruth(database, followings)
    const { streams } = following

    await test.close()
    await cluster.crash()
    await standby.query('select pg_promote()')
    await standby.query('insert into t values (3, 3)')
    await expect.poll(() => following.replica.rows.size, { timeout: 20_000 }).toBe(3)
    await expect.poll(async () => (await fetch(`${reader.url}/readyz`)).status, { timeout: 20_000 }).toBe(200)
    expect(following.streams, 'no stream was cut').toBe(streams)
  })
})
