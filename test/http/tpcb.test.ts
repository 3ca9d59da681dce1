/**
 * Real input that nobody here wrote: pgbench's TPC-B moves money through three tables in each transaction. At every version that any
 * client reaches, on any transport, the three sums are equal; at the end each client holds what SELECT returns.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startChildServer } from '../support/child-server.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { openStream, type Delta } from '../support/sse.ts'
import { findExecutable, requireTool } from '../support/tools.ts'

const pgbench = findExecutable('pgbench', ['/usr/lib/postgresql/15/bin'])
const seconds = Number(process.env['TPCB_SECONDS'] ?? 10)

const TABLES = ['accounts', 'tellers', 'branches'] as const
const BALANCE = { accounts: 'abalance', tellers: 'tbalance', branches: 'bbalance' } as const

/** The server is a process of its own: six clients that parse a hundred thousand rows each must not be what it waits for. */
interface TestServer {
  readonly url: string
  readonly database: TestDatabase
  get(path: string, headers?: Readonly<Record<string, string>>): Promise<Response>
  stop(): Promise<void>
}

async function startServer(): Promise<TestServer> {
  const database = await createDatabase()
  const child = await startChildServer(database.url)
  return { url: child.url, database, stop: () => child.stop(), get: (path, headers = {}) => fetch(child.url + path, { headers }) }
}

/** One channel as one client holds it, with the sum of its balances. */
class Ledger {
  readonly #column: string
  readonly #balances = new Map<string, number>()
  #parts: Delta[] = []
  version: string | null = null
  sum = 0

  constructor(table: (typeof TABLES)[number]) {
    this.#column = BALANCE[table]
  }

  get size(): number {
    return this.#balances.size
  }

  stage(delta: Delta): void {
    this.#parts.push(delta)
  }

  /** Applies what has been staged, all at once. */
  commit(version: string): void {
    if (this.#parts.some(({ reset }) => reset)) {
      this.#balances.clear()
      this.sum = 0
    }
    for (const { key, row } of this.#parts.flatMap(({ changes }) => changes)) {
      const name = JSON.stringify(key)
      const balance = Number(row?.[this.#column] ?? 0)
      this.sum += balance - (this.#balances.get(name) ?? 0)
      this.#balances.set(name, balance)
    }
    this.#parts = []
    this.version = version
  }

  drop(): void {
    this.#parts = []
  }
}

type Books = Readonly<Record<(typeof TABLES)[number], Ledger>>

function openBooks(): Books {
  return { accounts: new Ledger('accounts'), tellers: new Ledger('tellers'), branches: new Ledger('branches') }
}

/** Every sum that any client has seen, by version. */
class Auditor {
  readonly #sums = new Map<string, number>()
  readonly torn: string[] = []
  readonly backwards: string[] = []

  get versions(): number {
    return this.#sums.size
  }

  /** The sum of one channel at a version, or of all three. */
  see(version: string, sum: number, where: string): void {
    const known = this.#sums.get(version)
    if (known === undefined) this.#sums.set(version, sum)
    else if (known !== sum) this.torn.push(`${where} at ${version}: ${sum}, elsewhere ${known}`)
  }

  grows(before: string | null, after: string, where: string): void {
    if (before !== null && numberOf(after) < numberOf(before)) this.backwards.push(`${where}: ${before} then ${after}`)
  }
}

const numberOf = (version: string): number => Number(version.split('.')[1])
const isTable = (name: string): name is (typeof TABLES)[number] => (TABLES as readonly string[]).includes(name)

interface End {
  readonly isOver: () => boolean
  /** Whether it is over and the version the last. */
  readonly hasAll: (version: string | null) => boolean
}

/** Follows all three channels on one connection; `reconnects`: leaves at random moments and comes back with its version. */
async function followTogether(test: TestServer, auditor: Auditor, { isOver, hasAll }: End, reconnects: boolean): Promise<Books> {
  const books = openBooks()
  const at: { version: string | null } = { version: null }
  while (!isOver() || at.version === null) {
    const stream = await openStream(`${test.url}/v1/stream?channels=${TABLES.join(',')}`, at.version === null ? {} : { 'Last-Event-ID': at.version }, (delta) => {
      if (!isTable(delta.channel)) return
      books[delta.channel].stage(delta)
      if (delta.more) return
      auditor.grows(at.version, delta.version, 'together')
      at.version = delta.version
      for (const table of TABLES) {
        books[table].commit(delta.version)
        auditor.see(delta.version, books[table].sum, `together ${table}`)
      }
    })
    if (at.version === null) await stream.delta(({ more }) => !more)
    const leavesAt = reconnects ? performance.now() + 100 + Math.random() * 400 : Infinity
    while (!(reconnects ? isOver() : hasAll(at.version)) && performance.now() < leavesAt) await new Promise((resolve) => setTimeout(resolve, 20))
    stream.close()
    await stream.ended
    for (const table of TABLES) books[table].drop()
  }
  return books
}

async function followAlone(test: TestServer, auditor: Auditor, { hasAll }: End): Promise<Books> {
  const books = openBooks()
  const streams = await Promise.all(TABLES.map((table) => openStream(`${test.url}/v1/channels/${table}/stream`, {}, (delta) => {
    const ledger = books[table]
    ledger.stage(delta)
    if (delta.more) return
    auditor.grows(ledger.version, delta.version, `stream ${table}`)
    ledger.commit(delta.version)
    auditor.see(delta.version, ledger.sum, `stream ${table}`)
  })))
  while (!TABLES.every((table) => hasAll(books[table].version))) await new Promise((resolve) => setTimeout(resolve, 20))
  for (const stream of streams) stream.close()
  return books
}

async function pollAll(test: TestServer, auditor: Auditor, isOver: () => boolean, how: 'since' | 'etag' | 'wait'): Promise<Books> {
  const books = openBooks()
  await Promise.all(TABLES.map(async (table) => {
    const ledger = books[table]
    let isLast = false
    while (!isLast) {
      // One more poll after the end, so that everybody arrives.
      isLast = isOver()
      const query = ledger.version === null || how === 'etag' ? '' : `?since=${ledger.version}${how === 'wait' && !isLast ? '&wait=1' : ''}`
      const response = await test.get(`/v1/channels/${table}/changes${query}`, how === 'etag' && ledger.version !== null ? { 'If-None-Match': `W/"${ledger.version}"` } : {})
      if (response.status === 200) {
        const delta = await response.json() as Delta
        auditor.grows(ledger.version, delta.version, `poll ${table}`)
        ledger.stage(delta)
        ledger.commit(delta.version)
        auditor.see(delta.version, ledger.sum, `poll ${how} ${table}`)
      } else if (response.status !== 304) {
        throw new Error(`poll answered ${response.status}: ${await response.text()}`)
      }
      if (how !== 'wait') await new Promise((resolve) => setTimeout(resolve, 30))
    }
  }))
  return books
}

describe.skipIf(!hasPostgres || !requireTool('pgbench', pgbench !== null))('pgbench through Freshet', () => {
  let test: TestServer
  beforeAll(async () => { test = await startServer() })
  afterAll(() => test.stop())

  it("Whole: at every version the three sums are equal, on every transport", { timeout: 60_000 + seconds * 3_000 }, async () => {
    await runPgbench(test.database.url, ['-i', '-q'])
    await test.database.query(TABLES.map((table) => `select freshet.watch('pgbench_${table}', '${table}')`).join(';'))
    await expect.poll(async () => (await test.get('/v1/channels/branches')).status).toBe(200)

    // Independent: an idle transaction with an id of its own delays nobody.
    const idle = await test.database.connect()
    await idle.query('begin; create table idle (id int)')

    const auditor = new Auditor()
    let last: string | null = null
    const over = (): boolean => last !== null
    const end: End = { isOver: over, hasAll: (version) => last !== null && version === last }
    const clients = [
      followTogether(test, auditor, end, false), followTogether(test, auditor, end, true), followAlone(test, auditor, end),
      pollAll(test, auditor, over, 'since'), pollAll(test, auditor, over, 'etag'), pollAll(test, auditor, over, 'wait'),
    ]
    await runPgbench(test.database.url, ['-n', '-c', '8', '-j', '1', '-T', String(seconds)])
    const [truth] = await test.database.query<{ sum: string; changed: string }>('select sum(abalance) as sum, count(*) filter (where abalance <> 0) as changed from pgbench_accounts')
    const head = await settledHead(test)
    last = head
    const books = await Promise.all(clients)
    await idle.query('rollback')

    expect(auditor.torn).toEqual([])
    expect(auditor.backwards).toEqual([])
    // A run in which nothing happened would prove nothing.
    expect(auditor.versions).toBeGreaterThan(20)
    for (const [index, { accounts, tellers, branches }] of books.entries()) {
      const isReconnecting = index === 1
      expect([accounts.size, tellers.size, branches.size]).toEqual([100_000, 10, 1])
      // The one that reconnects may have left just before the end.
      if (isReconnecting) continue
      const sum = Number(truth?.sum)
      expect({ index, versions: [accounts.version, tellers.version, branches.version], sums: [accounts.sum, tellers.sum, branches.sum] })
        .toEqual({ index, versions: [head, head, head], sums: [sum, sum, sum] })
    }
    console.log(`TPC-B: ${auditor.versions} versions compared, ${truth?.changed} accounts changed`)
  })
})

/** The version at which a quiet database comes to rest. */
async function settledHead(test: TestServer): Promise<string> {
  for (;;) {
    const { version } = await (await test.get('/v1/channels/branches/changes')).json() as Delta
    const held = await (await test.get(`/v1/channels/branches/changes?since=${version}&wait=1`)).json() as Delta
    if (held.version === version) return version
  }
}

async function runPgbench(url: string, parameters: readonly string[]): Promise<void> {
  const child = spawn(pgbench ?? 'pgbench', [...parameters, url], { stdio: ['ignore', 'ignore', 'pipe'] })
  let stderr = ''
  child.stderr.on('data', (chunk: Buffer) => { stderr += chunk.toString() })
  const [code] = await once(child, 'close') as [number]
  if (code !== 0) throw new Error(`pgbench failed: ${stderr}`)
}
