import { expect, it } from 'vitest'
import { createDatabase } from '../support/database.ts'
import { startProxy } from '../support/proxy.ts'
import { startTestServer } from '../support/server.ts'

it('Up: a follower whose connection to PostgreSQL went half-open while it read follows again once new ones can be had', { timeout: 120_000 }, async () => {
  const database = await createDatabase()
  await database.query(`create table t (id int primary key, v int not null); select freshet.watch('t')`)
  await startTestServer({ database })
  const proxy = await startProxy(database.url)
  const follower = await startTestServer({ database, databaseUrl: proxy.url })
  const { version } = await follower.poll('t')
  // Whatever is sent from here on is swallowed, and what lost it stays dead; connections made after mend() work.
  proxy.silence()
  const ask = async (): Promise<number> => (await fetch(`${follower.url}/v1/channels/t/changes?since=${version}`, { signal: AbortSignal.timeout(2_000) }).catch(() => null))?.status ?? 0
  await expect.poll(ask, { timeout: 20_000 }).toBe(503)
  proxy.mend()
  await database.query('insert into t values (1, 1)')
  const startedMs = performance.now()
  await expect.poll(async () => {
    const answer = await fetch(`${follower.url}/v1/channels/t/changes?since=${version}`, { signal: AbortSignal.timeout(2_000) }).catch(() => null)
    return answer?.status === 200 ? (await answer.json() as { changes: unknown[] }).changes.length : answer?.status ?? 0
  }, { timeout: 90_000, interval: 500 }).toBe(1)
  console.log(`followed again ${Math.round(performance.now() - startedMs)} ms after the network came back`)
})
