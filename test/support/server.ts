/** A whole server on a free port over a database of its own; closed, and checked to close, with the test file. */
import pino from 'pino'
import { readConfig, type Environment } from '../../src/config.ts'
import { createVote, seedDemo } from '../../src/demo.ts'
import { startServer, type FreshetServer, type StreamTuning } from '../../src/server.ts'
import type { Vote } from '../../src/transport/app.ts'
import { assertConforms } from './contract.ts'
import { createDatabase, type TestDatabase } from './database.ts'
import { closeAtEnd } from './cleanup.ts'

export interface TestServer {
  /** `http://127.0.0.1:port` */
  readonly url: string
  readonly database: TestDatabase
  readonly server: FreshetServer
  /** What was logged at level warn and above. */
  readonly warnings: readonly string[]
  get(path: string, headers?: Readonly<Record<string, string>>): Promise<Response>
  /** A poll's parsed body. */
  poll(channel: string, query?: string): Promise<PollBody>
  /** Polls from `since` on until the answer has a change, and returns it. */
  pollUntilChanged(channel: string, since: string): Promise<PollBody>
  close(): Promise<void>
}

/** A Delta as a test reads it. */
export interface PollBody {
  readonly channel: string
  readonly since: string | null
  readonly version: string
  readonly reset: boolean
  readonly more: boolean
  readonly changes: readonly { readonly op: 'upsert' | 'delete'; readonly key: Readonly<Record<string, unknown>>; readonly row?: Readonly<Record<string, unknown>> }[]
  readonly next?: string
  readonly poll_after_ms: number
  readonly poll_reason: string
}

export interface TestServerOptions {
  /** Statements run before the server starts. */
  readonly setup?: string
  readonly environment?: Environment
  readonly database?: TestDatabase
  /** With the demo's table, channel and votes. */
  readonly demo?: boolean
  /** A way to vote without the demo. */
  readonly vote?: Vote | null
  readonly streams?: StreamTuning
  /** Where the server finds the database, if not directly. */
  readonly databaseUrl?: string
}

export async function startTestServer({ setup, environment, database: given, demo = false, vote = null, streams = {}, databaseUrl }: TestServerOptions = {}): Promise<TestServer> {
  const database = given ?? await createDatabase()
  if (setup !== undefined) await database.query(setup)
  const warnings: string[] = []
  const log = pino({ level: 'warn' }, { write: (line: string) => { warnings.push(line) } })
  const config = readConfig({ PORT: '0', RATE_LIMIT: '0', DRAIN_SECONDS: '0', ...environment })
  const server = await startServer({ config, databaseUrl: databaseUrl ?? database.url, log, vote: demo ? createVote(database.pool) : vote, safetyMs: 1_000, streams })
  if (demo) await seedDemo(database.pool)
  const get = async (path: string, headers: Readonly<Record<string, string>> = {}): Promise<Response> => {
    const response = await fetch(server.url + path, { headers })
    await assertConforms('get', path, response)
    return response
  }
  const poll = async (channel: string, query = ''): Promise<PollBody> =>
    await (await get(`/v1/channels/${channel}/changes${query}`)).json() as PollBody
  await ready(get)
  const test: TestServer = {
    url: server.url, database, server, warnings, get, poll,
    async pollUntilChanged(channel, since) {
      for (;;) {
        const body = await poll(channel, `?since=${since}&wait=5`)
        if (body.changes.length > 0 || body.reset) return body
      }
    },
    close: () => server.close(),
  }
  closeAtEnd(() => test.close())
  return test
}

async function ready(get: TestServer['get']): Promise<void> {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    if ((await get('/readyz')).status === 200) return
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
  throw new Error(`never ready: ${await (await get('/readyz')).text()}`)
}
