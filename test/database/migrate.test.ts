import { describe, expect, it } from 'vitest'
import { migrate, pendingMigrations, readMigrations } from '../../src/database/migrate.ts'
import { createPool, type Pool } from '../../src/database/pool.ts'
import { StartupError } from '../../src/errors.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'

async function withPool<T>(url: string, work: (pool: Pool) => Promise<T>): Promise<T> {
  const pool = createPool({ url, max: 2, onError: () => undefined })
  try {
    return await work(pool)
  } finally {
    await pool.end()
  }
}

const run = (database: TestDatabase) => withPool(database.url, migrate)

/** The refusal as the operator reads it. */
async function refusal(promise: Promise<unknown>): Promise<StartupError> {
  const error = await promise.then(() => undefined, (reason: unknown) => reason)
  if (!(error instanceof StartupError)) throw new Error(`expected a StartupError, got ${String(error)}`)
  return error
}

describe.skipIf(!hasPostgres)('migrate', async () => {
  if (!hasPostgres) return
  const names = (await readMigrations()).map(({ name }) => name)

  it('applies every migration once, and says which', async () => {
    const database = await createDatabase({ migrated: false })
    expect(await withPool(database.url, pendingMigrations)).toEqual(names)
    expect(await run(database)).toEqual(names)
    expect(await withPool(database.url, pendingMigrations)).toEqual([])
    expect(await run(database)).toEqual([])
    expect(await database.query('select name from freshet.migrations order by id')).toEqual(names.map((name) => ({ name })))
  })

  it('three at once apply each migration once', async () => {
    const database = await createDatabase({ migrated: false })
    const applied = await Promise.all([run(database), run(database), run(database)])
    expect(applied.flat().sort()).toEqual([...names].sort())
    expect(await database.query('select from freshet.migrations')).toHaveLength(names.length)
  })

  it('goes on where an older version stopped', async () => {
    const database = await createDatabase({ migrated: false })
    const [first] = await readMigrations()
    await database.query(first?.sql ?? '')
    await database.query('create table freshet.migrations (id int primary key, name text not null, checksum text not null)')
    await database.query('insert into freshet.migrations values ($1, $2, $3)', [first?.id, first?.name, first?.checksum])
    expect(await run(database)).toEqual(names.slice(1))
    expect(await withPool(database.url, pendingMigrations)).toEqual([])
  })

  it('a migration that fails leaves nothing of itself behind', async () => {
    const database = await createDatabase({ migrated: false })
    await database.query('create schema freshet; create table freshet.state (id int)')
    const error = await refusal(run(database))
    expect(error.message).toContain(`migration ${names[0] ?? ''} failed: relation "state" already exists`)
    expect(await database.query(`select to_regclass('freshet.migrations') as table`)).toEqual([{ table: null }])
  })

  it('with nothing to apply it waits for no open transaction, and writes nothing', async () => {
    const database = await createDatabase()
    const other = await database.connect()
    await other.query(`begin; lock table freshet.tables, freshet.changes_0, freshet.versions in access exclusive mode;
      select pg_advisory_xact_lock(hashtextextended('freshet.migrate', 0)), pg_advisory_xact_lock(hashtextextended('freshet.watch', 0)); lock table freshet.migrations in exclusive mode`)
    await expect(run(database)).resolves.toEqual([])
    await other.query('rollback')
  })

  it('refuses a database whose applied migrations read differently, and changes nothing', async () => {
    const database = await createDatabase()
    await database.query(`update freshet.migrations set checksum = 'other' where id = 2`)
    const error = await refusal(run(database))
    expect(error.message).toContain(`migration ${names[1] ?? ''} was applied with a different text`)
    expect(error.message).toContain('run the version of Freshet that applied it')
    expect(await database.query(`select from freshet.migrations where checksum = 'other'`)).toHaveLength(1)
  })

  it('refuses a database that is newer than the program', async () => {
    const database = await createDatabase()
    await database.query(`insert into freshet.migrations (id, name, checksum) values (9999, '9999_future.sql', 'x')`)
    const error = await refusal(run(database))
    expect(error.message).toContain('the database has migration 9999_future.sql, which this version of Freshet does not know')
    expect(error.message).toContain('run the newer version of Freshet')
  })

  it('a role that may not create the schema is told so, and what to do', async () => {
    const database = await createDatabase({ migrated: false })
    const role = `poor_${Date.now()}`
    await database.query(`create role ${role} login password 'poor'`)
    const url = new URL(database.url)
    url.username = role
    url.password = 'poor'
    const error = await refusal(withPool(url.href, migrate))
    expect(error.message).toContain('this role may not create the schema freshet (permission denied for database')
    expect(error.message).toContain('grant create on the database to it')
    expect(error.cause).toMatchObject({ code: '42501' })
    await database.query(`grant create on database ${url.pathname.slice(1)} to ${role}`)
    await expect(withPool(url.href, migrate)).resolves.toEqual(names)
    await database.query(`drop owned by ${role}; drop role ${role}`)
  })

  it('a database of the encoding SQL_ASCII is refused', async () => {
    const database = await createDatabase({ migrated: false })
    const name = `ascii_${Date.now()}`
    await database.query(`create database ${name} template template0 encoding 'SQL_ASCII' locale 'C'`)
    const url = new URL(database.url)
    url.pathname = `/${name}`
    const error = await refusal(withPool(url.href, migrate))
    expect(error.message).toContain('SQL_ASCII')
    await database.query(`drop database ${name}`)
  })
})
