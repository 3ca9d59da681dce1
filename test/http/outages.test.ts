/** PostgreSQL goes away and comes back: for a moment, for longer, twice in a row, or as it was some time ago; or has neither time nor room. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import pino from 'pino'
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { readConfig } from '../../src/config.ts'
import { startServer } from '../../src/server.ts'
import type { Cluster } from '../support/cluster.ts'
import type { TestDatabase } from '../support/database.ts'
import { startPlace, type Place } from '../support/place.ts'
import { openSocket } from '../support/raw.ts'
import { Following } from '../support/replica.ts'
import { Replica } from '../support/sse.ts'
import { expectTruth, rowsOfT, Writer } from '../support/writer.ts'

const followings: Following[] = []

afterEach(async () => {
  await Promise.all(followings.splice(0).map((following) => following.stop()))
})

/** Commits a row and resolves to how long it took, in ms, until every client had it. */
async function probe(database: TestDatabase, id: number): Promise<number> {
  const startedMs = performance.now()
  await expect.poll(() => database.query('insert into t values ($1, 0) on conflict do nothing', [id]).then(() => true, () => false), { timeout: 20_000 }).toBe(true)
  await expect.poll(() => followings.filter(({ replica }) => !replica.rows.has(JSON.stringify({ id }))).length, { interval: 10, timeout: 20_000 }).toBe(0)
  return Math.round(performance.now() - startedMs)
}

/** What the server asked of PostgreSQL in the second after it first found it there again, from PostgreSQL's own log. */
async function firstSecond({ directory }: Cluster): Promise<{ readonly connections: number; readonly statements: number }> {
  const lines = (await readFile(join(directory, 'data', 'server.log'), 'utf8')).split('\n').map((line) => {
    const [, seconds, application = '', text = ''] = /^([\d.]+)\|([^|]*)\|(.*)$/.exec(line) ?? []
    return { ms: Number(seconds) * 1_000, application, text }
  })
  const isOurConnection = (text: string): boolean => text.includes('connection authorized') && text.includes('application_name=freshet:')
  const since = lines.slice(lines.findLastIndex(({ text }) => text.includes('ready to accept connections')))
  const firstMs = since.find(({ text }) => isOurConnection(text))?.ms ?? NaN
  const early = since.filter(({ ms }) => ms >= firstMs && ms < firstMs + 1_000)
  return {
    connections: early.filter(({ text }) => isOurConnection(text)).length,
    statements: early.filter(({ application, text }) => application.startsWith('freshet:') && /(?:statement|execute [^:]*): /.test(text)).length,
  }
}

const LOGGED = { logging_collector: 'on', log_directory: '.', log_filename: 'server.log', log_line_prefix: '%n|%a|', log_connections: 'on', log_statement: 'all' }

describe('PostgreSQL that is away', () => {
  it('for a second is not noticed by anybody but those who write', { timeout: 60_000 }, async () => {
    const { cluster, database, test } = await startPlace()
    followings.push(...[1, 2, 3].map(() => new Following().start(() => test.url, 't')))
    await probe(database, 1)
    await cluster.stop()
    const startedMs = performance.now()
    await delay(1_000)
    await cluster.start()
    await probe(database, 2)
    console.log(`away for a second, live again ${Math.round(performance.now() - startedMs - 1_000)} ms later, its start included`)
    await expectTruth(database, followings)
    expect(followings.map(({ streams, replica, statuses }) => [streams, replica.resets, statuses])).toEqual(Array(3).fill([1, 1, []]))
  })

  it('Loud, Up: for longer than five seconds is said on every stream and to every poll, nobody reconnects, and nobody stampedes when it is back', { timeout: 90_000 }, async () => {
    const { cluster, database, test } = await startPlace({ settings: LOGGED })
    followings.push(...Array.from({ length: 100 }, () => new Following().start(() => test.url, 't')))
    await probe(database, 1)
    const socket = await openSocket(test.url)
    onTestFinished(() => { socket.destroy() })
    let heard = ''
    socket.on('data', (chunk: Buffer) => { heard += chunk.toString() })
    socket.write('GET /v1/channels/t/stream HTTP/1.1\r\nHost: localhost\r\n\r\n')
    await expect.poll(() => heard).toContain('"reset":true')
    await cluster.stop()
    await expect.poll(() => followings.filter(({ statuses }) => typeof statuses[0] === 'string').length, { timeout: 20_000 }).toBe(100)
    heard = ''
    const refused = await test.get('/v1/channels/t/changes')
    expect([refused.status, await refused.json()]).toMatchObject([503, { code: 'database_unreachable' }])
    await expect.poll(() => heard.match(/^:/gm)?.length, { timeout: 10_000 }).toBeGreaterThan(1)
    // Those who ask all the time, with nothing in hand, are who might stampede.
    const impatient = { isOver: false }
    const pollers = Array.from({ length: 20 }, async () => {
      while (!impatient.isOver) await (await fetch(`${test.url}/v1/channels/t/changes`)).text()
    })
    await cluster.start()
    const backMs = performance.now()
    await probe(database, 2)
    const liveMs = Math.round(performance.now() - backMs)
    await expect.poll(() => followings.every(({ statuses }) => statuses.at(-1) === null), { timeout: 20_000 }).toBe(true)
    impatient.isOver = true
    await Promise.all(pollers)
    await expectTruth(database, followings)
    const asked = await firstSecond(cluster)
    console.log(`live again ${liveMs} ms after PostgreSQL was; in its first second ${asked.connections} connections and ${asked.statements} statements for 101 streams and 20 pollers`)
    expect(asked.connections).toBeGreaterThan(0)
    expect(asked.connections, 'the pool, the clock and the listener').toBeLessThanOrEqual(12)
    expect(asked.statements).toBeGreaterThan(0)
    expect(asked.statements).toBeLessThan(500)
    expect(followings.map(({ streams, replica }) => [streams, replica.resets])).toEqual(Array(100).fill([1, 1]))
    await expect.poll(async () => (await test.get('/readyz')).status, { timeout: 20_000 }).toBe(200)
  })

  it('No loss, No ghost: crashes, and crashes again while it is being asked for what was missed', { timeout: 90_000 }, async () => {
    const { cluster, database, test } = await startPlace()
    followings.push(...[1, 2, 3].map(() => new Following().start(() => test.url, 't')))
    const writers = [new Writer(database), new Writer(database, 'set synchronous_commit = off; ')]
    for (let round = 0; round < 2; round += 1) {
      const before = Math.max(...writers.map(({ written }) => written))
      await expect.poll(() => writers.some(({ written }) => written > before + 100), { timeout: 20_000 }).toBe(true)
      await cluster.crash()
      await cluster.start()
    }
    await expect.poll(() => followings.every(({ statuses }) => (statuses.at(-1) ?? null) === null), { timeout: 20_000 }).toBe(true)
    const before = Math.max(...writers.map(({ written }) => written))
    await expect.poll(() => writers.some(({ written }) => written > before), { timeout: 20_000 }).toBe(true)
    await Promise.all(writers.map((writer) => writer.stop()))
    await probe(database, 1_000_000)
    await expectTruth(database, followings)
    expect(followings.map(({ streams }) => streams), 'no stream was cut').toEqual([1, 1, 1])
  })
})

describe('a volume rolled back to an older copy of itself', () => {
  /** Ends the leadership and waits for the first version of the next one: each begins with a leap. */
  async function leadAgain({ database, test }: Place): Promise<void> {
    const lastLeap = async (): Promise<number> => {
      const [last] = await database.query<{ number: string }>('select max(number) as number from freshet.versions where leapt_from is not null')
      return Number(last?.number)
    }
    const before = await lastLeap()
    await database.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'freshet:clock'`)
    await expect.poll(lastLeap, { timeout: 10_000 }).toBeGreaterThan(before)
    await expect.poll(async () => test.server.hub.head >= await lastLeap(), { timeout: 10_000 }).toBe(true)
  }

  it('Loud: no version that a client holds from the time that is undone is mistaken for one of the new time', { timeout: 90_000 }, async () => {
    const place = await startPlace()
    const { cluster, database, test } = place
    await database.query('insert into t values (1, 1)')
    await expect.poll(async () => (await test.poll('t')).changes.length).toBe(1)
    const following = new Following().start(() => test.url, 't')
    followings.push(following)
    await expect.poll(() => following.replica.rows.size).toBe(1)
    await cluster.stop()
    const rollBack = await cluster.copyVolume()
    await cluster.start()

    /** What a client holds after each of some leaderships. */
    const held: Replica[] = []
    for (let id = 10; id < 16; id += 1) {
      await leadAgain(place)
      const { version } = await test.poll('t')
      await database.query('insert into t values ($1, 1)', [id])
      await test.pollUntilChanged('t', version)
      const replica = new Replica()
      replica.apply(await test.poll('t'))
      held.push(replica)
    }
    await expectTruth(database, followings)
    await cluster.stop()
    await rollBack()
    await cluster.start()
    await expect.poll(() => database.query('select').then(() => true, () => false), { timeout: 20_000 }).toBe(true)

    // The undone time is lived again, in another way.
    for (let id = 20; id < 26; id += 1) {
      await leadAgain(place)
      await probe(database, id)
      for (const { version, rows } of held) {
        const replica = new Replica()
        replica.version = version
        for (const [key, row] of rows) replica.rows.set(key, row)
        replica.apply(await test.poll('t', `?since=${String(version)}`))
        expect([...replica.rows.values()].map((row) => JSON.stringify(row)).sort(), `from ${String(version)}`).toEqual(await rowsOfT(database))
      }
    }
    expect([...following.replica.rows.values()].map((row) => JSON.stringify(row)).sort(), 'the stream that was open all the time').toEqual(await rowsOfT(database))
    expect([following.streams, following.replica.resets]).toEqual([1, 2])
  })
})

describe('a PostgreSQL without patience', () => {
  it('No loss, Up: time-outs that the host has set for its own clients end nothing of ours', { timeout: 60_000 }, async () => {
    const { database, test } = await startPlace()
    followings.push(...[1, 2].map(() => new Following().start(() => test.url, 't')))
    await probe(database, 1)
    const settings = ['statement_timeout', 'lock_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout']
    for (const setting of settings) await database.query(`alter database postgres set ${setting} = 150`)
    // Whoever comes back from here on comes back to these.
    await database.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'freshet:%'`)
    const patient = await database.connect()
    await patient.query(settings.map((setting) => `set ${setting} = 0`).join('; '))
    // Longer to number, to read and to write than any of them allows.
    await patient.query('insert into t select n, 0 from generate_series(1000, 60000) n')
    await expect.poll(() => followings.map(({ replica }) => replica.rows.size), { timeout: 30_000 }).toEqual([59_002, 59_002])
    await patient.query('update t set v = 1 where id = 1')
    await expect.poll(() => followings.map(({ replica }) => replica.rows.get('{"id":1}')?.['v']), { timeout: 20_000 }).toEqual([1, 1])
    expect((await test.poll('t')).changes).toHaveLength(59_002)
    expect(followings.map(({ streams, replica }) => [streams, replica.resets])).toEqual([[1, 1], [1, 1]])
  })
})

describe('a PostgreSQL without room', () => {
  /** Takes every connection there is; the answer gives them back. */
  async function takeAll(url: string): Promise<() => Promise<void>> {
    const clients: pg.Client[] = []
    for (;;) {
      const client = new pg.Client({ connectionString: url })
      client.on('error', () => undefined)
      try {
        await client.connect()
      } catch {
        return async () => { await Promise.all(clients.map((each) => each.end())) }
      }
      clients.push(client)
    }
  }

  it('Loud: is named at the start, with the cure; a server that runs says so on its streams and goes on when there is room', { timeout: 90_000 }, async () => {
    const { cluster, database, test } = await startPlace({ settings: { max_connections: '25' } })
    followings.push(...[1, 2].map(() => new Following().start(() => test.url, 't')))
    await probe(database, 1)
    const killer = await database.connect()
    const taken: (() => Promise<void>)[] = []
    // Until none of ours was quicker than we are.
    do taken.push(await takeAll(cluster.url))
    while ((await killer.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'freshet:%'`)).rows.length > 0)
    const config = readConfig({ PORT: '0' })
    await expect(startServer({ config, databaseUrl: cluster.url, log: pino({ level: 'silent' }), vote: null })).rejects.toThrow(/^PostgreSQL has no connection left \(.*\); raise max_connections, or end some of its clients\.$/)
    await expect.poll(() => followings.map(({ statuses }) => typeof statuses.at(-1)), { timeout: 20_000 }).toEqual(['string', 'string'])
    for (const giveBack of taken) await giveBack()
    await probe(database, 2)
    await expectTruth(database, followings)
    expect(followings.map(({ streams }) => streams)).toEqual([1, 1])
  })
})
