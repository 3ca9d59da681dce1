/** psql's COPY, the fastest way to get rows out of PostgreSQL, or into it, that everybody has. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { findExecutable } from '../test/support/tools.ts'

const program = findExecutable('psql')
/** Debian: postgresql-client. */
export const hasPsql = program !== null

/** Runs one command of psql's; resolves to the bytes that it printed. */
export async function psql(url: string, command: string): Promise<number> {
  if (program === null) throw new Error('psql is not installed')
  const child = spawn(program, [url, '--no-psqlrc', '--quiet', '-v', 'ON_ERROR_STOP=1', '-c', command], { stdio: ['ignore', 'pipe', 'inherit'] })
  let bytes = 0
  child.stdout.on('data', (chunk: Buffer) => { bytes += chunk.length })
  const [code] = await once(child, 'close') as [number | null]
  if (code !== 0) throw new Error(`psql failed: ${command}`)
  return bytes
}

/** The rows of a query as JSON, one a line. */
export function copyJson(url: string, query: string): Promise<number> {
  return psql(url, `copy (select row_to_json(r.*) from (${query}) r) to stdout`)
}
