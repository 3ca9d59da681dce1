/**
 * The leader's slow work, on connections of the pool so that no tick waits for it: lease of service, drift, retention, what was
 * touched last. Promise: each round may fail and is tried again; two leaders at once do no harm.
 */
import type { Pool } from '../database/pool.ts'
import { withClient } from '../database/pool.ts'
import { RENEW_SERVICE } from './identity.ts'
import { rememberTouched, turnLog } from './retention.ts'

export interface HousekeeperOptions {
  readonly pool: Pool
  readonly keepMs: number
  readonly maxBytes: number
  readonly isLeading: () => boolean
  /** Whether writers ring (`wake = notify`) or the clock must look by itself. */
  readonly onPolls: (polls: boolean) => void
  readonly onDrift: (table: string, outcome: string) => void
  /** The log has turned: the floor is another. */
  readonly onTurned: () => void
  readonly onError: (error: Error) => void
  readonly everyMs?: number
}

/** Rounds between two savings of what was touched: about a minute. */
const ROUNDS_TO_REMEMBER = 6

export class Housekeeper {
  readonly #options: HousekeeperOptions
  #timer: NodeJS.Timeout | undefined
  #round = 0
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
      this.#working = this.#tidy().catch((error: unknown) => {
        this.#options.onError(error instanceof Error ? error : new Error(String(error)))
      }).finally(() => this.#schedule(this.#options.everyMs ?? 10_000))
    }, delayMs)
  }

  async #tidy(): Promise<void> {
    const { pool, isLeading, onPolls, onDrift, onTurned } = this.#options
    if (!isLeading()) return
    const { rows: [wake] } = await pool.query<{ value: string }>(`select value from freshet.settings where name = 'wake'`)
    onPolls(wake?.value === 'poll')
    await pool.query(RENEW_SERVICE)
    const { rows: drifted } = await pool.query<{ table_name: string; outcome: string }>('select * from freshet.detect_drift()')
    for (const { table_name, outcome } of drifted) onDrift(table_name, outcome)
    this.#round += 1
    if (this.#round % ROUNDS_TO_REMEMBER === 0) await withClient(pool, rememberTouched)
    if (await turnLog(this.#options)) onTurned()
  }
}
