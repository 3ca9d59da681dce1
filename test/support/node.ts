/** Clocks and nodes for tests of them: as the server ties them, without HTTP, with what happens noted. */
import { vi } from 'vitest'
import { Clock, type ClockOptions } from '../../src/clock/clock.ts'
import { Follower } from '../../src/clock/follower.ts'
import { DatabaseSource } from '../../src/clock/source.ts'
import type { LoggedVersion } from '../../src/contract/change.ts'
import { Listener } from '../../src/database/listener.ts'
import { createPool, type Pool } from '../../src/database/pool.ts'
import { Hub } from '../../src/hub/hub.ts'
import type { TestDatabase } from './database.ts'
import { closeAtEnd } from './cleanup.ts'

export interface TestNode {
  readonly clock: Clock
  readonly hub: Hub
  readonly pool: Pool
  readonly source: DatabaseSource
  /** Everything handed to the hub, by clock or follower, and by its own clock alone. */
  readonly versions: readonly LoggedVersion[]
  readonly minted: readonly LoggedVersion[]
  readonly errors: readonly Error[]
  /** Follows what others have numbered. */
  catchUp(): Promise<void>
  close(): Promise<void>
}

export type NodeOptions = Partial<Pick<ClockOptions, 'url' | 'safetyMs' | 'retryLockMs' | 'idleMs' | 'queryTimeoutMs'>> & {
  readonly isDeaf?: boolean
  readonly neverLeads?: boolean
  readonly poolMax?: number
}

/** A node that does not lead yet. `isDeaf`: no bell reaches it, and no notice of versions. `neverLeads`: it has no clock. `url`: the clock's way to the database. */
export function startNode(database: TestDatabase, { isDeaf = false, neverLeads = false, poolMax = 8, ...options }: NodeOptions = {}): TestNode {
  const errors: Error[] = []
  const onError = (error: Error): void => { errors.push(error) }
  const versions: LoggedVersion[] = []
  const minted: LoggedVersion[] = []
  const pool = createPool({ url: database.url, max: poolMax, onError: () => undefined })
  const source = new DatabaseSource(pool)
  const hub = new Hub({ source, onError })
  const deliver = (version: LoggedVersion): void => {
    if (version.number > hub.arriving) versions.push(version)
    hub.accept(version)
  }
  const follower = new Follower({ pool, head: () => hub.arriving, epoch: () => hub.epoch, onVersion: deliver, onContact: () => hub.freshness.contact(), onRupture: () => hub.load() })
  const catchUp = (): Promise<void> => follower.catchUp()
  const clock = new Clock({
    url: database.url, onRead: () => undefined, beforeLeading: catchUp, onLeading: () => undefined, onError,
    onVersion: (version) => { minted.push(version); deliver(version) }, ...options,
  })
  const follow = (): void => { void catchUp().catch(() => undefined) }
  const listener = new Listener({
    url: database.url,
    onConnected: () => { clock.ring(); follow() },
    onNotification: (payload) => {
      if (payload === 'bell') clock.ring()
      else if (payload === 'version' && !clock.isLeading) follow()
    },
    onDown: () => undefined,
  })
  if (!neverLeads) clock.start()
  if (!isDeaf) listener.start()
  let closing: Promise<void> | undefined
  const close = (): Promise<void> => closing ??= (async () => {
    await Promise.all([clock.close(), listener.close()])
    hub.close()
    await pool.end()
  })()
  closeAtEnd(close)
  return { clock, hub, pool, source, versions, minted, errors, catchUp, close }
}

/** A node, once it leads. */
export async function startLeader(database: TestDatabase, options: NodeOptions = {}): Promise<TestNode> {
  const node = startNode(database, options)
  await vi.waitUntil(() => node.clock.isLeading, { interval: 10, timeout: 30_000 })
  return node
}

/** Resolves when the node has delivered a version that touched the table after `work`, to how long that took from its end. */
export async function delayOf(node: TestNode, tableId: number, work: () => Promise<unknown>): Promise<number> {
  const before = node.versions.length
  await work()
  const startedMs = performance.now()
  await vi.waitUntil(() => node.versions.slice(before).some(({ touched }) => touched.includes(tableId)), { interval: 5, timeout: 30_000 })
  return performance.now() - startedMs
}

/** The id of a watched table. */
export async function tableIdOf(database: TestDatabase, relation: string): Promise<number> {
  const [row] = await database.query<{ id: number }>('select id from freshet.tables where relation = $1::regclass', [relation])
  return row?.id ?? 0
}
