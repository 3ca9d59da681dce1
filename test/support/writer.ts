/** A host application that writes, whatever happens to its database, and the truth that every client must hold in the end. */
import { expect } from 'vitest'
import type { TestDatabase } from './database.ts'
import type { Following } from './replica.ts'

/** Writes rows 1, 2, 3, … of `t (id, v)` as long as it is asked to; rows that were refused are written again. */
export class Writer {
  #isOver = false
  readonly #writing: Promise<void>
  written = 0

  constructor(database: TestDatabase, setting = '') {
    this.#writing = (async () => {
      while (!this.#over()) {
        await database.query(`${setting}insert into t values (${this.written + 1}, 0) on conflict (id) do update set v = t.v + 1`)
          .then(() => { this.written += 1 }, () => new Promise((resolve) => setTimeout(resolve, 20)))
      }
    })()
  }

  async stop(): Promise<void> {
    this.#isOver = true
    await this.#writing
  }

  #over(): boolean {
    return this.#isOver
  }
}

/** The rows of `t` as JSON text, sorted. */
export async function rowsOfT(database: TestDatabase): Promise<readonly string[]> {
  return (await database.query<{ row: string }>('select row_to_json(t.*)::text as row from t')).map(({ row }) => row).sort()
}

/** Waits until every client holds what SELECT returns, and none of them was told a version out of order. */
export async function expectTruth(database: TestDatabase, followings: readonly Following[]): Promise<void> {
  const truth = await rowsOfT(database)
  for (const following of followings) {
    await expect.poll(() => [...following.replica.rows.values()].map((row) => JSON.stringify(row)).sort(), { timeout: 30_000 }).toEqual(truth)
    expect(following.faults).toEqual([])
  }
}
