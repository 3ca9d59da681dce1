/**
 * The leader's slow work, on connections of the pool so that no tick waits for it: lease of service, drift, retention, what was
 * touched last. Promise: each round may fail and is tried again; two leaders at once do no harm.
 */
import { withClient, type Pool } from '../database/pool.ts'
import { renewService } from './identity.ts'
import { forgetVersions, rememberTouched, turnLog } from './retention.ts'

export interface HousekeeperOptions {
  readonly pool: Pool
  readonly keepMs: number
  readonly maxBytes: number
  readonly isLeading: () => boolean
  /** Whether writers ring (`wake = notify`) or the clock must look by itself. */
  readonly onPolls: (polls: boolean) => void
  readonly onDrift: (table: string, outcome: string) => void
  /** The lease of service had run out, so that something may not have been captured: a new epoch must begin. */
  readonly onLapsed: () => void
  /** The log has turned: the floor is another. */
  readonly onTurned: () => void
  readonly onError: (error: Error) => void
  readonly everyMs?: number
}

/** The more tables are watched, the longer comparing them with the catalog takes: it rests so many times as long, but no longer than this. */
const DRIFT_REST = { times: 50, mostMs: 50_000 }
/** Rounds between two savings of what was touched: about a minute. */
const ROUNDS_TO_REMEMBER = 6

export class Housekeeper {
  readonly #options: HousekeeperOptions
  #timer: NodeJS.Timeout | undefined
  #round = 0
  #comparesAfterMs = -Infinity
  #working: Promise<void> = Promise.resolve()
  #isClosed = false

  constructor(options: HousekeeperOptions) {
    this.#options = options
  }

  start(): void {
    this.#schedule(1_000)
  }

  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    await this.#working
  }

  #schedule(delayMs: number): void {
    if (this.#isClosed) return
    this.#timer = setTimeout(() => {
      this.#working = this.#tidy().finally(() => this.#schedule(this.#options.everyMs ?? 10_000))
    }, delayMs)
  }

  async #tidy(): Promise<void> {
    const { pool, isLeading, onLapsed, onTurned, onError } = this.#options
    this.#round += 1
    const jobs = [
      () => this.#readSettings(),
      async () => { if (!await renewService(pool)) onLapsed() },
      () => this.#detectDrift(),
      async () => { if (this.#round % ROUNDS_TO_REMEMBER === 0) await withClient(pool, rememberTouched) },
      async () => { if (await turnLog(this.#options)) onTurned() },
      () => forgetVersions(pool),
    ]
    // Each by itself: a table that cannot be compared must not keep the log from turning.
    for (const job of jobs) {
      if (!isLeading() || this.#isClosed) return
      try {
        await job()
      } catch (error) {
        onError(error instanceof Error ? error : new Error(String(error)))
      }
    }
  }

  async #readSettings(): Promise<void> {
    const { pool, onPolls } = this.#options
    const { rows: [wake] } = await pool.query<{ value: string }>(`select value from freshet.settings where name = 'wake'`)
    onPolls(wake?.value === 'poll')
  }

  async #detectDrift(): Promise<void> {
    const { pool, onDrift } = this.#options
    const startedMs = performance.now()
    if (startedMs < this.#comparesAfterMs) return
    try {
      const { rows } = await pool.query<{ table_name: string; outcome: string }>('select * from freshet.detect_drift()')
      for (const { table_name, outcome } of rows) onDrift(table_name, outcome)
    } finally {
      const endedMs = performance.now()
      this.#comparesAfterMs = endedMs + Math.min(DRIFT_REST.mostMs, DRIFT_REST.times * (endedMs - startedMs))
    }
  }
}
