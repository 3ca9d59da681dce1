/** `freshet start`: the server, on the given database or on an embedded one, until it is told to stop. */
import type { Logger } from 'pino'
import type { Config } from '../config.ts'
import { startEmbedded, type EmbeddedServer } from '../database/embedded.ts'
import { createPool } from '../database/pool.ts'
import { createVote, seedDemo } from '../demo.ts'
import { startServer, type FreshetServer } from '../server.ts'
import type { Command } from './command.ts'
import { createLog } from '../log.ts'
import { embeddedPlace, explainEmbedded } from './database.ts'

export const command: Command = {
  name: 'start',
  parameters: [],
  summary: 'serve, on the embedded PostgreSQL unless DATABASE_URL is set',
  options: {},
  notes: 'Ends on SIGTERM and SIGINT, after its streams have moved on (DRAIN_SECONDS).',
  run: (_input, { config }) => start(config),
}

/** Serves until SIGTERM or SIGINT; resolves to the exit code. Throws StartupError. */
async function start(config: Config): Promise<number> {
  const log = createLog(config.logLevel)
  // A bug of ours must be loud, and must not take thousands of streams with it.
  process.on('uncaughtException', (error) => log.error({ err: error }, 'uncaught exception'))
  process.on('unhandledRejection', (reason) => log.error({ err: reason }, 'unhandled rejection'))

  const told = toldToStop()
  const embedded = config.databaseUrl === null ? await startDatabase(config, log) : null
  const databaseUrl = config.databaseUrl ?? embedded?.url ?? ''
  const hasDemo = config.hasDemo ?? embedded !== null
  const hostPool = hasDemo ? createPool({ url: databaseUrl, max: 2, onError: (error) => log.warn({ err: error }, 'the demo lost a connection') }) : null
  let server: FreshetServer | undefined
  try {
    server = await startServer({ config, databaseUrl, log, vote: hostPool === null ? null : createVote(hostPool) })
    if (hostPool !== null) await seedDemo(hostPool)
    process.stdout.write(welcome(server.url, databaseUrl, hasDemo, embedded !== null))
    const signal = await told
    log.info({ signal, seconds: config.drainSeconds }, 'draining')
    return 0
  } finally {
    await server?.close()
    await hostPool?.end()
    await embedded?.stop()
  }
}

function toldToStop(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal))
  })
}

async function startDatabase(config: Config, log: Logger): Promise<EmbeddedServer> {
  try {
    return await startEmbedded({ ...embeddedPlace(config), log: (message, detail) => log.info(detail ?? {}, message) })
  } catch (error) {
    throw explainEmbedded(error)
  }
}

function welcome(url: string, databaseUrl: string, hasDemo: boolean, isEmbedded: boolean): string {
  const channel = hasDemo ? 'options' : '<channel>'
  const lines = [
    '',
    `  Freshet is running.`,
    '',
    `  Page      ${url}/        on a television: ${url}/tv        reference: ${url}/docs`,
    `  Stream    curl -N ${url}/v1/channels/${channel}/stream`,
    `  Poll      curl -i ${url}/v1/channels/${channel}/changes`,
  ]
  if (isEmbedded) lines.push(`  Database  ${databaseUrl}`)
  else if (!hasDemo) lines.push(`  Watch     select freshet.watch('public.some_table');   then it is a channel`)
  return `${lines.join('\n')}\n\n`
}
