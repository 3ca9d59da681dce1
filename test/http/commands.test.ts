/** The commands as an operator meets them: child processes with their output, against real servers and databases. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { turnLog } from '../../src/clock/retention.ts'
import { createPool } from '../../src/database/pool.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { freePort } from '../support/ports.ts'
import { startTestServer, type PollBody, type TestServer } from '../support/server.ts'
import { findExecutable, requireTool } from '../support/tools.ts'

const project = fileURLToPath(new URL('../..', import.meta.url))
const COMMAND = [process.execPath, '--import', 'tsx', join(project, 'src/main.ts')]
const script = findExecutable('script')

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean()
})

interface Ending {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

interface Running {
  readonly child: ChildProcess
  /** Resolves to the first line of standard output, past or coming, that fits. */
  readonly line: (fits: (line: string) => boolean) => Promise<string>
  /** The first line of standard error that fits. */
  readonly complaint: (fits: (line: string) => boolean) => Promise<string>
  readonly ended: Promise<Ending>
}

type Environment = Readonly<Record<string, string>>

function launch(args: readonly string[], environment: Environment = {}, command: readonly string[] = COMMAND): Running {
  const [program = '', ...first] = command
  const { PATH = '', HOME = '' } = process.env
  const child = spawn(program, [...first, ...args], { cwd: project, env: { PATH, HOME, STATE_DIR: '/nonexistent', ...environment }, stdio: ['ignore', 'pipe', 'pipe'] })
  cleanups.push(() => child.kill('SIGKILL'))
  const [stdout, stderr] = [collectLines(child.stdout), collectLines(child.stderr)]
  const ended = new Promise<Ending>((resolve) => {
    child.once('close', (code) => resolve({ code, stdout: stdout.text(), stderr: stderr.text() }))
  })
  return { child, line: stdout.line, complaint: stderr.line, ended }
}

function collectLines(stream: Readable): Pick<Running, 'line'> & { readonly text: () => string } {
  const lines: string[] = []
  const waiters = new Set<() => void>()
  let hasEnded = false
  const wake = (): void => { for (const look of waiters) look() }
  createInterface({ input: stream }).on('line', (line) => { lines.push(line); wake() }).on('close', () => { hasEnded = true; wake() })
  return {
    text: () => lines.join('\n'),
    line: (fits) => new Promise((resolve, reject) => {
      const look = (): void => {
        const found = lines.find(fits)
        if (found === undefined && !hasEnded) return
        waiters.delete(look)
        if (found !== undefined) resolve(found)
        else reject(new Error(`the output ended without such a line:\n${lines.join('\n')}`))
      }
      waiters.add(look)
      look()
    }),
  }
}

function freshet(args: readonly string[], environment: Environment = {}): Promise<Ending> {
  return launch(args, environment).ended
}

type Delta = Omit<PollBody, 'poll_after_ms' | 'poll_reason'>

/** The first Delta of a `tail` in a pipe that fits. */
async function delta(running: Running, fits: (delta: Delta) => boolean): Promise<Delta> {
  return JSON.parse(await running.line((line) => fits(JSON.parse(line) as Delta))) as Delta
}

const hasKey = (id: number) => ({ changes, reset }: Delta): boolean => !reset && changes.some(({ key }) => key['id'] === id)

describe('the command line', () => {
  it('describes itself, and each command', async () => {
    const { code, stdout } = await freshet(['--help'])
    expect(code).toBe(0)
    for (const name of ['start', 'watch', 'unwatch', 'channels', 'tail', 'status', 'check', 'migrate']) expect(stdout).toMatch(new RegExp(`^  ${name} `, 'm'))
    const [tail, same] = await Promise.all([freshet(['tail', '--help']), freshet(['help', 'tail'])])
    expect(tail).toMatchObject({ code: 0, stderr: '' })
    expect(tail.stdout).toContain('Usage: freshet tail <channel> [--since <version>] [--filter <column=value>]… [--url <url>]')
    expect(same.stdout).toBe(tail.stdout)
    expect((await freshet(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+$/)
  })

  it.each([
    [['fly'], 'freshet: there is no command "fly"; run "freshet --help" for the commands there are.'],
    [['--fly'], 'freshet: there is no option "--fly"; run "freshet --help" for the options there are.'],
    [['status', '--fly'], `freshet: status: unknown option '--fly'; run "freshet status --help" for its options.`],
    [['tail'], 'freshet: tail needs a <channel>; write it as "freshet tail <channel> [--since <version>] [--filter <column=value>]… [--url <url>]".'],
    [['unwatch', 'a', 'b'], 'freshet: unwatch does not take "b"; write it as "freshet unwatch <channel>".'],
    [['tail', 'a', '--filter', 'b'], 'freshet: --filter is "b"; write it as --filter column=value.'],
    [['status', '--url', 'localhost'], 'freshet: --url is "localhost"; write it as http://host:port.'],
    [['check'], 'freshet: DATABASE_URL is empty and the embedded PostgreSQL does not run; start it with "freshet start", or set DATABASE_URL.'],
  ])('refuses %j in one sentence, with the cure', async (args, sentence) => {
    expect(await freshet(args)).toEqual({ code: 1, stdout: '', stderr: sentence })
  })

  it('says that nobody answers', async () => {
    const environment = { PORT: '1', DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none' }
    const [status, tail, check] = await Promise.all([freshet(['status', '--url', 'http://127.0.0.1:1049'], environment), freshet(['tail', 'a', '--url', 'http://127.0.0.1:1049']), freshet(['check'], environment)])
    const sentence = 'freshet: no server answers at http://127.0.0.1:1049 (ECONNREFUSED); start it with "freshet start", or pass its address with --url.'
    expect(status).toEqual({ code: 1, stdout: '', stderr: sentence })
    expect(tail).toEqual({ code: 1, stdout: '', stderr: sentence })
    expect(check).toEqual({ code: 1, stdout: '', stderr: 'freshet: nothing listens at the address in DATABASE_URL; start PostgreSQL there or correct DATABASE_URL.' })
  })
})

describe.skipIf(!hasPostgres)('watch and unwatch', () => {
  let database: TestDatabase
  let environment: Environment
  beforeAll(async () => {
    database = await createDatabase()
    environment = { DATABASE_URL: database.url }
    await database.query(`create table public.items (id int primary key, shelf text, note text); create table public.keyless (id int)`)
  })

  it('makes a table a channel as told, and forgets it', async () => {
    expect(await freshet(['watch', 'items', '--channel', 'things', '--filters', 'shelf', '--columns', 'shelf,note', '--private'], environment))
      .toEqual({ code: 0, stdout: 'watching items as channel things', stderr: '' })
    expect(await database.query('select name, columns, filters, public from freshet.channels'))
      .toEqual([{ name: 'things', columns: ['id', 'note', 'shelf'], filters: ['shelf'], public: false }])
    expect(await freshet(['unwatch', 'things'], environment)).toEqual({ code: 0, stdout: 'channel things is gone', stderr: '' })
    expect(await freshet(['unwatch', 'things'], environment))
      .toEqual({ code: 1, stdout: '', stderr: 'freshet: there is no channel "things"; run "freshet channels" for those there are.' })
  })

  it("shows PostgreSQL's error with its hint", async () => {
    expect(await freshet(['watch', 'keyless'], environment))
      .toEqual({ code: 1, stdout: '', stderr: 'freshet: cannot watch public.keyless: it has no primary key; add one: alter table ... add primary key (...).' })
    expect(await freshet(['watch', 'nothing'], environment))
      .toEqual({ code: 1, stdout: '', stderr: 'freshet: relation "nothing" does not exist; write the table as schema.table, in double quotes where it has capitals.' })
  })

  it('asks for migrate where the schema is missing, which installs it', async () => {
    const empty = { DATABASE_URL: (await createDatabase({ migrated: false })).url }
    expect((await freshet(['unwatch', 'a'], empty)).stderr).toBe('freshet: schema "freshet" does not exist; run "freshet migrate" first.')
    const migrated = await freshet(['migrate'], empty)
    expect(migrated.code).toBe(0)
    expect(migrated.stdout).toMatch(/^applied 0001_schema\.sql\n/)
    expect(await freshet(['migrate'], empty)).toEqual({ code: 0, stdout: 'nothing to do: the schema is up to date', stderr: '' })
  })
})

describe.skipIf(!hasPostgres)('channels, status and tail', () => {
  let server: TestServer
  beforeAll(async () => {
    server = await startTestServer({ setup: `create table public.items (id int primary key, shelf text, note text); select freshet.watch('public.items', filters => '{shelf}')` })
  })

  it('lists the channels as JSON in a pipe', async () => {
    const { code, stdout } = await freshet(['channels', '--url', server.url])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ channels: [{ name: 'items', key: ['id'], filters: ['shelf'], status: 'live' }] })
  })

  it('tells a ready server by its exit code, and an unready one with the cause', async () => {
    const { host, port } = splitAddress(server.url)
    const ready = await freshet(['status'], { HOST: host, PORT: port })
    expect(ready).toMatchObject({ code: 0, stderr: '' })
    expect(JSON.parse(ready.stdout)).toMatchObject({ status: 'ready', checks: { clock: { ok: true } }, channels: [{ name: 'items', changes_per_minute: expect.any(Number) as number }] })
    await server.database.query(`insert into freshet.migrations values (9999, '9999_future.sql', '')`)
    const unready = await freshet(['status', '--url', server.url])
    expect(unready.code).toBe(1)
    expect(JSON.parse(unready.stdout)).toMatchObject({ status: 'unready', checks: { migrations: { ok: false } } })
    await server.database.query('delete from freshet.migrations where id = 9999')
  })

  it('follows a channel, a Delta a line, until interrupted', async () => {
    const tail = launch(['tail', 'items', '--url', server.url])
    const state = await delta(tail, ({ reset }) => reset)
    await server.database.query(`insert into public.items values (1, 'top', 'tea')`)
    const change = await delta(tail, hasKey(1))
    expect(change).toMatchObject({ channel: 'items', since: state.version, reset: false, more: false, changes: [{ op: 'upsert', key: { id: 1 }, row: { id: 1, shelf: 'top', note: 'tea' } }] })
    tail.child.kill('SIGINT')
    expect(await tail.ended).toMatchObject({ code: 0, stderr: '' })
  })

  it('begins where it is told, and only with the rows it is told', async () => {
    const { version } = await server.poll('items')
    await server.database.query(`insert into public.items values (10, 'low', null), (11, 'high', null)`)
    const tail = launch(['tail', 'items', '--url', server.url, '--since', version, '--filter', 'shelf=high'])
    expect(await delta(tail, () => true)).toMatchObject({ reset: false, since: version, changes: [{ op: 'upsert', key: { id: 11 } }] })
  })

  it('ends without a word when its reader has seen enough', async () => {
    const tail = launch(['tail', 'items', '--url', server.url])
    await delta(tail, ({ reset }) => reset)
    tail.child.stdout?.destroy()
    await server.database.query(`insert into public.items values (20, 'top', null)`)
    expect(await tail.ended).toMatchObject({ code: 0, stderr: '' })
  })

  it('names a channel that is not there', async () => {
    expect(await freshet(['tail', 'nothing', '--url', server.url]))
      .toEqual({ code: 1, stdout: '', stderr: 'freshet: there is no channel "nothing"; run "freshet channels" for those there are.' })
    expect((await freshet(['tail', 'items', '--filter', 'id=1', '--url', server.url])).stderr).toMatch(/^freshet: .*; .*\.$/)
    expect((await freshet(['tail', 'items', '--url', `${server.url}/elsewhere`])).stderr).toMatch(/^freshet: there is nothing at .*; see \/docs/)
  })

  it('comes back to a server that was away, with nothing lost and nothing twice', async () => {
    const database = await createDatabase()
    const environment = { PORT: String(await freePort()) }
    const first = await startTestServer({ database, environment, setup: `create table public.items (id int primary key); select freshet.watch('public.items')` })
    const tail = launch(['tail', 'items', '--url', first.url])
    const state = await delta(tail, ({ reset }) => reset)
    await first.close()
    await tail.complaint((line) => line.includes('trying again in'))
    await database.query('insert into public.items values (1)')
    await startTestServer({ database, environment })
    expect(await delta(tail, hasKey(1))).toMatchObject({ since: state.version, changes: [{ op: 'upsert', row: { id: 1 } }] })
  })

  it.skipIf(!requireTool('script', script !== null))('draws for a person on a terminal, in colour unless told otherwise', async () => {
    await server.database.query(`truncate public.items; insert into public.items values (1, 'top', 'tea'), (2, 'top', 'milk')`)
    const colours = launch([], {}, onTerminal(['tail', 'items', '--url', server.url]))
    const plain = launch([], { NO_COLOR: '1' }, onTerminal(['tail', 'items', '--url', server.url]))
    await Promise.all([colours, plain].map(({ line }) => line((text) => text.includes('reset: 2 rows'))))
    await server.database.query(`update public.items set note = E'\\u009b2J' where id = 1; insert into public.items values (3); delete from public.items where id = 2`)
    await Promise.all([colours, plain].map(({ line }) => line((text) => /- .*2|-.*2$/.test(text.trimEnd()) && !text.includes('reset'))))
    for (const { child } of [colours, plain]) child.kill('SIGTERM')
    const [drawn, text] = await Promise.all([colours.ended, plain.ended])
    expect(drawn.stdout).toContain('\u001b[')
    expect(text.stdout).not.toContain('\u001b[')
    expect(text.stdout).toMatch(/^\d\d:\d\d:\d\d {2}\w+\.\d+ {2}~ 1 {2}{"shelf":"top","note":"\\u009b2J"}\r?$/m)
    expect(text.stdout).toMatch(/ {2}\+ 3 {2}{"shelf":null,"note":null}/)
    expect(text.stdout).toMatch(/ {2}- 2\r?$/m)
    const status = await launch([], { NO_COLOR: '1' }, onTerminal(['status', '--url', server.url])).ended
    expect(status.stdout).toMatch(/ {2}ready {2}\w+\.\d+[^]*ok {7}database {4}PostgreSQL answers\.[^]*CHANNEL +VERSION +CHANGES\/MIN +STATUS\r?\nitems /)
    expect((await launch([], { NO_COLOR: '1' }, onTerminal(['channels', '--url', server.url])).ended).stdout).toMatch(/items +id +shelf +id, shelf, note +live/)
  })
})

function splitAddress(url: string): { readonly host: string; readonly port: string } {
  const { hostname: host, port } = new URL(url)
  return { host, port }
}

/** The command line that runs freshet on a terminal of its own. */
function onTerminal(args: readonly string[]): readonly string[] {
  return [script ?? '', '--quiet', '--return', '--flush', '--command', [...COMMAND, ...args].map((part) => `'${part}'`).join(' '), '/dev/null']
}

describe.skipIf(!hasPostgres)('check', () => {
  it('fails where something would not work, and says how to mend it', async () => {
    const database = await createDatabase()
    await database.query(`create table public.items (id int primary key); select freshet.watch('public.items'); select freshet.configure('wake', 'poll')`)
    const environment = { DATABASE_URL: database.url }
    const whole = await freshet(['check'], environment)
    expect(whole).toMatchObject({ code: 0, stderr: '' })
    expect(whole.stdout).toContain('ok       public.items is captured for items')
    await database.query('alter table public.items disable trigger all')
    const broken = await freshet(['check'], environment)
    expect(broken.code).toBe(1)
    expect(broken.stdout).toMatch(/^problem {2}channel items does not capture public\.items: trigger freshet_insert_1 on public\.items is disabled\n {9}cure: .* select freshet\.watch\(/m)
  })

  it('prints grants with which a server starts, serves a change, turns its log and begins a new epoch', async () => {
    const database = await createDatabase()
    await database.query(`create schema shop; create table shop.items (id int primary key, note text); select freshet.watch('shop.items', filters => '{note}')`)
    const role = `server_${Math.random().toString(36).slice(2)}`
    const grants = await freshet(['check', '--grants', role], { DATABASE_URL: database.url })
    expect(grants.code).toBe(0)
    expect(grants.stdout).toContain(`-- There is no such role yet: create role ${role}`)
    await database.query(`create role ${role} login password 'secret'; revoke all on schema public from public; ${grants.stdout}`)
    // Another cluster's: the new epoch has to empty the log, beside an open writer and without.
    await database.query(`update freshet.state set identity = 'elsewhere'; insert into shop.items values (1, 'before')`)
    const writer = await database.connect()
    await writer.query(`begin; insert into shop.items values (2, 'open')`)

    const url = new URL(database.url)
    url.username = role
    url.password = 'secret'
    const server = await startTestServer({ database: { ...database, url: url.href }, environment: { MIGRATE: '0' } })
    expect((await freshet(['check'], { DATABASE_URL: url.href })).code).toBe(0)
    const { version, changes } = await server.poll('items')
    expect(changes).toMatchObject([{ key: { id: 1 } }])
    await writer.query('commit')
    const second = await server.pollUntilChanged('items', version)
    expect(second).toMatchObject({ reset: false, changes: [{ op: 'upsert', row: { id: 2, note: 'open' } }] })
    expect((await server.poll('items', '?note=open')).changes).toHaveLength(1)

    const pool = createPool({ url: url.href, max: 2, onError: () => undefined })
    cleanups.push(() => pool.end())
    for (const slot of ['1', '0']) {
      expect(await turnLog({ pool, keepMs: 0, maxBytes: 1 })).toBe(true)
      expect(await database.query('select last_value from freshet.slot')).toEqual([{ last_value: slot }])
    }
    await database.query(`insert into shop.items values (3, 'after')`)
    expect(await server.pollUntilChanged('items', second.version)).toMatchObject({ changes: expect.arrayContaining([expect.objectContaining({ key: { id: 3 } })]) as unknown })

    await server.close()
    // As after a day without a server, beside a writer of whom nothing is captured any more.
    await database.query(`select setval('freshet.awake_until', 1), setval('freshet.abandoned_after', 1)`)
    await writer.query(`begin; insert into shop.items values (4, 'unseen')`)
    const again = await startTestServer({ database: { ...database, url: url.href }, environment: { MIGRATE: '0' } })
    expect(await database.query(`select from freshet.state where identity like '%resuming'`)).toHaveLength(1)
    await writer.query('commit')
    await expect.poll(() => database.query(`select from freshet.state where identity like '%resuming'`)).toEqual([])
    const tail = launch(['tail', 'items', '--url', again.url, '--since', version])
    expect((await delta(tail, ({ reset, more }) => reset && !more)).changes).toHaveLength(4)
    expect([...server.warnings, ...again.warnings]).toEqual([])
  })
})

describe.skipIf(!hasPostgres)('the embedded database', () => {
  // A new cluster, and six processes one after another.
  it('is found by the other commands while it runs, and not after', { timeout: 180_000 }, async () => {
    const directory = await mkdtemp(join(tmpdir(), 'freshet-commands-'))
    cleanups.push(() => rm(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 }))
    // The user that runs PostgreSQL has to pass through it.
    await chmod(directory, 0o755)
    const environment = { STATE_DIR: directory, PORT: '0', LOG_LEVEL: 'warn', DRAIN_SECONDS: '0' }
    const server = launch(['start'], environment)
    const page = await server.line((line) => line.includes('Page'))
    expect(await freshet(['watch', 'public.options', '--channel', 'votes', '--filters', 'label'], environment))
      .toEqual({ code: 0, stdout: 'watching public.options as channel votes', stderr: '' })
    const check = await freshet(['check'], environment)
    expect(check).toMatchObject({ code: 0, stderr: '' })
    expect(check.stdout).toContain('public.options is captured for options, votes')
    const url = /http:\/\/[^/]+/.exec(page)?.[0] ?? ''
    const tail = launch(['tail', 'votes', '--url', url, '--filter', 'label=Espresso'])
    expect((await delta(tail, ({ reset }) => reset)).changes).toHaveLength(1)
    server.child.kill('SIGTERM')
    expect((await server.ended).code).toBe(0)
    expect(spawnSync(process.execPath, COMMAND.slice(1).concat('unwatch', 'votes'), { cwd: project, env: { PATH: process.env['PATH'] ?? '', ...environment } }).stderr.toString())
      .toBe('freshet: DATABASE_URL is empty and the embedded PostgreSQL does not run; start it with "freshet start", or set DATABASE_URL.\n')
  })
})
