/** The lease of service runs out under a running server, as after a night in which the machine slept and its clock went on: capture stops without a word. */
import { afterEach, describe, expect, it } from 'vitest'
import { createDatabase, type TestDatabase } from '../support/database.ts'
import { Following } from '../support/replica.ts'
import { startTestServer, type TestServer } from '../support/server.ts'
import { expectTruth } from '../support/writer.ts'

const followings: Following[] = []

afterEach(async () => {
  await Promise.all(followings.splice(0).map((following) => following.stop()))
})

async function lines(database: TestDatabase): Promise<number> {
  return (await database.query('select from freshet.changes')).length
}

/** As if it were two days later: nobody rings, and capture takes the log for abandoned. */
async function letLapse(database: TestDatabase, before: () => Promise<unknown> = () => Promise.resolve()): Promise<void> {
  await expect.poll(() => database.query(`select from freshet.state where pg_sequence_last_value('freshet.awake_until') < extract(epoch from clock_timestamp()) * 1000`)).toHaveLength(1)
  await before()
  await database.query(`select setval('freshet.abandoned_after', (extract(epoch from clock_timestamp()) * 1000)::bigint - 86400000)`)
}

async function epochOf(test: TestServer): Promise<string> {
  return (await test.poll('t')).version.split('.')[0] ?? ''
}

describe('a lease of service that has run out under a running server', () => {
  it('No loss: what was written meanwhile reaches every client, on every node, as a reset of a new epoch', { timeout: 90_000 }, async () => {
    const database = await createDatabase()
    await database.query(`create table t (id int primary key, v int not null); insert into t values (1, 1); select freshet.watch('t')`)
    const nodes = [await startTestServer({ database }), await startTestServer({ database })]
    const [leader, other] = nodes
    if (leader === undefined || other === undefined) throw new Error('there are two')
    for (const { url } of nodes) followings.push(new Following().start(() => url, 't'))
    await expectTruth(database, followings)
    const held = await leader.poll('t')
    const epoch = await epochOf(leader)

    await letLapse(database)
    const before = await lines(database)
    await database.query(`insert into t values (2, 2); update t set v = 7 where id = 1`)
    expect(await lines(database), 'nobody has captured it').toBe(before)

    await expectTruth(database, followings)
    for (const following of followings) expect(following.replica.version?.split('.')[0]).not.toBe(epoch)
    for (const node of nodes) {
      const answer = await node.poll('t', `?since=${held.version}`)
      expect([answer.reset, answer.changes.map(({ row }) => row)]).toEqual([true, expect.arrayContaining([{ id: 1, v: 7 }, { id: 2, v: 2 }])])
    }
    // And it goes on.
    await database.query(`insert into t values (3, 3)`)
    await expectTruth(database, followings)
    expect(followings.flatMap(({ faults }) => faults)).toEqual([])
  })
  it('Whole: of a transaction in whose middle it runs out no part is told', { timeout: 90_000 }, async () => {
    const database = await createDatabase()
    await database.query(`create table t (id int primary key, v int not null); select freshet.watch('t')`)
    const test = await startTestServer({ database })
    const held = await test.poll('t')
    const host = await database.connect()
    await letLapse(database, () => host.query('begin; insert into t values (1, 1)'))
    // Told as soon as there is something to tell; 503 at most, until the epoch is another.
    const asked = test.poll('t', `?since=${held.version}&wait=25`)
    await host.query('insert into t values (2, 2); commit')
    let answer = await asked
    if (!('changes' in answer)) await expect.poll(async () => { answer = await test.poll('t', `?since=${held.version}&wait=25`); return answer }, { timeout: 30_000 }).toHaveProperty('changes')
    expect([answer.reset, answer.changes.map(({ row }) => row)]).toEqual([true, [{ id: 1, v: 1 }, { id: 2, v: 2 }]])
  })
})
