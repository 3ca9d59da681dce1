/**
 * Brings versions that another node numbered into this one, in order. Told by a notification, after a reconnect, and every few
 * seconds in any case. Promise: versions are delivered once, ascending; a version this node holds but the table has lost (a crash
 * of PostgreSQL) and a new epoch are reported, never papered over.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { LoggedVersion } from '../contract/change.ts'
import type { Pool } from '../database/pool.ts'
import { CHANGES_BETWEEN, fromLines, parseSnapshot, SEES_NOTHING, VERSIONS_AFTER, type VersionRow } from './log.ts'
import { Trust } from './trust.ts'

export interface FollowerOptions {
  readonly pool: Pool
  /** The newest version this node holds. */
  readonly head: () => number
  readonly epoch: () => string
  readonly onVersion: (version: LoggedVersion) => void
  /** The database answers, and somebody numbers what is committed: what this node holds is what is there. */
  readonly onContact: () => void
  /** What this node holds cannot be trusted: its epoch is over, or its head is gone from the table. */
  readonly onRupture: () => Promise<void>
}

/** Small questions, asked every few seconds: they are the first to notice that nobody answers. */
const PATIENCE = { query_timeout: 10_000 }

interface FollowedRow extends VersionRow {
  readonly epoch: string
  readonly known: boolean
  readonly unnumbered: boolean
  readonly previous_snapshot: string | null
  readonly changes: string | null
}

export class Follower {
  readonly #options: FollowerOptions
  readonly #trust = new Trust()
  #reading: Promise<void> | undefined
  #again = false

  constructor(options: FollowerOptions) {
    this.#options = options
  }

  /** Reads until nothing is new. Calls during a read cause one more. Rejects when the database is away. */
  async catchUp(): Promise<void> {
    this.#again = true
    this.#reading ??= this.#readAll()
    return this.#reading
  }

  async #readAll(): Promise<void> {
    try {
      while (this.#again) {
        await this.#rest()
        this.#again = false
        const from = this.#options.head()
        // A full page: there may be more.
        while (await this.#readPage() === 100);
        this.#trust.afterRing({ found: this.#options.head() > from, nowMs: performance.now() })
      }
    } finally {
      // At once: who calls from here on must not be given a reading that is over.
      this.#reading = undefined
    }
  }

  async #rest(): Promise<void> {
    const restMs = this.#trust.restMs(performance.now())
    if (restMs > 0) await delay(restMs)
  }

  async #readPage(): Promise<number> {
    const { pool, head, epoch, onVersion, onContact, onRupture } = this.#options
    const from = head()
    const { rows } = await pool.query<FollowedRow>({ ...VERSIONS_AFTER, ...PATIENCE, values: [from] })
    const first = rows[0]
    if (first === undefined) throw new Error('freshet.state is empty')
    if (first.epoch !== epoch() || (from > 0 && !first.known)) {
      await onRupture()
      return 0
    }
    const found = rows.filter((row) => row.number !== null)
    // Changes may be a moment ahead of their numbers; without new ones from one look to the next, nobody numbers them.
    if (found.length > 0 || !first.unnumbered) onContact()
    for (const row of found) {
      const version = await this.#readVersion(row)
      // The clock of this very node may have delivered it meanwhile.
      if (version.number > head()) onVersion(version)
    }
    return found.length
  }

  async #readVersion(row: FollowedRow): Promise<LoggedVersion> {
    const version = {
      number: Number(row.number), snapshot: row.snapshot, mintedAtMs: Number(row.minted_at_ms),
      leaptFrom: row.leapt_from === null ? null : Number(row.leapt_from), touched: row.touched ?? [], reset: row.reset ?? [],
    }
    if (version.touched.length === 0) return { ...version, changes: [] }
    const { xmax, inProgress } = parseSnapshot(row.previous_snapshot ?? SEES_NOTHING)
    const { rows: [read] } = await this.#options.pool.query<{ lines: string | null }>({ ...CHANGES_BETWEEN, ...PATIENCE, values: [xmax, inProgress, row.snapshot] })
    const changes = fromLines(read?.lines ?? null)
    // Fewer than were numbered: too large to be carried, or the log has turned. Whoever needs them asks the log, and is told.
    return { ...version, changes: changes.length === Number(row.changes) ? changes : null }
  }
}
