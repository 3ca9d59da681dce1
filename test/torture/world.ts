/**
 * The machine's world: PostgreSQL, nodes over it as processes, and between all of them networks that can fail. Whatever is broken here
 * is mended here. Promise: close() leaves no process and no file behind.
 */
import { closeSync, openSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { openFaultProxy, type FaultProxy } from '../support/fault-proxy.ts'
import { freePort } from '../support/ports.ts'
import { startServerProcess, type ServerProcess } from '../support/server-process.ts'
import { Postgres } from './postgres.ts'
import { TABLES } from './schema.ts'

export interface Node {
  readonly name: string
  /** Between it and PostgreSQL, and between clients and it. */
  readonly database: FaultProxy
  readonly clients: FaultProxy
  readonly port: number
  process: ServerProcess | null
}

export const RETENTION_BYTES = 2_000_000
const START_DEADLINE_MS = 30_000

export class World {
  readonly postgres: Postgres
  readonly nodes: readonly Node[]
  /** Channels that may be unknown for the moment. */
  readonly unknown = new Set<string>()
  mayPrepare = false
  isCalm = false
  peakBytes = 0
  readonly #directory: string
  readonly #log: number

  private constructor(postgres: Postgres, nodes: readonly Node[], directory: string) {
    this.postgres = postgres
    this.nodes = nodes
    this.#directory = directory
    this.#log = openSync(join(directory, 'nodes.log'), 'a')
  }

  static async start(nodeCount: number): Promise<World> {
    const postgres = await Postgres.start()
    const nodes = await Promise.all(Array.from({ length: nodeCount }, async (_, index): Promise<Node> => {
      const port = await freePort()
      const [database, clients] = await Promise.all([openFaultProxy(postgres.url), openFaultProxy(`http://127.0.0.1:${port}`)])
      return { name: `node ${index + 1}`, port, database, clients, process: null }
    }))
    const world = new World(postgres, nodes, await mkdtemp(join(tmpdir(), 'freshet-torture-log-')))
    try {
      await world.query(await readFile(new URL('schema.sql', import.meta.url), 'utf8'))
      await Promise.all(nodes.map((node) => world.startNode(node)))
      // So few that the tables of a run can be filled and emptied.
      await world.query(`select freshet.configure('bulk_rows', '2000')`)
      for (const { name, filter } of TABLES) await world.watch(name, filter === null ? [] : [filter.column])
      for (const node of nodes) await persist(() => world.#knowsAll(node), START_DEADLINE_MS)
      return world
    } catch (error) {
      const said = await world.logTail(40)
      await world.close()
      throw new Error(`the world did not come up; the end of its nodes' log:\n${said}`, { cause: error })
    }
  }

  /** As an administrator would, on a connection made for it. */
  async query<Row extends pg.QueryResultRow>(sql: string, values: readonly unknown[] = []): Promise<readonly Row[]> {
    const client = new pg.Client({ connectionString: this.postgres.url, application_name: 'host:administrator', connectionTimeoutMillis: 5_000, query_timeout: 60_000 })
    client.on('error', () => undefined)
    await client.connect()
    try {
      return (await client.query<Row>(sql, [...values])).rows
    } finally {
      await client.end().catch(() => undefined)
    }
  }

  async watch(table: string, filters: readonly string[]): Promise<void> {
    await this.query('select freshet.watch($1::regclass, filters => $2)', [`public.${table}`, filters])
  }

  async startNode(node: Node): Promise<void> {
    node.process = await startServerProcess({
      log: this.#log,
      environment: {
        DATABASE_URL: node.database.url, PORT: String(node.port), RATE_LIMIT: '0', DRAIN_SECONDS: '1', LOG_LEVEL: 'info',
        RETENTION_BYTES: String(RETENTION_BYTES), RETENTION_HOURS: '1',
      },
    })
  }

  async stopNode(node: Node, how: 'stop' | 'kill'): Promise<void> {
    const { process } = node
    // Before it goes, so that its end is no surprise.
    node.process = null
    await this.#measure(process)
    await process?.[how]()
  }

  /** The node whose clock numbers versions, as far as can be told. */
  async leader(): Promise<Node> {
    for (const node of this.nodes) {
      const metrics = await fetch(`http://127.0.0.1:${node.port}/metrics`, { signal: AbortSignal.timeout(2_000) }).then((response) => response.text(), () => '')
      if (/^freshet_leader 1$/m.test(metrics)) return node
    }
    const [first] = this.nodes
    if (first === undefined) throw new Error('there is no node')
    return first
  }

  /** Nodes that ended though nobody told them to, and how. */
  get died(): readonly string[] {
    return this.nodes.flatMap(({ name, process }) => process?.ending == null ? [] : [`${name} ended: ${process.ending}`])
  }

  /** Ends what is left of any fault of a network. */
  heal(): void {
    for (const { database, clients } of this.nodes) for (const proxy of [database, clients]) proxy.mend({ breaksDead: true })
  }

  async measure(): Promise<void> {
    await Promise.all(this.nodes.map(({ process }) => this.#measure(process)))
  }

  /** The end of what the nodes have logged. */
  async logTail(lines: number): Promise<string> {
    return (await readFile(join(this.#directory, 'nodes.log'), 'utf8')).trimEnd().split('\n').slice(-lines).join('\n')
  }

  async close(): Promise<void> {
    await Promise.all(this.nodes.map(async (node) => {
      await this.stopNode(node, 'kill')
      node.database.close()
      node.clients.close()
    }))
    closeSync(this.#log)
    await this.postgres.remove()
    await rm(this.#directory, { recursive: true, force: true })
  }

  /** Throws until the node serves every channel. */
  async #knowsAll({ name, port }: Node): Promise<void> {
    const answers = await Promise.all(TABLES.map((table) => fetch(`http://127.0.0.1:${port}/v1/channels/${table.name}`)))
    if (answers.some(({ status }) => status !== 200)) throw new Error(`${name} does not know every channel`)
  }

  async #measure(process: ServerProcess | null): Promise<void> {
    this.peakBytes = Math.max(this.peakBytes, await process?.peakBytes() ?? 0)
  }
}

/** Tries until it works. Throws the last error after `deadlineMs`. */
export async function persist<T>(work: () => Promise<T>, deadlineMs: number): Promise<T> {
  const startedMs = Date.now()
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if (Date.now() - startedMs > deadlineMs) throw error
      await delay(100)
    }
  }
}
