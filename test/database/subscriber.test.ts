/** A subscriber of logical replication whose tables are watched: nobody writes there but the one who applies. */
import { describe, expect, it, onTestFinished } from 'vitest'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { startLeader } from '../support/node.ts'
import { expectReplayEqualsTable } from '../support/replay.ts'

const TABLE = 'create table public.t (id int primary key, v int not null)'

/** Resolves when the subscriber applies what the publisher commits. In one cluster the slot must be made beforehand. */
async function subscribe(publisher: TestDatabase, subscriber: TestDatabase): Promise<void> {
  const slot = `freshet_${Math.random().toString(36).slice(2)}`
  const { hostname, port, username, password, pathname } = new URL(publisher.url)
  await publisher.query(`${TABLE}; create publication everything for all tables`)
  await publisher.query(`select pg_create_logical_replication_slot('${slot}', 'pgoutput')`)
  await subscriber.query(`create subscription s connection 'host=${hostname} port=${port} user=${username} password=${password} dbname=${pathname.slice(1)}'
    publication everything with (slot_name = '${slot}', create_slot = false, copy_data = false)`)
  onTestFinished(async () => {
    await subscriber.query('alter subscription s disable')
    await subscriber.query('alter subscription s set (slot_name = none)')
    await subscriber.query('drop subscription s')
    await expect.poll(() => publisher.query(`select pg_drop_replication_slot('${slot}')`).then(() => true, () => false), { timeout: 30_000 }).toBe(true)
  })
}

describe.skipIf(!hasPostgres)('a subscriber', () => {
  it('No loss, Whole: rings for what it applies, one version for each transaction that it applies alone, and ends equal to its publisher', { timeout: 60_000 }, async () => {
    const [publisher, subscriber] = [await createDatabase({ migrated: false }), await createDatabase()]
    await subscriber.query(`${TABLE}; select freshet.watch('public.t')`)
    await subscribe(publisher, subscriber)
    // The safety poll is far away: whatever arrives has been rung for.
    const node = await startLeader(subscriber, { safetyMs: 120_000 })
    for (let round = 1; round <= 5; round += 1) {
      const before = node.minted.length
      await publisher.query(`begin; insert into t select n, 0 from generate_series(${round * 100}, ${round * 100 + 9}) n; update t set v = v + 1; delete from t where id % 100 = 3; commit`)
      await expect.poll(() => node.minted.length, { timeout: 30_000 }).toBe(before + 1)
      await expectReplayEqualsTable(subscriber, 'public.t')
    }
    await publisher.query('truncate t; insert into t values (1, 1)')
    await expect.poll(() => node.minted.at(-1)?.reset.length, { timeout: 30_000 }).toBe(1)
    await expectReplayEqualsTable(subscriber, 'public.t')
    expect(await subscriber.query('select * from t')).toEqual(await publisher.query('select * from t'))
  })
})
