/**
 * Applies migrations/*.sql in order, each once, all in one transaction; remembers a checksum of each.
 * Promise: two servers starting at once are fine; a start with nothing to apply only reads; one that fails leaves nothing behind; a schema that
 * is not ours, a database that is newer than this code, or whose applied migrations differ from these files, is refused by name.
 */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import type { PoolClient } from 'pg'
import { StartupError } from '../errors.ts'
import { sqlState, withClient, type Pool } from './pool.ts'
import { assertOurs } from './provenance.ts'

interface Migration {
  readonly id: number
  readonly name: string
  readonly sql: string
  readonly checksum: string
}

const directory = new URL('../../migrations/', import.meta.url)

/** PostgreSQL 14 brought idle_session_timeout, which bounds a frozen leader. */
const OLDEST_SERVER = 140_000
/** Each time another server was first. */
const TRIES = 5

export async function readMigrations(): Promise<readonly Migration[]> {
  const names = (await readdir(directory)).filter((name) => /^\d{4}_.*\.sql$/.test(name)).sort()
  return Promise.all(names.map(async (name) => {
    const sql = await readFile(new URL(name, directory), 'utf8')
    return { id: Number(name.slice(0, 4)), name, sql, checksum: createHash('sha256').update(sql).digest('hex') }
  }))
}

/** Names of the migrations that `migrate` would apply now. */
export async function pendingMigrations(pool: Pool): Promise<readonly string[]> {
  return withClient(pool, async (client) => (await compare(client, { migrates: false })).map((migration) => migration.name))
}

/** Applies what is missing and returns the names. Throws StartupError with cause and cure. */
export async function migrate(pool: Pool): Promise<readonly string[]> {
  return withClient(pool, async (client) => {
    await assertServerVersion(client)
    for (let attempt = 1; ; attempt += 1) {
      if ((await compare(client, { migrates: true })).length === 0) return []
      try {
        return await applyPending(client)
      } catch (error) {
        await client.query('rollback')
        // Another server made the schema while we did.
        if (!/^(23505|42P06|42P07)$/.test(sqlState(error) ?? '') || attempt === TRIES) throw explain(error)
      }
    }
  })
}

/**
 * In one transaction: a start that fails leaves nothing behind. Whoever comes second waits for the first on a lock that nobody takes who has no
 * rights here: on the name of the schema, and from then on on the table of what was applied.
 */
async function applyPending(client: PoolClient): Promise<readonly string[]> {
  // A pool client's lock_timeout would give up too early.
  await client.query(`begin; set local lock_timeout = '60s'`)
  const { exists, isInstalled } = await assertOurs(client, { migrates: true })
  if (!exists) await client.query('create schema freshet')
  if (!isInstalled) {
    await client.query('create table freshet.migrations (id int primary key, name text not null, checksum text not null, applied_at timestamptz not null default now())')
  }
  await client.query('lock table freshet.migrations in share row exclusive mode')
  const pending = await compare(client, { migrates: true })
  for (const migration of pending) await apply(client, migration)
  await client.query('commit')
  return pending.map((migration) => migration.name)
}

async function apply(client: PoolClient, migration: Migration): Promise<void> {
  try {
    await client.query(migration.sql)
  } catch (error) {
    throw new MigrationFailed(`migration ${migration.name} failed: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
  }
  await client.query(`insert into freshet.migrations (id, name, checksum) values ($1, $2, $3)`, [migration.id, migration.name, migration.checksum])
}

class MigrationFailed extends Error {
  override readonly name = 'MigrationFailed'
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

/** The migrations still to apply; throws when the schema is not ours, or the database and the files tell different stories. */
async function compare(client: PoolClient, { migrates }: { readonly migrates: boolean }): Promise<readonly Migration[]> {
  const known = await readMigrations()
  const { isInstalled } = await assertOurs(client, { migrates })
  if (!isInstalled) return known
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

function explain(error: unknown): unknown {
  if (error instanceof StartupError) return error
  if (error instanceof MigrationFailed) return new StartupError(error.message, 'see the cause', { cause: error.cause })
  if (sqlState(error) === '42501') {
    return new StartupError(`this role may not create the schema freshet (${(error as Error).message})`,
      'grant create on the database to it, or run "freshet migrate" as the owner and start the server with MIGRATE=0', { cause: error })
  }
  return error
}
