/** The clock by hand: numbers versions when a test says so, with the very statements of the real one. */
import type { LoggedVersion } from '../../src/contract/change.ts'
import { LAST_VERSION, mint, parseSnapshot, SEES_NOTHING, type SnapshotBounds } from '../../src/clock/log.ts'
import type { TestDatabase } from './database.ts'

export class Ticker {
  readonly versions: LoggedVersion[] = []
  readonly #database: TestDatabase
  #bounds: SnapshotBounds = parseSnapshot(SEES_NOTHING)
  #number = 0

  private constructor(database: TestDatabase) {
    this.#database = database
  }

  /** With a first version, a leap. */
  static async start(database: TestDatabase): Promise<Ticker> {
    const ticker = new Ticker(database)
    const [last] = await database.query<{ number: string; snapshot: string }>(LAST_VERSION)
    if (last !== undefined) ticker.#bounds = parseSnapshot(last.snapshot)
    ticker.#number = Number(last?.number ?? 0) + 1_000
    await ticker.#mint(Number(last?.number ?? 0))
    return ticker
  }

  get head(): number {
    return this.#number
  }

  /** Numbers what there is; null if there is nothing. */
  tick(): Promise<LoggedVersion | null> {
    return this.#mint(null)
  }

  /** For openState: every version is known here as soon as it is there. */
  readonly versionAfter = async (number: number): Promise<number> => {
    while (this.#number <= number) await new Promise((resolve) => setTimeout(resolve, 5))
    return this.#number
  }

  async #mint(leaptFrom: number | null): Promise<LoggedVersion | null> {
    const number = leaptFrom === null ? this.#number + 1 : this.#number
    const { bounds, version } = await mint(this.#database.pool, { bounds: this.#bounds, number, leaptFrom })
    this.#bounds = bounds
    if (version !== null) {
      this.#number = version.number
      this.versions.push(version)
    }
    return version
  }
}
