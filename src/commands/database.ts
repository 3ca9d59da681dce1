/** How a command reaches the database: the given one, else the embedded one while it runs. */
import type { Config } from '../config.ts'
import { defaultStateDirectory, EmbeddedError, findRunningEmbedded } from '../database/embedded.ts'
import { explainDatabase } from '../database/explain.ts'
import { createPool, type Pool } from '../database/pool.ts'
import { StartupError } from '../errors.ts'

/** Where this checkout's embedded PostgreSQL keeps what it keeps, and the database in it. */
export function embeddedPlace({ environment }: Config): { readonly directory: string; readonly database: string } {
  const { STATE_DIR, XDG_STATE_HOME, HOME } = environment
  return { directory: defaultStateDirectory({ STATE_DIR, XDG_STATE_HOME, HOME }), database: 'freshet' }
}

/** Throws StartupError. */
export async function findDatabase(config: Config): Promise<string> {
  if (config.databaseUrl !== null) return config.databaseUrl
  const { directory, database } = embeddedPlace(config)
  try {
    const url = await findRunningEmbedded(directory, database)
    if (url !== null) return url
  } catch (error) {
    throw explainEmbedded(error)
  }
  throw new StartupError('DATABASE_URL is empty and the embedded PostgreSQL does not run', 'start it with "freshet start", or set DATABASE_URL')
}

/** An EmbeddedError, whose last sentence is the cure, as a StartupError; anything else as it is. */
export function explainEmbedded(error: unknown): unknown {
  if (!(error instanceof EmbeddedError)) return error
  const text = error.message.replace(/\.$/, '')
  const end = Math.max(text.lastIndexOf('. '), text.lastIndexOf('\n'))
  const cure = text.slice(end + 1).trim()
  return new StartupError(text.slice(0, Math.max(0, end)), cure.charAt(0).toLowerCase() + cure.slice(1), { cause: error })
}

/** Lends a small pool for as long as the work takes. Throws StartupError when the database cannot be used. */
export async function withDatabase<T>(config: Config, work: (pool: Pool, url: string) => Promise<T>): Promise<T> {
  const url = await findDatabase(config)
  // A connection that drops shows in the query that wanted it.
  const pool = createPool({ url, max: 2, onError: () => undefined })
  try {
    return await work(pool, url)
  } catch (error) {
    throw explainDatabase(error, 'see the log of PostgreSQL for the cause')
  } finally {
    await pool.end()
  }
}
