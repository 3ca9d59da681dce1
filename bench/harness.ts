/** What the benchmarks share: a PostgreSQL and a server in processes of their own, percentiles, and a reader of event streams. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { mkdtemp, rm } from 'node:fs/promises'
import { get, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { startEmbedded } from '../src/database/embedded.ts'

export interface Bench {
  readonly databaseUrl: string
  readonly database: pg.Client
  /** The server's address and process. */
  readonly url: string
  readonly server: ChildProcess
  close(): Promise<void>
}

/** A fresh PostgreSQL with default durability and a server on it, in a process of its own. */
export async function startBench(): Promise<Bench> {
  const directory = await mkdtemp(join(tmpdir(), 'freshet-bench-'))
  const postgres = await startEmbedded({ directory, database: 'bench' })
  const server = spawn(process.execPath, ['--import', 'tsx', 'src/main.ts', 'start'], {
    env: { ...process.env, PORT: '0', DATABASE_URL: postgres.url, LOG_LEVEL: 'warn', RATE_LIMIT: '0', DEMO: '0' }, stdio: ['ignore', 'pipe', 'inherit'],
  })
  const url = await addressOf(server)
  const database = new pg.Client({ connectionString: postgres.url })
  await database.connect()
  return {
    databaseUrl: postgres.url, database, url, server,
    async close() {
      await database.end()
      server.kill('SIGTERM')
      await once(server, 'exit')
      await postgres.stop()
      await rm(directory, { recursive: true, force: true })
    },
  }
}

async function addressOf(server: ChildProcess): Promise<string> {
  let output = ''
  for await (const chunk of server.stdout ?? []) {
    output += String(chunk)
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(output)?.[0]
    if (url !== undefined) return url
  }
  throw new Error(`the server did not start: ${output}`)
}

/** The p-th percentile of some numbers, 0 to 1. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(p * sorted.length))] ?? NaN
}

/** Opens a GET and hands over each chunk as it arrives. */
export async function readChunks(url: string, onChunk: (chunk: Buffer) => void): Promise<IncomingMessage> {
  const request = get(url, { agent: false })
  const [response] = await once(request, 'response') as [IncomingMessage]
  response.on('data', onChunk)
  return response
}

/** Largest resident memory of a process so far, bytes. */
export async function peakMemory(child: ChildProcess): Promise<number> {
  const status = await readFile(`/proc/${child.pid}/status`, 'utf8')
  return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? NaN) * 1_024
}

export async function waitForChannel(url: string, name: string): Promise<void> {
  while ((await fetch(`${url}/v1/channels/${name}`)).status !== 200) await new Promise((resolve) => setTimeout(resolve, 20))
}
