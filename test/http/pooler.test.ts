/** PgBouncer in front of PostgreSQL: what works through it, and what is refused before it can do harm. */
import pino from 'pino'
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { readConfig, type Environment } from '../../src/config.ts'
import { startServer } from '../../src/server.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { hasPgbouncer, startPgbouncer } from '../support/pgbouncer.ts'
import { serve } from '../support/place.ts'
import { Following } from '../support/replica.ts'
import { expectTruth, Writer } from '../support/writer.ts'

const followings: Following[] = []

afterEach(async () => {
  await Promise.all(followings.splice(0).map((following) => following.stop()))
})

async function createWatched(): Promise<TestDatabase> {
  const database = await createDatabase()
  onTestFinished(() => database.drop())
  await database.query(`create table t (id int primary key, v int not null); select freshet.watch('t')`)
  return database
}

/** Two nodes under writers, with clients that start anew all the time: as many kinds of statements at once as there are. */
async function expectAllWell(database: TestDatabase, databaseUrl: string, environment: Environment = {}): Promise<readonly string[]> {
  const nodes = [await serve(database, { databaseUrl, environment }), await serve(database, { databaseUrl, environment })]
  followings.push(...nodes.map((node) => new Following().start(() => node.url, 't')))
  const writers = [1, 2, 3].map(() => new Writer(database))
  for (const node of nodes) {
    for (let round = 0; round < 5; round += 1) {
      const states = await Promise.all(Array.from({ length: 5 }, () => node.poll('t')))
      await Promise.all(states.map(({ version }) => node.poll('t', `?since=${version}`)))
    }
  }
  await Promise.all(writers.map((writer) => writer.stop()))
  await expectTruth(database, followings)
  for (const node of nodes) await expect.poll(async () => (await node.get('/readyz')).status, { timeout: 10_000 }).toBe(200)
  expect(followings.map(({ replica }) => replica.resets)).toEqual([1, 1])
  return nodes.flatMap(({ warnings }) => warnings)
}

/** Advisory locks that are held, and by whom. */
function locks(database: TestDatabase): Promise<readonly unknown[]> {
  return database.query(`select application_name from pg_locks join pg_stat_activity using (pid) where locktype = 'advisory' and datname = current_database()`)
}

describe.skipIf(!hasPostgres || !hasPgbouncer)('a pooler in transaction mode', () => {
  it('Harmless: is refused at the start in one sentence with its cure, and no lock or setting stays behind in its sessions', async () => {
    const database = await createWatched()
    const pooled = await startPgbouncer(database.url, 'transaction')
    const starting = startServer({ config: readConfig({ PORT: '0' }), databaseUrl: pooled, log: pino({ level: 'silent' }), vote: null })
    await expect(starting).rejects.toThrow('a transaction pooler is between this server and PostgreSQL: no lock, setting or LISTEN would stay its own; set LISTEN_URL to a direct connection, or to a pooler in session mode.')
    expect(await locks(database)).toEqual([])
  })

  it('with LISTEN_URL beside it is not used, and said so: two nodes are live and right', { timeout: 60_000 }, async () => {
    const database = await createWatched()
    const pooled = await startPgbouncer(database.url, 'transaction')
    const warnings = await expectAllWell(database, pooled, { LISTEN_URL: database.url })
    expect(warnings.filter((line) => line.includes('all connections go by LISTEN_URL'))).toHaveLength(2)
  })

  it('behind LISTEN_URL never makes a leader: it is said with the cure, readiness too, and whoever leads is followed within the safety poll', { timeout: 60_000 }, async () => {
    const database = await createWatched()
    const pooled = await startPgbouncer(database.url, 'transaction')
    const leader = await serve(database)
    const config = readConfig({ PORT: '0', RATE_LIMIT: '0', DRAIN_SECONDS: '0', LISTEN_URL: pooled })
    const warnings: string[] = []
    const deaf = await startServer({ config, databaseUrl: database.url, log: pino({ level: 'warn' }, { write: (line: string) => { warnings.push(line) } }), vote: null, safetyMs: 500 })
    onTestFinished(() => deaf.close())
    followings.push(new Following().start(() => deaf.url, 't'), new Following().start(() => leader.url, 't'))
    await expect.poll(() => warnings.some((line) => line.includes('a transaction pooler is between this server and PostgreSQL')), { timeout: 10_000 }).toBe(true)
    const writer = new Writer(database)
    await expect.poll(() => followings.every(({ replica }) => replica.rows.size > 50), { timeout: 10_000 }).toBe(true)
    await writer.stop()
    await expectTruth(database, followings)
    await leader.close()
    await expect.poll(async () => (await (await fetch(`${deaf.url}/readyz`)).json() as { checks: { clock: unknown } }).checks.clock, { timeout: 10_000 })
      .toEqual({ ok: false, detail: 'No node numbers versions yet.' })
    expect(await locks(database)).toEqual([])
  })
})

describe.skipIf(!hasPostgres || !hasPgbouncer)('a pooler in session mode', () => {
  it('is as good as none: two nodes are live and right, the listener too', { timeout: 60_000 }, async () => {
    const database = await createWatched()
    await expectAllWell(database, await startPgbouncer(database.url, 'session', 60))
  })
})
