/** What breaks behind the server: PostgreSQL crashes, the network goes, versions are lost. Nobody is told a lie. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { startEmbedded, type EmbeddedServer } from '../../src/database/embedded.ts'
import { createDatabase, hasPostgres, openDatabase } from '../support/database.ts'
import { startProxy } from '../support/proxy.ts'
import { Following } from '../support/replica.ts'
import { startTestServer } from '../support/server.ts'
import { openStream } from '../support/sse.ts'
import { expectTruth, Writer } from '../support/writer.ts'

const followings: Following[] = []

afterEach(async () => {
  await Promise.all(followings.splice(0).map((following) => following.stop()))
})

describe.skipIf(!hasPostgres)('a crash of PostgreSQL', () => {
  it('No loss, No ghost, Up: streams stay open and say so, and afterwards every client holds what SELECT returns', { timeout: 90_000 }, async () => {
    const directory = await mkdtemp(join(tmpdir(), 'freshet-faults-'))
    let postgres: EmbeddedServer | undefined
    const start = (): Promise<EmbeddedServer> => startEmbedded({ directory, settings: { max_connections: '60' } })
    postgres = await start()
    onTestFinished(async () => {
      await postgres?.stop()
      await rm(directory, { recursive: true, force: true })
    })
    const database = openDatabase(postgres.url)
    await database.query('create table t (id int primary key, v int not null)')
    const test = await startTestServer({ database })
    onTestFinished(async () => {
      await test.close()
      await database.drop()
    })
    await database.query(`select freshet.watch('t')`)
    await expect.poll(async () => (await test.get('/v1/channels/t')).status).toBe(200)
    followings.push(...[1, 2, 3].map(() => new Following().start(() => test.url, 't')))
    // What an asynchronous commit had promised may be gone: then it must be gone from every screen.
    const writers = [new Writer(database), new Writer(database, 'set synchronous_commit = off; ')]
    await expect.poll(() => followings.map(({ replica }) => replica.rows.size > 100), { timeout: 10_000 }).toEqual([true, true, true])

    // The immediate shutdown: nothing is written any more.
    process.kill(postgres.processId, 'SIGQUIT')
    await expect.poll(() => followings.map(({ statuses }) => typeof statuses[0]), { timeout: 15_000 }).toEqual(['string', 'string', 'string'])
    expect((await test.get('/readyz')).status).toBe(503)
    expect((await test.get('/v1/channels/t/changes')).status).toBe(503)
    const startedMs = performance.now()
    postgres = await start()
    const before = Math.max(...writers.map(({ written }) => written))
    await expect.poll(() => writers.some(({ written }) => written > before), { timeout: 10_000 }).toBe(true)
    await expect.poll(() => followings.every(({ statuses }) => statuses.at(-1) === null), { timeout: 20_000 }).toBe(true)
    console.log(`streams were told that all is well ${Math.round(performance.now() - startedMs)} ms after PostgreSQL was started again`)
    await Promise.all(writers.map((writer) => writer.stop()))
    await expectTruth(database, followings)
    expect(followings.map(({ streams }) => streams), 'no stream was cut').toEqual([1, 1, 1])
    // The listener tries again at a pace of its own.
    await expect.poll(async () => (await test.get('/readyz')).status, { timeout: 20_000 }).toBe(200)
  })
})

describe.skipIf(!hasPostgres)('a network that breaks', () => {
  it('costs a follower nothing but time: it goes on from its cursor with what it missed', { timeout: 40_000 }, async () => {
    const database = await createDatabase()
    await database.query(`create table t (id int primary key, v int not null); select freshet.watch('t')`)
    const proxy = await startProxy(database.url)
    const test = await startTestServer({ database, databaseUrl: proxy.url })
    followings.push(...[1, 2].map(() => new Following().start(() => test.url, 't')))
    const writer = new Writer(database)
    await expect.poll(() => followings.every(({ replica }) => replica.rows.size > 20)).toBe(true)
    for (let round = 0; round < 3; round += 1) {
      proxy.cut()
      const before = writer.written
      await expect.poll(() => writer.written).toBeGreaterThan(before + 50)
      proxy.mend()
      await expect.poll(() => followings.every(({ replica }) => replica.rows.size > before + 50), { timeout: 15_000 }).toBe(true)
    }
    await writer.stop()
    await expectTruth(database, followings)
    expect(followings.map(({ replica, streams }) => [replica.resets, streams])).toEqual([[1, 1], [1, 1]])
  })
})

describe.skipIf(!hasPostgres)('versions that a crash has taken', () => {
  it('Loud: are answered with a reset by whoever leads next, and the ones before with what they lack', async () => {
    const database = await createDatabase()
    await database.query(`create table t (id int primary key, v int not null); select freshet.watch('t')`)
    const before = await startTestServer({ database })
    const kept = await before.poll('t')
    await database.query('insert into t values (1, 1)')
    const survivor = await before.pollUntilChanged('t', kept.version)
    await database.query('insert into t values (2, 2)')
    const lost = await before.pollUntilChanged('t', survivor.version)
    await before.close()
    await database.query('delete from freshet.versions where number > $1', [numberOf(survivor.version)])

    const after = await startTestServer({ database })
    const answer = await after.poll('t', `?since=${lost.version}`)
    expect(answer).toMatchObject({ reset: true, since: null })
    expect(answer.changes.map(({ key }) => key)).toEqual([{ id: 1 }, { id: 2 }])
    expect(numberOf(answer.version)).toBeGreaterThan(numberOf(lost.version))
    expect(await after.poll('t', `?since=${survivor.version}`)).toMatchObject({ reset: false, since: survivor.version, changes: [{ key: { id: 2 } }] })
    const tagged = await after.get('/v1/channels/t/changes', { 'If-None-Match': `W/"${lost.version}"` })
    expect([tagged.status, await tagged.json()]).toMatchObject([200, { reset: true }])
  })

  it('Loud: reset the streams that have them, where the server outlives the crash', async () => {
    const database = await createDatabase()
    await database.query(`create table t (id int primary key, v int not null); select freshet.watch('t')`)
    const test = await startTestServer({ database })
    const stream = await openStream(`${test.url}/v1/channels/t/stream`)
    await stream.delta(({ reset }) => reset)
    await database.query('insert into t values (1, 1)')
    const { version } = await stream.delta(({ reset }) => !reset)
    await database.query('delete from freshet.versions where number = $1', [numberOf(version)])
    await database.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'freshet:clock' and datname = current_database()`)
    const again = await stream.delta((delta) => delta.reset && numberOf(delta.version) > numberOf(version))
    expect(again.changes).toMatchObject([{ key: { id: 1 } }])
    stream.close()
  })
})

const numberOf = (version: string): number => Number(version.split('.')[1])
