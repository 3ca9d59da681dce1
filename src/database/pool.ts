/**
 * Connections: every one of ours bears a name and pins the settings that the contract depends on.
 * Promise: an error on an idle connection is reported, never thrown; a client that timed out is not reused; an answer that cannot be read
 * ends its connection, never the process.
 */
import type { Duplex } from 'node:stream'
import pg from 'pg'
import { isSessionShared, sharedSession } from './session.ts'

/** The two kinds of connection beside the listener; seen in pg_stat_activity as `freshet:<role>`. */
export type ConnectionRole = 'clock' | 'pool' | 'listener'

/** READ COMMITTED because a version is the snapshot of one statement; the formats are the contract's. */
const PINS = [
  `set default_transaction_isolation = 'read committed'`,
  `set timezone = 'UTC'`,
  `set datestyle = 'ISO'`,
  `set intervalstyle = 'iso_8601'`,
  `set extra_float_digits = 1`,
  `set bytea_output = 'hex'`,
  `set lc_monetary = 'C'`,
  `set quote_all_identifiers = off`,
  `set array_nulls = on`,
  // What is written in this program, and in the functions of the schema, has backslashes in its texts.
  `set standard_conforming_strings = on`,
  `set search_path = pg_catalog, pg_temp`,
  // An error beats a partial answer.
  `set row_security = off`,
  // The log is written faster than it is analysed: never let a stale estimate choose a scan or a compilation.
  `set enable_seqscan = off`,
  `set enable_tidscan = on`,
  `set jit = off`,
  `set lock_timeout = '2s'`,
  `set idle_in_transaction_session_timeout = '60s'`,
  // A busy process may be slow to ask the next question of an answer that it has begun to send. The pool ends what is idle by itself.
  `set idle_session_timeout = 0`,
  // The host may have set it for its own clients; PostgreSQL 17 brought it.
  `select set_config(name, '0', false) from pg_settings where name = 'transaction_timeout'`,
].join('; ')

const STATEMENT_TIMEOUT_MS = 60_000

export interface PoolOptions {
  readonly url: string
  readonly max: number
  readonly onError: (error: Error) => void
}

export type Pool = pg.Pool
export type PoolClient = pg.PoolClient
export type Connection = pg.Client

/** Everything but the pins that a connection of ours is made with. */
export function connectionSettings(url: string, role: ConnectionRole): pg.ClientConfig {
  return {
    connectionString: url,
    application_name: `freshet:${role}`,
    connectionTimeoutMillis: 5_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 5_000,
  }
}

export function createPool({ url, max, onError }: PoolOptions): Pool {
  const pool = new pg.Pool({
    // PostgreSQL gives up earlier; where the network is dead its word does not arrive.
    ...connectionSettings(url, 'pool'), max, idleTimeoutMillis: 60_000, query_timeout: STATEMENT_TIMEOUT_MS + 5_000,
    // Awaited before anybody gets the client, whatever its type says: nobody reads through another's settings.
    // eslint-disable-next-line @typescript-eslint/no-misused-promises
    onConnect: async (client) => { guardReading(client); await client.query(`${PINS}; set statement_timeout = ${STATEMENT_TIMEOUT_MS}`) },
  })
  // Without handlers a connection that drops, idle or lent, ends the process.
  pool.on('error', onError)
  pool.on('connect', (client) => client.on('error', onError))
  const connections: Connections = { idle: new Set(), lent: new Set() }
  opened.set(pool, connections)
  pool.on('acquire', (client) => {
    connections.idle.delete(client)
    connections.lent.add(client)
  })
  pool.on('release', (_error, client) => {
    connections.lent.delete(client)
    connections.idle.add(client)
  })
  pool.on('remove', (client) => connections.idle.delete(client))
  return pool
}

interface Connections {
  readonly idle: Set<PoolClient>
  readonly lent: Set<PoolClient>
}

const opened = new WeakMap<Pool, Connections>()

/**
 * Gives up every connection of the pool: for when PostgreSQL has been silent for too long on one, which may mean that the network is
 * dead under all. What runs on them is rejected; the next question makes a new one.
 */
export function dropConnections(pool: Pool): void {
  const { idle, lent } = opened.get(pool) ?? { idle: [], lent: [] }
  // An idle one is known to the pool by its error; a lent one rejects, and whoever has it gives it back as broken.
  for (const client of [...idle]) client.emit('error', new Error('given up: PostgreSQL was silent on another connection'))
  for (const client of lent) void (client as unknown as Connection).end()
}

/**
 * Answers are taken apart in a handler of the socket, where nobody catches what is thrown: at a text longer than a string may be, at
 * half a message. The connection ends with that error instead, and so does whatever was asked on it.
 */
function guardReading(client: object): void {
  const { connection } = client as { readonly connection?: { readonly stream: Duplex } }
  if (connection === undefined) throw new Error('pg has its connection elsewhere by now')
  const { stream } = connection
  const emit = stream.emit.bind(stream)
  stream.emit = (event: string, ...values: unknown[]): boolean => {
    try {
      return emit(event, ...values)
    } catch (error) {
      if (event !== 'data') throw error
      stream.destroy(error instanceof Error ? error : new Error(String(error)))
      return true
    }
  }
}

/** What should have been said was not. */
export class Silence extends Error {
  override readonly name = 'Silence'
}

/** Whether it was our own patience that ended. */
export function isSilence(error: unknown): boolean {
  return error instanceof Silence || (error instanceof Error && error.message === 'Query read timeout')
}

/** One connection of its own, for what lives in a session: the clock's lock. Throws StartupError where no session would stay its own. */
export async function connect(url: string, role: ConnectionRole, onError: (error: Error) => void, queryTimeoutMs = 10_000): Promise<Connection> {
  const client = new pg.Client({ ...connectionSettings(url, role), query_timeout: queryTimeoutMs })
  client.on('error', onError)
  try {
    await client.connect()
    guardReading(client)
    // Before the pins: they would be somebody else's.
    if (role === 'clock' && await isSessionShared(client, () => greet(url))) throw sharedSession()
    await client.query(PINS)
    return client
  } catch (error) {
    client.end().catch(() => undefined)
    throw error
  }
}

/** The first of some URLs by which sessions stay ours. Throws StartupError when there is none. */
export async function sessionUrl(urls: readonly string[]): Promise<string> {
  for (const url of urls) {
    const client = await greet(url)
    try {
      if (!await isSessionShared(client, () => greet(url))) return url
    } finally {
      await client.end()
    }
  }
  throw sharedSession()
}

/** A connection on which nothing is set. */
async function greet(url: string): Promise<Connection> {
  const client = new pg.Client({ ...connectionSettings(url, 'pool'), query_timeout: 10_000 })
  // What breaks on the way shows in the statement that needed it.
  client.on('error', () => undefined)
  try {
    await client.connect()
    return client
  } catch (error) {
    client.end().catch(() => undefined)
    throw error
  }
}

/** Runs `work` on one client in a transaction; a client whose work failed is closed, not reused. */
export async function withClient<T>(pool: Pool, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  let failed = true
  try {
    const result = await work(client)
    failed = false
    return result
  } finally {
    client.release(failed)
  }
}

/** PostgreSQL's five characters for what went wrong, if it was PostgreSQL that said it. */
export function sqlState(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined
}
