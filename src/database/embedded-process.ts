/*
 * Owns the processes around a data directory: who claims it, which postmaster runs on it, and the one we started.
 * Promises that a claim is held by at most one living Node process, that a signal only ever goes to a proven
 * postmaster of this directory, and that stop() returns when the server is gone.
 * A claim held by a living process, or a postmaster that nobody claimed, is an EmbeddedError.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { link, readFile, rm, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { EmbeddedError, errorCode, type Binaries, type PreparedBinaries, type ServerUser } from './embedded-files.ts'

/** How to run the PostgreSQL programs. */
export interface Tools extends PreparedBinaries {
  readonly user: ServerUser | undefined
  readonly directory: string
}

/** The right to start a server in a state directory. `inherited`: its last holder died without giving it back. */
export interface Claim {
  readonly inherited: boolean
  release(): Promise<void>
}

/** What postmaster.pid says; `stale` when the process it names is gone, or is by now another program. */
export type Lock =
  | { readonly kind: 'none' }
  | { readonly kind: 'unreadable' }
  | { readonly kind: 'running'; readonly processId: number }
  | { readonly kind: 'stale'; readonly processId: number }

interface Ending {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

const execute = promisify(execFile)
const tailLines = 50
const fastShutdownMs = 10_000
const stderrGraceMs = 500

/** Runs one of the programs to its end and answers its output. */
export async function runTool(tools: Tools, program: keyof Binaries, args: readonly string[]): Promise<string> {
  try {
    const { stdout } = await execute(tools.binaries[program], args, childOptions(tools))
    return stdout
  } catch (cause) {
    const output = cause instanceof Error && 'stderr' in cause && typeof cause.stderr === 'string' ? cause.stderr.trim() : ''
    throw new EmbeddedError(`${program} failed: ${output === '' ? String(cause) : output}\n`
      + 'Cure what it names, or set DATABASE_URL to a PostgreSQL of your own.', { cause })
  }
}

function childOptions(tools: Tools): { cwd: string; env: NodeJS.ProcessEnv; uid?: number; gid?: number } {
  // Node's own working directory may be closed to the server's user; PG* variables of the shell would steer the server.
  const { PATH, TZ, TMPDIR, SystemRoot } = process.env
  const env = { PATH, TZ, TMPDIR, SystemRoot, LC_ALL: 'C', ...tools.environment }
  const { user, directory: cwd } = tools
  return user === undefined ? { cwd, env } : { cwd, env, uid: user.uid, gid: user.gid }
}

/** Takes the directory for this process. Throws EmbeddedError while a living process holds it. */
export async function claimDirectory(directory: string): Promise<Claim> {
  const path = join(directory, 'owner.json')
  const mine = JSON.stringify({ processId: process.pid, started: await processStart(process.pid), token: randomUUID() })
  const release = async (): Promise<void> => {
    if (await readIfExists(path) === mine) await rm(path, { force: true })
  }
  if (await createWhole(path, mine)) return { inherited: false, release }
  await refuseLivingOwner(path, directory)
  // Two starts may find the same dead owner; whoever comes second here fails, or meets the lock in the data directory.
  await rm(path, { force: true })
  if (await createWhole(path, mine)) return { inherited: true, release }
  throw alreadyRunning(directory, 'another process')
}

/** Creates a file that is never seen half written; false if it exists. */
async function createWhole(path: string, text: string): Promise<boolean> {
  const draft = `${path}.${randomUUID()}`
  await writeFile(draft, text, { mode: 0o600 })
  try {
    await link(draft, path)
    return true
  } catch (error) {
    if (errorCode(error) === 'EEXIST') return false
    throw error
  } finally {
    await rm(draft, { force: true })
  }
}

async function refuseLivingOwner(path: string, directory: string): Promise<void> {
  const owner = parseOwner(await readIfExists(path) ?? '')
  if (owner !== undefined && owner.started === await processStart(owner.processId)) {
    throw alreadyRunning(directory, `process ${owner.processId}`)
  }
}

function parseOwner(text: string): { processId: number; started: string } | undefined {
  try {
    const owner: unknown = JSON.parse(text)
    if (typeof owner !== 'object' || owner === null || !('processId' in owner && 'started' in owner)) return undefined
    const { processId, started } = owner
    return typeof processId === 'number' && typeof started === 'string' ? { processId, started } : undefined
  } catch {
    // A crash of the machine can leave the file empty; whoever wrote it did not survive that either.
    return undefined
  }
}

function alreadyRunning(directory: string, holder: string): EmbeddedError {
  return new EmbeddedError(`Another server already runs on ${directory} (${holder}). `
    + 'Stop it first, or set STATE_DIR to give this one a directory of its own.')
}

/** When a living process began, in a form that no other process with the same id ever repeats; undefined if it is dead. */
async function processStart(processId: number): Promise<string | undefined> {
  if (process.platform === 'linux') return await linuxProcessStart(processId)
  if (process.platform === 'win32') return isAlive(processId) ? 'unknown' : undefined
  return await psColumn(processId, 'lstart')
}

async function linuxProcessStart(processId: number): Promise<string | undefined> {
  const text = await readIfExists(`/proc/${processId}/stat`)
  if (text === undefined) return undefined
  // [proc(5)] the second field may hold spaces and parentheses; state is the third field, starttime the twenty-second.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  if (fields[0] === 'Z' || fields[0] === 'X') return undefined
  // starttime counts from boot.
  const boot = await readIfExists('/proc/sys/kernel/random/boot_id') ?? ''
  return `${boot.trim()} ${fields[19] ?? ''}`
}

function isAlive(processId: number): boolean {
  try {
    return process.kill(processId, 0)
  } catch (error) {
    return errorCode(error) === 'EPERM'
  }
}

async function psColumn(processId: number, column: string): Promise<string | undefined> {
  try {
    const { stdout } = await execute('ps', ['-o', `${column}=`, '-p', String(processId)])
    return stdout.trim()
  } catch {
    // ps answers an unknown process with exit code 1.
    return undefined
  }
}

/** Reads postmaster.pid, and believes it only as far as the process it names proves to be a postmaster of `data`. */
export async function readLock(data: string): Promise<Lock> {
  const text = await readIfExists(join(data, 'postmaster.pid'))
  if (text === undefined) return { kind: 'none' }
  const processId = Math.abs(Number.parseInt(text, 10))
  if (Number.isNaN(processId) || processId === 0) return { kind: 'unreadable' }
  return { kind: await isPostmasterOf(processId, data) ? 'running' : 'stale', processId }
}

async function isPostmasterOf(processId: number, data: string): Promise<boolean> {
  if (process.platform === 'win32') return isAlive(processId)
  if (process.platform !== 'linux') return (await psColumn(processId, 'command'))?.includes(`-D ${data}`) ?? false
  const [program = '', ...args] = (await readIfExists(`/proc/${processId}/cmdline`))?.split('\0') ?? []
  return basename(program).startsWith('postgres') && args[args.indexOf('-D') + 1] === data
}

/** The text of a file, or undefined where there is none (for /proc: where the process is gone). */
export async function readIfExists(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes(errorCode(error))) return undefined
    throw error
  }
}

/** A postmaster that we started. It ends on stop(), on its own, or as a last resort when Node exits. */
export class Postmaster {
  readonly processId: number
  /** Settles when the process is gone and its last words are read. Never rejects. */
  readonly ended: Promise<void>
  readonly #child: ChildProcess
  readonly #tools: Tools
  readonly #tail: string[] = []
  #ending: Ending | undefined
  #stopped: Promise<void> | undefined

  private constructor(child: ChildProcess, stderr: Readable, tools: Tools) {
    this.processId = child.pid ?? 0
    this.#child = child
    this.#tools = tools
    createInterface({ input: stderr }).on('line', (line) => this.#remember(line))
    stderr.on('error', (error) => this.#remember(error.message))
    child.on('error', (error) => this.#remember(error.message))
    child.once('exit', (code, signal) => { this.#ending = { code, signal } })
    this.ended = whenEnded(child)
    const onNodeExit = (): void => { child.kill('SIGINT') }
    process.once('exit', onNodeExit)
    void this.ended.then(() => process.off('exit', onNodeExit))
  }

  static async start(tools: Tools, args: readonly string[]): Promise<Postmaster> {
    // Detached: in a process group of its own, the terminal's ^C does not reach it before its clients have gone.
    const child = spawn(tools.binaries.postgres, args, { ...childOptions(tools), detached: true, stdio: ['ignore', 'ignore', 'pipe'] })
    const postmaster = new Postmaster(child, child.stderr, tools)
    await once(child, 'spawn')
    return postmaster
  }

  get hasEnded(): boolean {
    return this.#ending !== undefined
  }

  get stopping(): boolean {
    return this.#stopped !== undefined
  }

  /** How it ended, if it has, and the last lines of its log. */
  get lastWords(): string {
    return `${describeEnding(this.#ending)}, the end of its log is:\n${this.#tail.join('\n')}`
  }

  /** Fast shutdown: rolls back what is open and disconnects everybody. Safe to call twice. */
  stop(): Promise<void> {
    this.#stopped ??= this.#shutDown()
    return this.#stopped
  }

  async #shutDown(): Promise<void> {
    this.#signal('INT')
    const escalation = setTimeout(() => this.#signal('QUIT'), fastShutdownMs)
    await this.ended
    clearTimeout(escalation)
  }

  #signal(name: 'INT' | 'QUIT'): void {
    if (process.platform !== 'win32') {
      this.#child.kill(`SIG${name}`)
      return
    }
    // On Windows a signal from Node is a kill; pg_ctl knows PostgreSQL's own way to signal.
    runTool(this.#tools, 'pg_ctl', ['kill', name, String(this.processId)]).catch((error: unknown) => this.#remember(String(error)))
  }

  #remember(line: string): void {
    this.#tail.push(line)
    if (this.#tail.length > tailLines) this.#tail.shift()
  }
}

function describeEnding(ending: Ending | undefined): string {
  if (ending === undefined) return 'it is still running'
  return ending.signal === null ? `it ended with exit code ${ending.code ?? 'unknown'}` : `it was ended by ${ending.signal}`
}

function whenEnded(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    child.once('close', () => resolve())
    // A backend that outlives its postmaster for a moment keeps the pipe open, so "close" alone could come late.
    child.once('exit', () => setTimeout(resolve, stderrGraceMs).unref())
  })
}
