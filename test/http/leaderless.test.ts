import pg from 'pg'
import { expect, it } from 'vitest'
import { createDatabase } from '../support/database.ts'
import { startTestServer } from '../support/server.ts'
import { openStream } from '../support/sse.ts'

it('Loud: while nobody numbers what is committed, streams and polls say so', { timeout: 40_000 }, async () => {
  const database = await createDatabase()
  await database.query(`create table t (id int primary key, v int not null); select freshet.watch('t')`)
  const test = await startTestServer({ database })
  const stream = await openStream(`${test.url}/v1/channels/t/stream`)
  await stream.delta(({ reset }) => reset)
  const { version } = await test.poll('t')
  // A frozen leader elsewhere, or a lock that a pooler has kept.
  const frozen = await database.connect()
  await frozen.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'freshet:clock' and datname = current_database();
    select pg_advisory_lock(hashtextextended('freshet.clock', 0))`)
  await database.query('insert into t values (1, 1)')
  await expect.poll(async () => (await test.get(`/v1/channels/t/changes?since=${version}`)).status, { timeout: 15_000 }).toBe(503)
  await stream.until(({ event }) => event === 'status')
  await frozen.query('select pg_advisory_unlock_all()')
  await stream.delta(({ changes }) => changes.length === 1)
})

it('Loud: a stranger who holds the lock of the clock is named by the log and by /readyz, which is 503 until they are gone', { timeout: 40_000 }, async () => {
  const database = await createDatabase()
  const test = await startTestServer({ database })
  const role = `stranger_${Math.random().toString(36).slice(2)}`
  await database.query(`create role ${role} login password 'secret'`)
  const stranger = new pg.Client({ ...urlOf(database.url, role), application_name: 'freshet:clock' })
  stranger.on('error', () => undefined)
  await stranger.connect()
  try {
    const { rows: [session] } = await stranger.query<{ pid: number }>('select pg_backend_pid() as pid')
    const locked = stranger.query(`select pg_advisory_lock(hashtextextended('freshet.clock', 0))`)
    await expect.poll(() => database.query(`select from pg_locks where locktype = 'advisory' and not granted`)).toHaveLength(1)
    await database.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'freshet:clock' and datname = current_database() and usename <> '${role}'`)
    await locked
    const holder = `process ${String(session?.pid)} (role ${role}, application "freshet:clock")`
    await expect.poll(async () => (await test.get('/readyz')).status).toBe(503)
    await expect.poll(async () => (await (await test.get('/readyz')).json() as { checks: { clock: { detail: string } } }).checks.clock.detail)
      .toBe(`No node numbers versions: the lock of the clock is held by a stranger, ${holder}. End that session.`)
    await expect.poll(() => test.warnings.filter((line) => (JSON.parse(line) as { holder?: string }).holder === holder)).toHaveLength(1)
    await database.query('select pg_terminate_backend($1)', [session?.pid])
    await expect.poll(async () => (await test.get('/readyz')).status).toBe(200)
  } finally {
    await stranger.end().catch(() => undefined)
    await database.query(`drop role ${role}`)
  }
})

function urlOf(url: string, role: string): pg.ClientConfig {
  const as = new URL(url)
  as.username = role
  as.password = 'secret'
  return { connectionString: as.href }
}
