/**
 * Where a line is measured: a PostgreSQL, servers, floors and crowds, each in a process of its own, all gone with the line.
 * The server runs from the built JavaScript, as in production; PostgreSQL with its default durability.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { startEmbedded } from '../src/database/embedded.ts'
import { startServerProcess } from '../test/support/server-process.ts'
import { Child, SETTLING, type Service } from './child.ts'
import type { Crowd } from './crowd.ts'
import { startNchan, type Nchan } from './floors/nchan.ts'
import type { CurvePoint } from './line.ts'
import { cpuMs, postgresCpuMs } from './usage.ts'

export interface Postgres {
  readonly url: string
  /** One connection, for whoever sets up or writes. */
  readonly client: pg.Client
  /** Another. */
  connect(): Promise<pg.Client>
  /** User and system time of all its processes so far. */
  cpuMs(): Promise<number>
}

export interface Freshet {
  readonly url: string
  readonly port: number
  readonly processId: number
  cpuMs(): Promise<number>
  /** Resolves when the channel is served. */
  serves(channel: string): Promise<void>
}

export class Lab {
  /** Points that lines leave for the chart. */
  readonly curve: CurvePoint[] = []
  readonly #closers: (() => Promise<unknown>)[] = []

  async postgres(settings: Readonly<Record<string, string>> = {}): Promise<Postgres> {
    const directory = await mkdtemp(join(tmpdir(), 'freshet-bench-'))
    this.#closers.push(() => rm(directory, { recursive: true, force: true }))
    const server = await startEmbedded({ directory, database: 'bench', settings })
    this.#closers.push(() => server.stop())
    const connect = async (): Promise<pg.Client> => {
      const client = new pg.Client({ connectionString: server.url })
      await client.connect()
      this.#closers.push(() => client.end())
      return client
    }
    return { url: server.url, client: await connect(), connect, cpuMs: () => postgresCpuMs(server.processId) }
  }

  async freshet(postgres: Postgres, environment: Readonly<Record<string, string>> = {}): Promise<Freshet> {
    const server = await startServerProcess({
      environment: { DATABASE_URL: postgres.url, PORT: '0', LOG_LEVEL: 'warn', RATE_LIMIT: '0', DRAIN_SECONDS: '0', NODE_ENV: 'production', ...environment },
      program: [...SETTLING, 'dist/main.js'],
    })
    this.#closers.push(() => server.stop())
    return {
      url: server.url, port: Number(new URL(server.url).port), processId: server.processId,
      cpuMs: () => cpuMs(server.processId),
      async serves(channel) {
        while ((await fetch(`${server.url}/v1/channels/${channel}`)).status !== 200) await delay(20)
      },
    }
  }

  crowd(): Child<Crowd> {
    return this.child<Crowd>('crowd.ts')
  }

  /** `file`: from this folder. */
  child<S extends Service>(file: string): Child<S> {
    const child = new Child<S>(file)
    this.#closers.push(() => child.stop())
    return child
  }

  async nchan(): Promise<Nchan> {
    const nchan = await startNchan()
    this.#closers.push(() => nchan.stop())
    return nchan
  }

  /** For what a line has started by itself. */
  closes(close: () => Promise<unknown>): void {
    this.#closers.push(close)
  }

  /** Ends everything that was started, the last first. */
  async close(): Promise<void> {
    for (const close of this.#closers.splice(0).reverse()) await close()
  }
}
