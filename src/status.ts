/** How this node is: for /readyz, for the line a minute in the log, for `freshet status`. Never row data. */
import type { Clock } from './clock/clock.ts'
import { readHolder } from './clock/holder.ts'
import type { Readiness } from './contract/names.ts'
import { formatVersion } from './contract/version.ts'
import type { Listener } from './database/listener.ts'
import { pendingMigrations } from './database/migrate.ts'
import type { Pool } from './database/pool.ts'
import type { Hub } from './hub/hub.ts'
import type { StreamRegistry } from './transport/registry.ts'

export interface Node {
  readonly hub: Hub
  readonly registry: StreamRegistry
  readonly clock: Clock
  readonly listener: Listener
  readonly pool: Pool
}

type Checks = Readiness['checks']
type Check = Checks['database']

const MAX_ANSWER_MS = 2_000

export function createReadiness(node: Node): () => Promise<Readiness> {
  return async () => {
    const { hub, registry, listener } = node
    const [database, clock, migrations] = await Promise.all([checkDatabase(node), checkClock(node), checkMigrations(node)])
    const checks: Checks = {
      database, clock, migrations,
      listener: listener.isListening ? { ok: true, detail: 'Notifications arrive.' } : { ok: false, detail: 'No LISTEN connection: changes arrive late, by polling.' },
    }
    const isReady = hub.isLoaded && Object.values(checks).every(({ ok }) => ok)
    return {
      status: registry.isDraining ? 'draining' : isReady ? 'ready' : 'unready',
      version: hub.head === 0 ? null : formatVersion({ epoch: hub.epoch, number: hub.head }),
      checks,
    }
  }
}

/** Asks, but not for long: readiness is asked while things are broken. */
async function ask<T>(question: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${MAX_ANSWER_MS} ms`)), MAX_ANSWER_MS)
  })
  question.catch(() => undefined)
  return Promise.race([question, timeout]).finally(() => clearTimeout(timer))
}

async function check(question: Promise<Check>, failure: string): Promise<Check> {
  try {
    return await ask(question)
  } catch (error) {
    return { ok: false, detail: `${failure} (${error instanceof Error && 'code' in error ? String(error.code) : 'no answer'}).` }
  }
}

function checkDatabase({ pool }: Node): Promise<Check> {
  return check(pool.query('select 1').then(() => ({ ok: true, detail: 'PostgreSQL answers.' })), 'PostgreSQL does not answer')
}

function checkMigrations({ pool }: Node): Promise<Check> {
  return check(pendingMigrations(pool).then((pending) => pending.length === 0
    ? { ok: true, detail: 'The schema is up to date.' }
    : { ok: false, detail: `Not applied: ${pending.join(', ')}. Run "freshet migrate".` }), 'The schema could not be read')
}

function checkClock({ clock, hub, pool }: Node): Promise<Check> {
  if (clock.isLeading && hub.isLoaded) return Promise.resolve({ ok: true, detail: 'This node numbers versions.' })
  if (clock.isPreparing) return Promise.resolve({ ok: false, detail: 'This node is about to number its first version.' })
  return check(readHolder(pool).then((holder) => {
    if (holder !== null && !holder.isNode) return { ok: false, detail: `No node numbers versions: the lock of the clock is held by a stranger, ${holder.name}. End that session.` }
    return holder !== null && hub.isLoaded && hub.head > 0
      ? { ok: true, detail: 'Another node numbers versions.' } : { ok: false, detail: 'No node numbers versions yet.' }
  }), 'Nobody knows who numbers versions')
}

/** Bytes of the log's tables. */
export async function logSize(pool: Pool): Promise<number> {
  const { rows } = await pool.query<{ bytes: string }>(
    `select pg_total_relation_size('freshet.changes_0') + pg_total_relation_size('freshet.changes_1') as bytes`)
  return Number(rows[0]?.bytes ?? 0)
}

/** What happened since the last line: counted as it happens, taken once a minute. */
export class Tally {
  #polls = 0
  #worstLagMs = 0
  #sinceMs: number

  constructor(nowMs: number) {
    this.#sinceMs = nowMs
  }

  poll(): void {
    this.#polls += 1
  }

  /** A version came in `lagMs` after it was numbered. Two machines' clocks may differ: never below 0. */
  version(lagMs: number): void {
    this.#worstLagMs = Math.max(this.#worstLagMs, Math.round(lagMs))
  }

  take(nowMs: number): { readonly pollsPerSecond: number; readonly worstLagMs: number } {
    const seconds = Math.max(0.001, (nowMs - this.#sinceMs) / 1_000)
    const taken = { pollsPerSecond: Math.round(this.#polls / seconds * 10) / 10, worstLagMs: this.#worstLagMs }
    this.#polls = 0
    this.#worstLagMs = 0
    this.#sinceMs = nowMs
    return taken
  }
}

/** The figures of the line a minute. */
export async function describeNode({ hub, registry, clock, listener, pool }: Node, tally: Tally): Promise<Record<string, unknown>> {
  const stale = hub.staleSinceMs
  const size = hub.size
  return {
    head: hub.head, floor: hub.floor, epoch: hub.epoch,
    logBytes: await ask(logSize(pool)).catch(() => null),
    staleMs: stale === null ? 0 : Date.now() - stale,
    ...tally.take(Date.now()),
    streams: registry.size, following: size.followers,
    leader: clock.isLeading, listener: listener.isListening,
    ringVersions: size.ringVersions, ringBytes: size.ringBytes, cacheBytes: size.cacheBytes,
    rssBytes: process.memoryUsage.rss(),
  }
}
