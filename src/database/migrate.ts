/**
 * Applies migrations/*.sql in order, each once, under an advisory lock; remembers a checksum of each.
 * Promise: two servers starting at once are fine; a start with nothing to apply only reads; a database that is newer
 * than this code, or whose applied migrations differ from these files, is refused by name.
 */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import type { PoolClient } from 'pg'
import { StartupError } from '../errors.ts'
import { sqlState, withClient, type Pool } from './pool.ts'

interface Migration {
  readonly id: number
  readonly name: string
  readonly sql: string
  readonly checksum: string
}

const directory = new URL('../../migrations/', import.meta.url)

/** PostgreSQL 14 brought idle_session_timeout, which bounds a frozen leader. */
const OLDEST_SERVER = 140_000

export async function readMigrations(): Promise<readonly Migration[]> {
  const names = (await readdir(directory)).filter((name) => /^\d{4}_.*\.sql$/.test(name)).sort()
  return Promise.all(names.map(async (name) => {
    const sql = await readFile(new URL(name, directory), 'utf8')
    return { id: Number(name.slice(0, 4)), name, sql, checksum: createHash('sha256').update(sql).digest('hex') }
  }))
}

/** Names of the migrations that `migrate` would apply now. */
export async function pendingMigrations(pool: Pool): Promise<readonly string[]> {
  return withClient(pool, async (client) => (await compare(client)).map((migration) => migration.name))
}

/** Applies what is missing and returns the names. Throws StartupError with cause and cure. */
export async function migrate(pool: Pool): Promise<readonly string[]> {
  return withClient(pool, async (client) => {
    await assertServerVersion(client)
    if ((await compare(client)).length === 0) return []
    // Waits for another server that migrates; a pool client's lock_timeout would give up too early.
    await client.query(`set lock_timeout = '60s'`)
    await client.query(`select pg_advisory_lock(hashtextextended('freshet.migrate', 0))`)
    try {
      return await applyAll(client, await compare(client))
    } finally {
      await client.query(`select pg_advisory_unlock(hashtextextended('freshet.migrate', 0))`)
      await client.query(`set lock_timeout = '2s'`)
    }
  })
}

async function assertServerVersion(client: PoolClient): Promise<void> {
  const { rows } = await client.query<{ number: string; version: string; encoding: string }>(
    `select current_setting('server_version_num') as number, current_setting('server_version') as version, current_setting('server_encoding') as encoding`)
  const server = rows[0]
  if (server === undefined || Number(server.number) < OLDEST_SERVER) {
    throw new StartupError(`PostgreSQL ${server?.version ?? '?'} is too old`, 'use PostgreSQL 14 or newer')
  }
  if (server.encoding === 'SQL_ASCII') {
    throw new StartupError('the database has the encoding SQL_ASCII, whose text may be of any encoding', 'use a database with the encoding UTF8')
  }
}

/** The migrations still to apply; throws when the database and the files tell different stories. */
async function compare(client: PoolClient): Promise<readonly Migration[]> {
  const known = await readMigrations()
  const { rows: [schema] } = await client.query<{ exists: boolean }>(`select to_regclass('freshet.migrations') is not null as exists`)
  if (schema?.exists !== true) return known
  const { rows: applied } = await client.query<{ id: number; name: string; checksum: string }>(
    `select id, name, checksum from freshet.migrations order by id`)
  for (const row of applied) {
    const file = known.find((migration) => migration.id === row.id)
    if (file === undefined) {
      throw new StartupError(`the database has migration ${row.name}, which this version of Freshet does not know`, 'run the newer version of Freshet that applied it')
    }
    if (file.checksum !== row.checksum) {
      throw new StartupError(`migration ${row.name} was applied with a different text`, 'run the version of Freshet that applied it, or uninstall (select freshet.uninstall()) and start again')
    }
  }
  return known.filter((migration) => !applied.some((row) => row.id === migration.id))
}

async function applyAll(client: PoolClient, pending: readonly Migration[]): Promise<readonly string[]> {
  for (const migration of pending) {
    await client.query('begin')
    try {
      await client.query(migration.sql)
      await client.query(`create table if not exists freshet.migrations (id int primary key, name text not null, checksum text not null, applied_at timestamptz not null default now())`)
      await client.query(`insert into freshet.migrations (id, name, checksum) values ($1, $2, $3)`, [migration.id, migration.name, migration.checksum])
      await client.query('commit')
    } catch (error) {
      await client.query('rollback')
      throw explain(migration, error)
    }
  }
  return pending.map((migration) => migration.name)
}

function explain(migration: Migration, cause: unknown): unknown {
  if (sqlState(cause) === '42501') {
    return new StartupError(`this role may not create the schema freshet (${(cause as Error).message})`,
      'grant create on the database to it, or run "freshet migrate" as the owner and start the server with MIGRATE=0', { cause })
  }
  return new StartupError(`migration ${migration.name} failed: ${cause instanceof Error ? cause.message : String(cause)}`, 'see the cause', { cause })
}
