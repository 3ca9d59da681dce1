/**
 * Whether what we reach is ours. A transaction pooler lends a session out for one transaction: a lock taken in it stays behind for
 * whoever comes next, and so does every setting. Promise: that is found out before anything of ours is set or locked.
 */
import type pg from 'pg'
import { StartupError } from '../errors.ts'

/** A pooler with many sessions may happen to give the same one twice. */
const TRIES = 3

/** `open` gives another connection by the same way; it is asked only where something is in between. */
export async function isSessionShared(connection: pg.Client, open: () => Promise<pg.Client>): Promise<boolean> {
  const first = await processOf(connection)
  // PostgreSQL names the process as it greets; a pooler greets before it has chosen one.
  if ('processID' in connection && connection.processID === first) return false
  const other = await open()
  try {
    for (let attempt = 0; attempt < TRIES; attempt += 1) {
      const before = await processOf(connection)
      // An open transaction holds on to its session: the other connection must be given another one now.
      await other.query('begin')
      if (await processOf(other) === before || await processOf(connection) !== before) return true
      await other.query('rollback')
    }
    return false
  } finally {
    await other.end()
  }
}

async function processOf(connection: pg.Client): Promise<number> {
  const { rows } = await connection.query<{ id: number }>('select pg_backend_pid() as id')
  return rows[0]?.id ?? 0
}

/** Why a connection of which something must stay cannot be used. */
export function sharedSession(): StartupError {
  return new StartupError('a transaction pooler is between this server and PostgreSQL: no lock, setting or LISTEN would stay its own',
    'set LISTEN_URL to a direct connection, or to a pooler in session mode')
}
