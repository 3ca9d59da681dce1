/** A database in which Freshet belongs to one role and the host's tables to another, whom it trusts: nobody involved is a superuser. */
import { randomBytes } from 'node:crypto'
import type { Client } from 'pg'
import { migrate } from '../../src/database/migrate.ts'
import { createPool } from '../../src/database/pool.ts'
import { createDatabase, type TestDatabase } from './database.ts'

export interface RoleDatabase {
  /** As superuser. */
  readonly database: TestDatabase
  /** Owns the schema freshet. */
  readonly server: string
  /** Owns the schema `app` and its tables; holds the documented grant. */
  readonly app: string
  /** May use the schema, holds the grant, and owns nothing of the app's. */
  readonly stranger: string
  /** A connection that logged in as this role. */
  readonly connectAs: (role: string) => Promise<Client>
}

export async function createRoleDatabase(): Promise<RoleDatabase> {
  const database = await createDatabase({ migrated: false })
  const suffix = randomBytes(4).toString('hex')
  const [server, app, stranger] = [`server_${suffix}`, `app_${suffix}`, `stranger_${suffix}`]
  for (const role of [server, app, stranger]) await database.query(`create role ${role} login password '${suffix}'`)
  await database.query(`create schema app authorization ${app}; create schema lair authorization ${stranger}`)
  const { pathname } = new URL(database.url)
  await database.query(`grant create on database ${pathname.slice(1)} to ${server}`)

  const url = new URL(database.url)
  url.username = server
  url.password = suffix
  const pool = createPool({ url: url.href, max: 1, onError: () => undefined })
  await migrate(pool)
  await pool.end()
  for (const [role, schema] of [[app, 'app'], [stranger, 'lair']] as const) {
    await database.query(`grant usage on schema freshet to ${role}; grant execute on function freshet.watch, freshet.unwatch to ${role}`)
    await database.query(`grant usage on schema ${schema} to ${server}`)
    await database.query(`select freshet.trust('${role}')`)
    await database.query(`alter default privileges for role ${role} in schema ${schema} grant select on tables to ${server}`)
  }
  return {
    database, server, app, stranger,
    async connectAs(role) {
      const client = await database.connect()
      // Unlike SET ROLE this changes the session's user, as a login does.
      await client.query(`set session authorization ${role}`)
      return client
    },
  }
}
