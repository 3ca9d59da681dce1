import { spawn } from 'node:child_process'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { startProxy } from '../support/proxy.ts'
import { delayOf, startLeader, startNode, tableIdOf, type TestNode } from '../support/node.ts'
import type { LoggedVersion } from '../../src/contract/change.ts'
import { byOrder } from '../../src/hub/fold.ts'

const LEAP = 2 ** 16

/** Backends that hold the clock's lock. */
const LEADERS = `
select pg_stat_activity.pid from pg_locks join pg_stat_activity using (pid)
where locktype = 'advisory' and granted and application_name = 'freshet:clock' and datname = current_database()`

async function watched(): Promise<{ database: TestDatabase; tableId: number }> {
  const database = await createDatabase()
  await database.query('create table t (id int primary key, v int not null); create table wide (id int primary key, v text)')
  await database.query(`select freshet.watch('t'); select freshet.watch('wide')`)
  return { database, tableId: await tableIdOf(database, 't') }
}

/** Every change in the versions, once: what the log holds. */
async function expectEverythingNumberedOnce(database: TestDatabase, node: TestNode): Promise<void> {
  await expect.poll(async () => {
    const [row] = await database.query<{ unnumbered: boolean }>(`
      select exists (select from freshet.changes where not pg_visible_in_snapshot(xid, (select snapshot from freshet.versions order by number desc limit 1))) as unnumbered`)
    return row?.unnumbered
  }).toBe(false)
  await expect.poll(() => node.hub.head).toBe(Number((await database.query<{ head: string }>('select max(number) as head from freshet.versions'))[0]?.head))
  // Without what watch() wrote, which a node may have found there when it started.
  const lines = node.versions.flatMap(({ changes }) => (changes ?? []).filter(({ key }) => key !== null)).sort(byOrder)
  const logged = await database.query<{ key: string; row: string | null }>('select key, new_row as row from freshet.changes where key is not null order by lsn, xid, key')
  expect(lines.map(({ key, newRow }) => ({ key, row: newRow }))).toEqual(logged)
}

function expectGrowing(node: TestNode): void {
  const numbers = node.versions.map(({ number }) => number)
  expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b))
}

describe.skipIf(!hasPostgres)('the clock', () => {
  let database: TestDatabase
  let tableId: number
  let node: TestNode

  beforeAll(async () => {
    ({ database, tableId } = await watched())
    // Nothing here waits for the safety poll.
    node = await startLeader(database, { safetyMs: 60_000 })
  })

  it('Whole, No ghost: numbers each transaction in one version, whenever it commits, and nothing that was rolled back', async () => {
    const writers = Array.from({ length: 8 }, async (_, writer) => {
      const client = await database.connect()
      for (let round = 0; round < 15; round += 1) {
        const base = (writer * 15 + round) * 10
        await client.query('begin')
        await client.query('insert into t values ($1, 0), ($2, 0)', [base, base + 1])
        await client.query('savepoint s; insert into t values (-1, 0); rollback to s')
        await client.query('select pg_sleep($1)', [((writer + round) % 5) / 100])
        await client.query('update t set v = $2 where id = $1', [base, round])
        await client.query((writer + round) % 3 === 0 ? 'rollback' : 'commit')
      }
    })
    await Promise.all(writers)
    await expectEverythingNumberedOnce(database, node)
    expectGrowing(node)
    const transactions = await database.query<{ orders: string[] }>(`select array_agg(distinct ((lsn - '0/0') * 18446744073709551616 + xid::text::numeric)::text) as orders from freshet.changes group by xid`)
    const versionOf = new Map(node.versions.flatMap(({ number, changes }) => (changes ?? []).map(({ order }) => [order, number] as const)))
    for (const { orders } of transactions) expect(new Set(orders.map((order) => versionOf.get(BigInt(order)))).size).toBe(1)
    for (const { changes } of node.versions) expect(changes).toEqual([...changes ?? []].sort(byOrder))
    expect(node.versions.some(({ changes }) => changes?.some(({ key }) => key === '{"id":-1}'))).toBe(false)
  })

  it('Independent: numbers others at once while a transaction stays open, and that one as soon as it commits', async () => {
    const open = await database.connect()
    await open.query('begin; insert into t values (5001, 0)')
    for (let id = 5_002; id < 5_006; id += 1) {
      await delayOf(node, tableId, () => database.query('insert into t values ($1, 0)', [id]))
    }
    await delayOf(node, tableId, () => open.query('commit'))
    expect(node.versions.at(-1)?.changes?.map(({ key }) => key)).toEqual(['{"id":5001}'])
  })

  it('numbers each of many open transactions once', async () => {
    const clients = await Promise.all(Array.from({ length: 40 }, () => database.connect()))
    await Promise.all(clients.map((client, index) => client.query(`begin; insert into t values (${6_000 + index}, 0)`)))
    // In another order than they began.
    for (const client of clients.filter((_, index) => index % 3 === 0)) await client.query('commit')
    for (const client of clients.filter((_, index) => index % 3 === 1)) await client.query('rollback')
    for (const client of clients.filter((_, index) => index % 3 === 2)) await client.query('commit')
    await expectEverythingNumberedOnce(database, node)
  })

  it('Bounded: carries small versions along, and leaves those with too many changes or bytes in the log', async () => {
    await delayOf(node, tableId, () => database.query('insert into t select i, 0 from generate_series(10001, 15000) i'))
    expect(node.versions.at(-1)?.changes).toHaveLength(5_000)
    await delayOf(node, tableId, () => database.query('insert into t select i, 0 from generate_series(20001, 25001) i'))
    expect(node.versions.at(-1)).toMatchObject({ changes: null, touched: [tableId], reset: [] })
    const wide = await tableIdOf(database, 'wide')
    await delayOf(node, wide, () => database.query(`insert into wide values (1, repeat('x', 5000000))`))
    expect(node.versions.at(-1)).toMatchObject({ changes: null, touched: [wide] })
  })

  it('names the tables that start anew', async () => {
    await delayOf(node, tableId, () => database.query('truncate t'))
    expect(node.versions.at(-1)).toMatchObject({ touched: [tableId], reset: [tableId] })
  })
})

describe.skipIf(!hasPostgres)('the bell', () => {
  async function isAwake(database: TestDatabase): Promise<boolean> {
    const [row] = await database.query<{ awake: boolean }>(`select pg_sequence_last_value('freshet.awake_until') > extract(epoch from clock_timestamp()) * 1000 as awake`)
    return row?.awake === true
  }

  let newest = 1_000

  /** Writers side by side, so that some ring while what others rang for is being read. */
  async function writeDensely(database: TestDatabase, isEnough: () => boolean | Promise<boolean>): Promise<void> {
    while (!await isEnough()) await Promise.all(Array.from({ length: 6 }, () => database.query('insert into t values ($1, 0)', [newest++])))
  }

  it('wakes a sleeping clock, so that no change waits for the safety poll, also one whose writer saw the clock awake', async () => {
    const { database, tableId } = await watched()
    const node = await startLeader(database, { safetyMs: 60_000 })
    await expect.poll(() => isAwake(database)).toBe(false)
    await delayOf(node, tableId, () => database.query('insert into t values (1, 0)'))
    // Writers until the clock has taken the lease; then one more, which will not ring.
    await writeDensely(database, () => isAwake(database))
    const relying = await database.connect()
    const notices: string[] = []
    const hearing = await database.connect()
    hearing.on('notification', ({ payload }) => notices.push(payload ?? ''))
    await hearing.query('listen freshet')
    await writeDensely(database, () => isAwake(database))
    await relying.query('begin; insert into t values (0, 0)')
    await expect.poll(() => isAwake(database)).toBe(false)
    await delayOf(node, tableId, () => relying.query('commit'))
    await hearing.query('select 1')
    expect(notices.at(-1)).toBe('version')
  })

  it('is heard also where the clock of the machine goes back after it was needed last', async () => {
    const { database } = await watched()
    await startLeader(database, { safetyMs: 60_000 })
    await expect.poll(() => isAwake(database)).toBe(false)
    expect(await database.query(`select pg_sequence_last_value('freshet.awake_until')::int as lease`)).toEqual([{ lease: 1 }])
  })

  it('is not needed: without it a change is numbered within the safety poll', async () => {
    const { database, tableId } = await watched()
    const node = await startLeader(database, { safetyMs: 300, isDeaf: true })
    await delayOf(node, tableId, () => database.query('insert into t values (1, 0)'))
  })

  it('is not needed either while changes come densely: the clock finds that it is not rung for, and looks by itself', async () => {
    const { database } = await watched()
    const node = await startLeader(database, { safetyMs: 3_000, isDeaf: true })
    await expect.poll(() => isAwake(database)).toBe(false)
    await writeDensely(database, () => node.versions.length > 20)
  })

  it('Harmless: is not there with wake = poll, so that a writer may PREPARE TRANSACTION, and the clock looks by itself', async () => {
    const { database, tableId } = await watched()
    await database.query(`select freshet.configure('wake', 'poll')`)
    const node = await startLeader(database, { safetyMs: 60_000, isDeaf: true })
    node.clock.polls = true
    node.clock.ring()
    const client = await database.connect()
    await client.query(`begin; insert into t values (1, 0); prepare transaction 'later'`)
    await delayOf(node, tableId, () => database.query('insert into t values (2, 0)'))
    await delayOf(node, tableId, () => client.query(`commit prepared 'later'`))
    expect(node.versions.at(-1)?.changes?.map(({ key }) => key)).toEqual(['{"id":1}'])
  })
})

describe.skipIf(!hasPostgres)('leadership', () => {
  it('Independent: begins while a transaction is open that began before', async () => {
    const { database, tableId } = await watched()
    const open = await database.connect()
    await open.query('begin; insert into t values (1, 0)')
    const node = await startLeader(database)
    await delayOf(node, tableId, () => open.query('commit'))
  })

  it('No loss, Ordered: is one node’s at a time, passes to another when its connection is cut, and each leader leaps', { timeout: 60_000 }, async () => {
    const { database } = await watched()
    const nodes = [startNode(database), startNode(database), startNode(database)]
    await expect.poll(() => nodes.filter(({ clock }) => clock.isLeading).length).toBe(1)
    // What was written before a node has loaded is no version of its.
    await expect.poll(() => nodes.every(({ hub }) => hub.isLoaded)).toBe(true)
    const leaps = (): LoggedVersion[] => nodes.flatMap(({ minted }) => minted).filter(({ leaptFrom }) => leaptFrom !== null)
    const life = { isOver: false }
    const writing = (async () => {
      for (let id = 1; !life.isOver; id += 1) await database.query('insert into t values ($1, 0)', [id])
    })()
    const failovers: number[] = []
    for (let round = 0; round < 5; round += 1) {
      const [leader] = await database.query<{ pid: number }>(LEADERS)
      const startedMs = performance.now()
      await database.query('select pg_terminate_backend($1)', [leader?.pid])
      await expect.poll(async () => {
        const now = await database.query<{ pid: number }>(LEADERS)
        return now.length === 1 && now[0]?.pid !== leader?.pid
      }, { interval: 10 }).toBe(true)
      failovers.push(performance.now() - startedMs)
      // Until the new one has begun: the one before it may not know yet that it leads no longer.
      await expect.poll(() => leaps().length).toBeGreaterThanOrEqual(round + 2)
    }
    life.isOver = true
    await writing
    for (const node of nodes) {
      await expectEverythingNumberedOnce(database, node)
      expectGrowing(node)
      // What it follows is what the leaders had, from the first version that both were there for.
      const both = Math.max(node.versions[0]?.number ?? 0, nodes[0]?.versions[0]?.number ?? 0)
      expect(node.versions.filter(({ number }) => number >= both)).toEqual(nodes[0]?.versions.filter(({ number }) => number >= both))
    }
    for (const { number, leaptFrom } of leaps()) expect(number - (leaptFrom ?? 0)).toBeGreaterThanOrEqual(LEAP)
    console.log(`failover: ${failovers.map((ms) => `${Math.round(ms)} ms`).join(', ')}`)
    await Promise.all(nodes.map((node) => node.close()))
  })

  it('Up: outlives the end of every connection, again and again, and loses nothing', async () => {
    const { database } = await watched()
    const node = await startLeader(database)
    for (let round = 0; round < 3; round += 1) {
      await database.query('insert into t values ($1, 0)', [round])
      await database.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'freshet:%' and datname = current_database()`)
      await database.query('insert into t values ($1, 0)', [100 + round])
      await expect.poll(() => node.clock.isLeading, { interval: 10 }).toBe(true)
    }
    // The pool may still hand out a connection that has been ended.
    await expect.poll(() => node.catchUp().then(() => true, () => false)).toBe(true)
    await expectEverythingNumberedOnce(database, node)
    // The cause is told (the network may lose PostgreSQL's last words), not that a query was refused after it.
    const causes = /^terminating connection due to administrator command$|^Connection terminated unexpectedly$|^(read ECONNRESET|write EPIPE)$/
    expect(node.errors.map(({ message }) => message).filter((message) => !causes.test(message))).toEqual([])
  })

  it('leaves a process that hangs, and does not come back to it as long as another has it', async () => {
    const { database } = await watched()
    const child = spawn(process.execPath, ['--import', 'tsx', 'test/support/frozen-clock.ts', database.url, '1000'], { stdio: ['ignore', 'pipe', 'inherit'] })
    onTestFinished(() => { child.kill('SIGKILL') })
    const said: string[] = []
    child.stdout.on('data', (text: Buffer) => said.push(...text.toString().trim().split('\n')))
    await expect.poll(() => said).toEqual(['leads'])
    const node = startNode(database)
    child.kill('SIGSTOP')
    const startedMs = performance.now()
    await expect.poll(() => node.clock.isLeading, { interval: 10 }).toBe(true)
    const tookMs = performance.now() - startedMs
    expect(tookMs).toBeGreaterThan(200)
    console.log(`a hung leader with idle_session_timeout 1 s was replaced after ${Math.round(tookMs)} ms`)
    child.kill('SIGCONT')
    await expect.poll(() => said).toEqual(['leads', 'lost'])
    expect(node.clock.isLeading).toBe(true)
    const newest = node.minted[0]?.number ?? Infinity
    await database.query('insert into t values (1, 0)')
    await expectEverythingNumberedOnce(database, node)
    const [row] = await database.query<{ later: string }>('select count(*) as later from freshet.versions where number > $1', [newest])
    expect(Number(row?.later)).toBe(node.minted.length - 1)
  })

  it('No loss: passes when the network of the leader goes dead, which then follows the other', async () => {
    const { database, tableId } = await watched()
    const proxy = await startProxy(database.url)
    const cut = await startLeader(database, { url: proxy.url, idleMs: 500, queryTimeoutMs: 500, retryLockMs: 100 })
    const other = startNode(database, { retryLockMs: 100 })
    proxy.silence()
    const startedMs = performance.now()
    await expect.poll(() => other.clock.isLeading, { interval: 10 }).toBe(true)
    console.log(`a leader behind a dead network, with idle_session_timeout 0.5 s, was replaced after ${Math.round(performance.now() - startedMs)} ms`)
    await delayOf(other, tableId, () => database.query('insert into t values (1, 0)'))
    await expect.poll(() => cut.clock.isLeading).toBe(false)
    proxy.mend()
    await cut.catchUp().catch(() => cut.catchUp())
    await expectEverythingNumberedOnce(database, other)
    expect(cut.versions.at(-1)).toEqual(other.versions.at(-1))
  })

  it('outlives a version that takes longer to number than an answer is awaited', async () => {
    const { database, tableId } = await watched()
    await database.query(`
      create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(case when new.changes > 5000 then 1.5 else 0 end); return new; end $$;
      create trigger slow before insert on freshet.versions for each row execute function slow()`)
    const node = await startLeader(database, { queryTimeoutMs: 500 })
    await database.query('insert into t select i, 0 from generate_series(1, 5001) i')
    await expect.poll(() => node.errors.map(({ message }) => message)).toContain('Query read timeout')
    await database.query('insert into t values (0, 0)')
    await expect.poll(() => node.clock.isLeading && node.versions.some(({ changes }) => changes?.some(({ key }) => key === '{"id":0}'))).toBe(true)
    expect(node.versions.filter(({ changes, touched }) => changes === null && touched.includes(tableId))).toHaveLength(1)
    expectGrowing(node)
  })
})
