/** A real PgBouncer between a test's server and its database. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { serverUser } from '../../src/database/embedded-files.ts'
import { startDaemon, temporaryDirectory } from './daemon.ts'
import { freePort } from './ports.ts'
import { findExecutable, requireTool } from './tools.ts'

const program = findExecutable('pgbouncer', ['/usr/sbin'])
/** `describe.skipIf(!hasPgbouncer)` */
export const hasPgbouncer = requireTool('pgbouncer', program !== null)

/** The given URL, through a PgBouncer with its defaults but for the mode and as many sessions as there are. */
export async function startPgbouncer(databaseUrl: string, mode: 'transaction' | 'session', sessions = 20): Promise<string> {
  if (program === null) throw new Error('pgbouncer is not installed')
  const target = new URL(databaseUrl)
  const directory = await temporaryDirectory('pgbouncer')
  const port = await freePort()
  const path = join(directory, 'pgbouncer.ini')
  await writeFile(path, `
[databases]
* = host=${target.hostname} port=${target.port} user=${target.username} password=${target.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = ${mode}
default_pool_size = ${sessions}
`)
  const user = serverUser()
  await startDaemon(program, [...user === undefined ? [] : ['-u', user.name], path], port)
  target.port = String(port)
  return target.href
}
