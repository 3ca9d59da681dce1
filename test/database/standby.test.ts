/** A source and a hub on a standby, which sees the log of its primary late, and is never asked to wait for its readers. */
import { setTimeout as delay } from 'node:timers/promises'
import { beforeAll, describe, expect, it, vi } from 'vitest'
import { DatabaseSource } from '../../src/clock/source.ts'
import { turnLog } from '../../src/clock/retention.ts'
import type { StateReading, Window } from '../../src/contract/change.ts'
import { migrate } from '../../src/database/migrate.ts'
import { createPool, type Pool } from '../../src/database/pool.ts'
import { Cluster } from '../support/cluster.ts'
import { hasPostgres, openDatabase, postgresMajor, type TestDatabase } from '../support/database.ts'
import { startNode, type TestNode } from '../support/node.ts'
import { Ticker } from '../support/ticker.ts'

const KEYS = 40
const WRITERS = 4

describe.skipIf(!hasPostgres)('on a standby', () => {
  let primary: TestDatabase
  let standby: TestDatabase
  let admin: Pool
  let pool: Pool
  let source: DatabaseSource
  let truth: DatabaseSource
  let ticker: Ticker
  /** The version before the table's first rows. */
  let empty: number

  beforeAll(async () => {
    // Readers that stand in the way of what is replayed are ended at once.
    const cluster = await Cluster.start({ major: postgresMajor, settings: { max_standby_streaming_delay: '0', max_standby_archive_delay: '0' } })
    const copy = await Cluster.startStandby(cluster, cluster.url)
    primary = openDatabase(cluster.url)
    standby = openDatabase(copy.url)
    admin = createPool({ url: primary.url, max: 6, onError: () => undefined })
    pool = createPool({ url: standby.url, max: 6, onError: () => undefined })
    await migrate(admin)
    await primary.query(`create table t (id int primary key, v int not null); select freshet.watch('t')`)
    ticker = await Ticker.start(primary)
    empty = ticker.head
    await primary.query('insert into t select i, 0 from generate_series(1, $1) i', [KEYS])
    await ticker.tick()
    await replayed()
    source = new DatabaseSource(pool)
    truth = new DatabaseSource(admin)
    return async () => {
      await Promise.all([pool.end(), admin.end(), primary.drop(), standby.drop()])
      await Promise.all([copy.remove(), cluster.remove()])
    }
  })

  /** Resolves when the standby answers with so many. */
  async function waitForRows(count: number, sql: string, values: readonly unknown[] = []): Promise<void> {
    await vi.waitUntil(async () => (await standby.query(sql, values)).length === count, { timeout: 20_000, interval: 5 })
  }

  /** Resolves when the standby has what the primary has. */
  async function replayed(): Promise<void> {
    const [now] = await primary.query<{ lsn: string }>('select pg_current_wal_flush_lsn() as lsn')
    await waitForRows(1, 'select from (select pg_last_wal_replay_lsn() >= $1::pg_lsn as is_there) s where is_there', [now?.lsn])
  }

  /** As a node on the standby hears of versions. */
  async function versionAfter(number: number): Promise<number> {
    for (;;) {
      const [last] = await standby.query<{ number: string }>('select max(number) as number from freshet.versions')
      if (Number(last?.number) > number) return Number(last?.number)
      await delay(10)
    }
  }

  async function windowOf(name: string): Promise<Window> {
    const channel = (await source.readCatalog()).channels.find((candidate) => candidate.name === name)
    if (channel === undefined) throw new Error(`no channel ${name}`)
    return { channel, filters: new Map() }
  }

  async function rowsOf(reading: StateReading, window: Window): Promise<readonly string[]> {
    const rows = new Map<string, string>()
    for await (const batch of reading.rows(window)) for (const [key, row] of batch) rows.set(key, row)
    for (const [key, { newRow }] of reading.later.get(window.channel.table.id) ?? []) {
      if (newRow === null) rows.delete(key)
      else rows.set(key, newRow)
    }
    await reading.close()
    return [...rows.values()].sort()
  }

  /** The rows at a version, by the log of the primary alone. */
  async function rowsAt(version: number, tableId: number): Promise<readonly string[]> {
    const rows: string[] = []
    for await (const changes of truth.readChanges({ since: empty, version, tableId, isFiltered: false })) rows.push(...changes.flatMap(({ newRow }) => newRow ?? []))
    return rows.sort()
  }

  it('Whole: every state is the one of its version, whatever transactions were open when it was read and are in that version', { timeout: 120_000 }, async () => {
    const window = await windowOf('t')
    const random = seeded(7)
    const writers = await Promise.all(Array.from({ length: WRITERS }, () => primary.connect()))
    const open = new Set<number>()
    const write = async (writer: number): Promise<void> => {
      if (!open.has(writer)) await writers[writer]?.query('begin')
      open.add(writer)
      // Each has keys of its own, so that none waits for another.
      const id = 1 + writer + WRITERS * Math.floor(random() * KEYS / WRITERS)
      const statement = random() < 0.2 ? `delete from t where id = ${id}` : `insert into t values (${id}, 1) on conflict (id) do update set v = t.v + 1`
      await writers[writer]?.query(random() < 0.5 ? statement : `savepoint s; ${statement}; release savepoint s; savepoint s; update t set v = -1 where id = ${id}; rollback to savepoint s`)
    }
    const end = async (writer: number): Promise<void> => {
      if (open.delete(writer)) await writers[writer]?.query(random() < 0.9 ? 'commit' : 'rollback')
    }
    const torn: string[] = []
    let waited = 0
    for (let round = 0; round < 30; round += 1) {
      for (let writer = 0; writer < WRITERS; writer += 1) if (random() < 0.6) await write(writer)
      await end(Math.floor(random() * WRITERS))
      await replayed()
      const before = ticker.head
      const opening = Promise.all([1, 2].map(() => source.openState([window], versionAfter)))
      // Both have their snapshot.
      await waitForRows(2, `select from pg_stat_activity where application_name = 'freshet:pool' and state = 'idle in transaction'`)
      for (let writer = 0; writer < WRITERS; writer += 1) if (random() < 0.5) await end(writer)
      if (random() < 0.7) await write(Math.floor(random() * WRITERS))
      await ticker.tick()
      for (const reading of await opening) {
        const { version } = reading
        if (version > before) waited += 1
        if (String(await rowsOf(reading, window)) !== String(await rowsAt(version, window.channel.table.id))) torn.push(`round ${round}, version ${version}`)
      }
    }
    for (const writer of open) await writers[writer]?.query('commit')
    expect(torn).toEqual([])
    expect(waited).toBeGreaterThan(15)
  })

  it('asks again where a turn of the log has ended its reading, and is not ended by one while it reads rows', async () => {
    await ticker.tick()
    await replayed()
    const node = standbyNode()
    await node.catchUp()
    const window = await node.hub.window('t', new Map())
    // Larger than what is carried along, so that it is read from the log.
    const since = ticker.head
    await primary.query(`insert into t select i, 0 from generate_series(1000, 7000) i`)
    await ticker.tick()
    await replayed()
    await node.catchUp()
    const reading = vi.spyOn(node.source, 'readRuns')
    const read = reading.getMockImplementation() ?? DatabaseSource.prototype.readRuns.bind(node.source)
    reading.mockImplementationOnce(async function* (range) {
      let isFirst = true
      for await (const run of read(range)) {
        yield run
        if (isFirst) await turn()
        isFirst = false
      }
    })
    expect(await node.hub.answer([window], { epoch: node.hub.epoch, number: since })).toMatchObject({ since, version: ticker.head })
    expect(reading).toHaveBeenCalledTimes(2)
    expect(await conflicts()).toBeGreaterThan(0)

    const before = await conflicts()
    const state = await source.openState([window], versionAfter)
    await turn()
    const rows = await primary.query<{ row: string }>('select row_to_json(t)::text as row from t')
    expect(await rowsOf(state, window)).toEqual(rows.map(({ row }) => row).sort())
    expect(await conflicts()).toBe(before)
  })

  /** The log's other table is emptied, and that is replayed. */
  async function turn(): Promise<void> {
    expect(await turnLog({ pool: admin, keepMs: -1, maxBytes: 1e9 })).toBe(true)
    await replayed()
  }

  /** Readings that were ended, as the standby counts them; it does once they are gone. */
  async function conflicts(): Promise<number> {
    const [row] = await standby.query<{ count: string }>('select pg_stat_clear_snapshot(), confl_lock + confl_snapshot as count from pg_stat_database_conflicts where datname = current_database()')
    return Number(row?.count)
  }

  it('Ordered: waits for a version above all that it knows, then says that it has not got it, of this epoch or a new one; what it cannot have is a reset', { timeout: 60_000 }, async () => {
    const node = standbyNode()
    await node.catchUp()
    const window = await node.hub.window('t', new Map())
    const ask = (epoch: string, number: number): Promise<unknown> => node.hub.answer([window], { epoch, number }).catch((error: unknown) => error)
    const { epoch, head } = node.hub
    await standby.query('select pg_wal_replay_pause()')
    await vi.waitUntil(async () => (await standby.query(`select from (select pg_get_wal_replay_pause_state() as s) p where s = 'paused'`)).length === 1)
    await primary.query('update t set v = v + 1 where id = 1')
    const next = await ticker.tick()
    expect(await ask(epoch, next?.number ?? 0)).toMatchObject({ code: 'database_unreachable' })
    // Of a node that began a new epoch now, and of one that did before the newest commit that is here.
    expect(await ask('other', (Date.now() + 1_000) * 1_000)).toMatchObject({ code: 'database_unreachable' })
    expect(await ask('other', (Date.now() - 3_600_000) * 1_000)).toMatchObject({ since: null })
    // No number of ours: the ticker counts from 1,000.
    expect(await ask(epoch, 10)).toMatchObject({ since: null, version: head })

    const waiting = ask(epoch, next?.number ?? 0)
    await standby.query('select pg_wal_replay_resume()')
    await replayed()
    await node.catchUp()
    expect(await waiting).toEqual({ kind: 'unchanged' })
  })

  /** A node that is told of nothing: it learns of versions when a test says so. */
  function standbyNode(): TestNode {
    return startNode(standby, { neverLeads: true, isDeaf: true })
  }
})

/** The same numbers each time, from 0 to 1. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
    return state / 2_147_483_648
  }
}
