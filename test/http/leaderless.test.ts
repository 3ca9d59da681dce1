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
