/** A database of one's own for each test file: a copy of the migrated template, dropped at the end. */
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { inject } from 'vitest'
import { closeAtEnd } from './cleanup.ts'

export interface TestDatabase {
  readonly url: string
  /** A pool of plain connections, as a host application would have. */
  readonly pool: pg.Pool
  /** One statement, its rows. */
  query<Row extends pg.QueryResultRow>(sql: string, values?: readonly unknown[]): Promise<Row[]>
  /** A connection of its own, closed with the database. */
  connect(): Promise<pg.Client>
  /** Safe to call twice. */
  drop(): Promise<void>
}

/** Whether this project's PostgreSQL is installed: `describe.skipIf(!hasPostgres)`. */
export const hasPostgres = inject('postgresUrl') !== null
export const postgresMajor = inject('postgresMajor')

export async function createDatabase(options: { readonly migrated?: boolean; readonly encoding?: 'LATIN1' } = {}): Promise<TestDatabase> {
  const base = inject('postgresUrl')
  if (base === null) throw new Error('this PostgreSQL is not installed')
  const name = `test_${randomBytes(6).toString('hex')}`
  await maintain(base, `create database ${name} template ${options.migrated === false ? 'template0' : 'freshet_template'}${
    options.encoding === undefined ? '' : ` encoding '${options.encoding}' locale 'C'`}`)
  const url = new URL(base)
  url.pathname = `/${name}`
  const opened = openDatabase(url.href)
  const database: TestDatabase = {
    ...opened,
    async drop() {
      await opened.drop()
      await maintain(base, `drop database if exists ${name} with (force)`)
    },
  }
  closeAtEnd(() => database.drop())
  return database
}

export async function hasExtension(database: TestDatabase, name: string): Promise<boolean> {
  return (await database.query('select from pg_available_extensions where name = $1', [name])).length > 0
}

/** A database that is there already; `drop` leaves it there and only closes what was opened. */
export function openDatabase(url: string): TestDatabase {
  const pool = new pg.Pool({ connectionString: url, max: 40 })
  pool.on('error', () => undefined)
  const clients: pg.Client[] = []
  return {
    url,
    pool,
    async query<Row extends pg.QueryResultRow>(sql: string, values?: readonly unknown[]) {
      return (await pool.query<Row>(sql, values as unknown[])).rows
    },
    async connect() {
      const client = new pg.Client({ connectionString: url })
      client.on('error', () => undefined)
      await client.connect()
      clients.push(client)
      return client
    },
    async drop() {
      await Promise.all(clients.splice(0).map((client) => client.end().catch(() => undefined)))
      if (!pool.ending) await pool.end()
    },
  }
}

async function maintain(url: string, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    await client.query(sql)
  } finally {
    await client.end()
  }
}
