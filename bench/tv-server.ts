/** A server in a process of its own whose budget can be changed while it runs. */
import pino from 'pino'
import { readConfig } from '../src/config.ts'
import { migrate } from '../src/database/migrate.ts'
import { createPool } from '../src/database/pool.ts'
import { startServer, type FreshetServer } from '../src/server.ts'
import { serve } from './child.ts'

let server: FreshetServer | undefined

export interface TvServer {
  [name: string]: (argument: never) => unknown
  migrate(databaseUrl: string): Promise<void>
  /** Resolves to its address. */
  start(databaseUrl: string): Promise<string>
  /** Polls a second; 0: no limit. */
  spend(pollsPerSecond: number): void
  /** Bytes resident once garbage is collected, and polls that are held. */
  held(): { readonly bytes: number; readonly polls: number }
}

const service: TvServer = {
  async migrate(databaseUrl) {
    const pool = createPool({ url: databaseUrl, max: 1, onError: () => undefined })
    await migrate(pool)
    await pool.end()
  },
  async start(databaseUrl) {
    // A budget that is given is not measured.
    const config = readConfig({ PORT: '0', RATE_LIMIT: '0', DRAIN_SECONDS: '0', DEMO: '0', POLL_BUDGET: '1000000' })
    server = await startServer({ config, databaseUrl, log: pino({ level: 'warn' }), vote: null })
    return server.url
  },
  spend(pollsPerSecond) {
    if (server !== undefined) server.advisor.budget = pollsPerSecond
  },
  held() {
    globalThis.gc?.()
    return { bytes: process.memoryUsage.rss(), polls: server?.hub.size.followers ?? 0 }
  },
}

serve(service)
