/** The state of a channel as the source reads it: row by row, and as runs where PostgreSQL writes them down. */
import { DatabaseSource } from '../../src/clock/source.ts'
import type { Window } from '../../src/contract/change.ts'
import type { Pool } from '../../src/database/pool.ts'

export async function windowOf(pool: Pool, channel: string, filters: Readonly<Record<string, string>> = {}): Promise<Window> {
  const found = (await new DatabaseSource(pool).readCatalog()).channels.find(({ name }) => name === channel)
  if (found === undefined) throw new Error(`no channel ${channel}`)
  return { channel: found, filters: new Map(Object.entries(filters)) }
}

/** Keys and rows, as PostgreSQL wrote them. Everything that was logged must have a number. */
export async function readState(pool: Pool, window: Window): Promise<readonly (readonly [key: string, row: string])[]> {
  const reading = await new DatabaseSource(pool).openState([window], () => Promise.reject(new Error('not numbered yet')))
  try {
    const rows: (readonly [string, string])[] = []
    for await (const batch of reading.rows(window)) rows.push(...batch)
    const runs: string[] = []
    for await (const run of await reading.runs(window) ?? []) runs.push(run)
    const written = rows.map(([key, row]) => `{"op":"upsert","key":${key},"row":${row}}`)
    if (runs.length > 0 && runs.join(',') !== written.join(',')) throw new Error(`rows and runs differ:\n${written.join(',')}\n${runs.join(',')}`)
    return rows
  } finally {
    await reading.close()
  }
}
