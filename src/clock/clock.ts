/**
 * The clock: on one node of all, numbers snapshots. Every node runs one; whoever holds the advisory lock leads.
 * Promise: only the connection that holds the lock inserts versions; a change is numbered once; a new leader leaps, so
 * that a number lost in a crash is never issued twice. When the connection dies, so does the leadership, and it tries again.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { LoggedVersion } from '../contract/change.ts'
import { connect, type Connection } from '../database/pool.ts'
import { StartupError } from '../errors.ts'
import { Bell, LEASE_MS } from './bell.ts'
import { CLOCK_KEY, readHolder } from './holder.ts'
import { resumeCapture, renewIdentity } from './identity.ts'
import { LAST_VERSION, mint, parseSnapshot, SEES_NOTHING, type SnapshotBounds } from './log.ts'
import { Trust } from './trust.ts'

const LOCK = `select pg_try_advisory_lock(${CLOCK_KEY}) as won`
/** Between two looks at who has it, ms: the table of all locks is not for every try. */
const LOOK_EVERY_MS = 5_000
/** Lost numbers are at most what one leader minted between two flushes of the WAL: far fewer than this. */
const LEAP = 2 ** 16

/** Between two tries to connect, give or take a half: a node asks no oftener, and everybody waits for the first that succeeds. */
const MOST_BACKOFF_MS = 1_000

export interface ClockOptions {
  readonly url: string
  /** Called in order, on the leader only, before anybody else can know of the version. */
  readonly onVersion: (version: LoggedVersion) => void
  /** After each read of the log: the database answers. */
  readonly onRead: () => void
  /** Awaited before the first version of a leadership: what this node still has to read as a follower. */
  readonly beforeLeading: () => Promise<void>
  readonly onLeading: (isLeading: boolean, cause?: Error) => void
  /** Somebody who is no node holds the lock, so that no node can lead: said once for each. */
  readonly onStranger?: (holder: string) => void
  readonly onError: (error: Error) => void
  /** The longest time between two readings. Default 2 s. */
  readonly safetyMs?: number
  /** How often a follower tries to become the leader. Default 400 ms. */
  readonly retryLockMs?: number
  /** After how long a silence PostgreSQL drops this node, and with it the lock. Default three times `safetyMs`, and a second. */
  readonly idleMs?: number
  /** How long an answer of PostgreSQL is awaited before the connection is given up. Default 10 s. */
  readonly queryTimeoutMs?: number
}

export class Clock {
  readonly #options: ClockOptions
  readonly #safetyMs: number
  #isClosed = false
  #isLeading = false
  #holdsLock = false
  #ring: (() => void) | undefined
  #wasRung = false
  #running: Promise<void> | undefined
  #polls = false
  #looksAfterMs = -Infinity
  #stranger: string | null = null
  #resignation: Error | undefined

  constructor(options: ClockOptions) {
    this.#options = options
    this.#safetyMs = options.safetyMs ?? 2_000
  }

  get isLeading(): boolean {
    return this.#isLeading
  }

  /** This node has the lock and has not numbered anything yet: until it has, what it holds may be of another epoch. */
  get isPreparing(): boolean {
    return this.#holdsLock && !this.#isLeading
  }

  start(): void {
    this.#running ??= this.#run()
  }

  /** Somebody wrote. Shortens the current wait, or makes the next one nothing. */
  ring(): void {
    this.#wasRung = true
    this.#ring?.()
  }

  /** Leads no longer, for this reason, and tries for the lock again: whoever gets it first looks whether the epoch is still true. */
  resign(reason: Error): void {
    if (!this.#holdsLock) return
    this.#resignation = reason
    this.ring()
  }

  /** Whether writers never ring (`wake = poll`), so that the clock must look by itself. */
  set polls(polls: boolean) {
    this.#polls = polls
  }

  async close(): Promise<void> {
    this.#isClosed = true
    this.ring()
    await this.#running
  }

  async #run(): Promise<void> {
    let failures = 0
    const onHealthy = (): void => { failures = 0 }
    while (!this.#closing()) {
      try {
        await this.#session(onHealthy)
      } catch (error) {
        failures += 1
        this.#options.onError(error instanceof Error ? error : new Error(String(error)))
        await this.#wait(Math.min(MOST_BACKOFF_MS, 100 * 2 ** failures) * (0.5 + Math.random()))
      }
    }
  }

  /** One connection: follows until it wins the lock, then leads until it breaks. */
  async #session(onHealthy: () => void): Promise<void> {
    const { url, retryLockMs = 400, idleMs = this.#safetyMs * 3 + 1_000, queryTimeoutMs = 10_000 } = this.#options
    let broken: Error | undefined
    const connection = await connect(url, 'clock', (error) => { broken ??= error; this.ring() }, queryTimeoutMs)
    try {
      // A frozen leader loses its connection, and with it the lock, to the server's patience. But what the server has begun it may
      // finish, also when we no longer wait: numbering a huge transaction takes longer than noticing a dead network should.
      await connection.query(`set idle_session_timeout = ${idleMs}; set statement_timeout = 0; set client_connection_check_interval = 0`)
      await assertPrimary(connection)
      // Tries, never waits: a waiter would hold back the host's CREATE INDEX CONCURRENTLY.
      while (!this.#closing() && !await this.#tryLock(connection)) {
        onHealthy()
        await delay(retryLockMs, undefined, { ref: false })
      }
      this.#resignation = undefined
      this.#holdsLock = true
      if (!this.#closing()) await this.#lead(connection, onHealthy)
    } catch (error) {
      // What broke the connection says more than what was refused on it afterwards.
      throw broken ?? error
    } finally {
      this.#holdsLock = false
      if (this.#isLeading) this.#setLeading(false, broken)
      await Promise.race([connection.end().catch(() => undefined), delay(1_000, undefined, { ref: false })])
    }
  }

  async #tryLock(connection: Connection): Promise<boolean> {
    const { rows } = await connection.query<{ won: boolean }>(LOCK)
    const hasWon = rows[0]?.won === true
    if (hasWon) this.#stranger = null
    else await this.#reportStranger(connection)
    return hasWon
  }

  async #reportStranger(connection: Connection): Promise<void> {
    if (performance.now() < this.#looksAfterMs) return
    this.#looksAfterMs = performance.now() + LOOK_EVERY_MS
    const holder = await readHolder(connection)
    const stranger = holder === null || holder.isNode ? null : holder.name
    if (stranger !== null && stranger !== this.#stranger) this.#options.onStranger?.(stranger)
    this.#stranger = stranger
  }

  // The lock was a statement of its own: the snapshots read from here on are younger than it.
  async #lead(connection: Connection, onHealthy: () => void): Promise<void> {
    let fence = await renewIdentity(connection)
    await this.#options.beforeLeading()
    let { number, bounds } = await this.#leap(connection)
    onHealthy()
    const bell = new Bell({ safetyMs: this.#safetyMs })
    const trust = new Trust()
    let wasRung = false
    while (!this.#closing()) {
      if (this.#resignation !== undefined) throw this.#resignation
      const startedMs = performance.now()
      const read = await mint(connection, { bounds, number: number + 1, leaptFrom: null })
      const tookMs = performance.now() - startedMs
      bounds = read.bounds
      this.#options.onRead()
      if (read.version !== null) {
        number = read.version.number
        this.#options.onVersion(read.version)
      }
      const oldestInProgress = BigInt(bounds.xmin)
      if (fence !== null && oldestInProgress > fence) {
        await resumeCapture(connection)
        fence = null
      }
      const nowMs = performance.now()
      if (wasRung) trust.afterRing({ found: read.version !== null, nowMs })
      const next = bell.afterRead({ found: read.version !== null, mayBeMore: this.#wasRung || !wasRung, tookMs, nowMs, oldestInProgress })
      if (next.lease === 'renew') await this.#setLease(connection, LEASE_MS)
      else if (next.lease === 'give-back') bell.fenceTaken(await this.#giveBackLease(connection))
      const mostMs = this.#polls ? 50 : this.#safetyMs
      const waitMs = Math.min(next.waitMs, mostMs)
      const restMs = Math.min(waitMs, trust.restMs(performance.now()))
      if (restMs > 0) await delay(restMs)
      wasRung = await this.#wait(waitMs - restMs)
    }
  }

  /**
   * The first version of a leadership, flushed before anybody hears of it: above every number that a crash may have taken. Numbers begin
   * at the time in microseconds, which they never overtake, so it is above those too that a volume rolled back to an older copy has undone.
   */
  async #leap(connection: Connection): Promise<{ number: number; bounds: SnapshotBounds }> {
    const { rows: [last] } = await connection.query<{ number: string; snapshot: string }>(LAST_VERSION)
    const lastNumber = Number(last?.number ?? 0)
    const number = Math.max(lastNumber + LEAP, Date.now() * 1_000)
    // A standby that is away must not keep us waiting: promoted, it would be another timeline, and another epoch.
    await connection.query('set synchronous_commit = local')
    const { version, bounds } = await mint(connection, { bounds: parseSnapshot(last?.snapshot ?? SEES_NOTHING), number, leaptFrom: lastNumber })
    // What follows the leap need not be flushed: numbers that are lost are never issued again.
    await connection.query('set synchronous_commit = off')
    this.#setLeading(true)
    if (version !== null) this.#options.onVersion(version)
    return { number, bounds }
  }

  /** In poll mode the lease belongs to configure(): it never runs out. */
  async #setLease(connection: Connection, leaseMs: number | null): Promise<void> {
    await connection.query({
      name: 'freshet-lease',
      text: `select setval('freshet.awake_until', coalesce((extract(epoch from clock_timestamp()) * 1000)::bigint + $1::bigint, 1))
             from freshet.settings where name = 'wake' and value = 'notify'`,
      values: [leaseMs],
    })
  }

  async #giveBackLease(connection: Connection): Promise<bigint> {
    // Not "until now": a clock that goes back would take it for a lease.
    await this.#setLease(connection, null)
    // A transaction that begins after that committed. xmax of a snapshot would not do: a writer in flight can lie above it.
    const { rows } = await connection.query<{ fence: string }>('select pg_current_xact_id()::text as fence')
    return BigInt(rows[0]?.fence ?? 0)
  }

  /** True if it was cut short. */
  async #wait(ms: number): Promise<boolean> {
    if (!this.#wasRung && ms > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms)
        this.#ring = () => { clearTimeout(timer); resolve() }
      })
      this.#ring = undefined
    }
    const wasRung = this.#wasRung
    this.#wasRung = false
    return wasRung
  }

  #setLeading(isLeading: boolean, cause?: Error): void {
    this.#isLeading = isLeading
    this.#options.onLeading(isLeading, cause)
  }

  #closing(): boolean {
    return this.#isClosed
  }
}

/** A standby takes locks and numbers nothing. Asked at each connection: it may be promoted. */
async function assertPrimary(connection: Connection): Promise<void> {
  const { rows: [server] } = await connection.query<{ is_standby: boolean }>('select pg_is_in_recovery() as is_standby')
  if (server?.is_standby === true) throw new StartupError('this PostgreSQL is a standby: nothing can be written, and LISTEN does not work', 'point DATABASE_URL at the primary')
}
