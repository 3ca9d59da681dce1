/**
 * The composition root: builds each stage and hands it the next, starts them in order and stops them in the reverse.
 *
 *   trigger ─▶ log ─bell─▶ clock ─version─▶ hub ─▶ streams, polls
 *
 * Stages know each other only by the functions they are given here.
 */
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Logger } from 'pino'
import { Clock } from './clock/clock.ts'
import { readRecentCommits } from './clock/commits.ts'
import { Follower } from './clock/follower.ts'
import { Housekeeper } from './clock/housekeeper.ts'
import { Lapsed } from './clock/log.ts'
import { DatabaseSource } from './clock/source.ts'
import type { Config } from './config.ts'
import type { LoggedVersion } from './contract/change.ts'
import { explainDatabase } from './database/explain.ts'
import { Listener } from './database/listener.ts'
import { migrate } from './database/migrate.ts'
import { assertOurs } from './database/provenance.ts'
import { createPool, dropConnections, isSilence, sessionUrl, type Pool } from './database/pool.ts'
import { StartupError } from './errors.ts'
import { BEAT_MS } from './hub/freshness.ts'
import { Hub } from './hub/hub.ts'
import { Advisor } from './pace/advisor.ts'
import { startMeter } from './pace/meter.ts'
import { createReadiness, describeNode, logSize, Tally } from './status.ts'
import { POLL_ROUTE } from './transport/address.ts'
import { createApp, type AppOptions, type Vote } from './transport/app.ts'
import { answerDirectly, type DirectConnections } from './transport/direct.ts'
import { GUARDED, guardConnections, guarded } from './transport/guard.ts'
import { Metrics } from './transport/metrics.ts'
import { PageStore } from './transport/pages.ts'
import { PollEndpoint } from './transport/poll.ts'
import { StreamRegistry } from './transport/registry.ts'
import { SseEndpoint } from './transport/sse.ts'

export interface ServerOptions {
  readonly config: Config
  readonly databaseUrl: string
  readonly log: Logger
  /** The demo's way to write, where there is a demo. */
  readonly vote: Vote | null
  /** Shorter in tests. */
  readonly safetyMs?: number
  readonly streams?: StreamTuning
}

/** What time does to streams, ms. */
export interface StreamTuning {
  /** Default 15 s. */
  readonly heartbeatMs?: number
  /** When a stream ends on its own, give or take a quarter. Default an hour. */
  readonly maxAgeMs?: number
  /** How long a reader, of a stream or of a long poll's body, may take nothing at all. Default 30 s. */
  readonly drainDeadlineMs?: number
}

const DRAIN_DEADLINE_MS = 30_000

export interface FreshetServer {
  /** Where it listens, `http://127.0.0.1:8080`. */
  readonly url: string
  readonly hub: Hub
  readonly advisor: Advisor
  /** Ends streams over the drain window, then everything else. Safe to call twice. */
  close(): Promise<void>
}

/** A slow poll stays on for ever: notifications only shorten the wait. */
const SAFETY_MS = 2_000
const MINUTE_MS = 60_000

export async function startServer(options: ServerOptions): Promise<FreshetServer> {
  const { config, log } = options
  const onError = (error: unknown): void => log.error({ err: error }, 'unexpected error')
  const pool = createPool({ url: await poolUrl(options), max: config.poolMax, onError: (error) => log.warn({ err: error }, 'a database connection failed') })
  const advisor = new Advisor(config.pollBudget > 0 ? { budget: config.pollBudget } : {})
  try {
    await prepareDatabase(pool, config, log)
    // Nothing of it is stored: a node advises by the commits that all nodes have seen.
    for (const { channel, ageMs } of await readRecentCommits(pool)) advisor.observe(channel, ageMs)
  } catch (error) {
    await pool.end()
    throw error
  }

  const meter = config.pollBudget > 0 ? null : startMeter(advisor)
  const source = new DatabaseSource(pool, { onParked: (channel, reason) => log.warn({ channel, reason }, 'a channel is parked') })
  const hub = new Hub({ source, ringBytes: config.ringBytes, cacheBytes: config.cacheBytes, onTouched: (channel) => advisor.observe(channel), onError })
  const tally = new Tally(Date.now())
  const feeding = startFeeding(options, pool, hub, ({ mintedAtMs }) => {
    metrics.version()
    tally.version(Date.now() - mintedAtMs)
  })
  const registry = new StreamRegistry({ maxStreams: config.maxStreams, maxStreamsPerAddress: config.maxStreamsPerAddress, staleSinceMs: () => hub.staleSinceMs, ...options.streams })
  const metrics = new Metrics(() => {
    const { ringBytes, cacheBytes } = hub.size
    const stale = hub.staleSinceMs
    return { head: hub.head, streams: registry.size, backlogBytes: registry.backlogBytes, ringBytes, cacheBytes, isLeading: feeding.clock.isLeading, isListening: feeding.listener.isListening, staleSeconds: stale === null ? 0 : (Date.now() - stale) / 1_000 }
  })

  const draining = new AbortController()
  const drainDeadlineMs = options.streams?.drainDeadlineMs ?? DRAIN_DEADLINE_MS
  const pages = new PageStore()
  const node = { hub, registry, clock: feeding.clock, listener: feeding.listener, pool }
  const server = createServer({ ...GUARDED, requestTimeout: 30_000, headersTimeout: 10_000, keepAliveTimeout: 75_000 })
  let direct: DirectConnections | undefined
  const reporting = setInterval(() => {
    describeNode(node, tally).then((figures) => log.info(figures, 'minute')).catch(onError)
  }, MINUTE_MS)

  const stop = async (): Promise<void> => {
    draining.abort()
    clearInterval(reporting)
    meter?.close()
    await registry.drain(config.drainSeconds * 1_000)
    registry.close()
    await closeServer(server, direct)
    await feeding.close()
    hub.close()
    await pages.close()
    await pool.end()
  }
  const appOptions: AppOptions = {
    hub,
    poll: new PollEndpoint({ hub, pages, drainDeadlineMs, advisor, draining: draining.signal }),
    sse: new SseEndpoint({
      hub, registry, limits: { maxBacklogBytes: 256 * 1024, drainDeadlineMs }, onError, onConflated: () => metrics.conflated(),
    }),
    changesPerMinute: (channel) => advisor.commitsPerMinute(channel),
    readiness: createReadiness(node),
    metrics: () => metrics.text(),
    vote: options.vote,
    isDraining: () => draining.signal.aborted,
    rateLimit: config.rateLimit,
    trustProxy: config.trustProxy,
    onRequest: (route, status) => {
      metrics.request(route, status)
      if (route !== POLL_ROUTE) return
      tally.poll()
      meter?.poll()
    },
    onError,
  }
  try {
    const { listener, answerAtOnce } = await createApp(appOptions)
    const app = guarded(listener)
    server.on('request', app)
    guardConnections(server, app)
    direct = answerDirectly(server, { answer: answerAtOnce, drainDeadlineMs })
    await listen(server, config)
  } catch (error) {
    await stop()
    throw error
  }
  let closing: Promise<void> | undefined
  const { port } = server.address() as AddressInfo
  return { url: `http://${config.host.includes(':') ? `[${config.host}]` : config.host}:${port}`, hub, advisor, close: () => closing ??= stop() }
}

/** Where a transaction pooler is on the way, whatever must stay set in a session goes the direct way, or nowhere. */
async function poolUrl({ config: { listenUrl }, databaseUrl, log }: ServerOptions): Promise<string> {
  try {
    const url = await sessionUrl(listenUrl === null ? [databaseUrl] : [databaseUrl, listenUrl])
    if (url !== databaseUrl) log.warn('a transaction pooler is behind DATABASE_URL, where no session stays ours: all connections go by LISTEN_URL')
    return url
  } catch (error) {
    throw explainDatabase(error)
  }
}

/** Reaches the database, or says in one sentence why not. */
async function prepareDatabase(pool: Pool, config: Config, log: Logger): Promise<void> {
  try {
    if (config.migrates) {
      const applied = await migrate(pool)
      if (applied.length > 0) log.info({ applied }, 'migrated')
    } else {
      await assertOurs(pool, config)
    }
    await logSize(pool)
  } catch (error) {
    throw explainDatabase(error)
  }
}

interface Feeding {
  readonly clock: Clock
  readonly listener: Listener
  close(): Promise<void>
}

/** Everything that brings versions into the hub: clock, listener, follower, housekeeping. */
function startFeeding({ config, databaseUrl, log, safetyMs = SAFETY_MS }: ServerOptions, pool: Pool, hub: Hub, onVersion: (version: LoggedVersion) => void): Feeding {
  const deliver = (version: LoggedVersion): void => {
    onVersion(version)
    hub.accept(version)
  }
  // Half-open connections look alive: when one is found out, the others are not waited for.
  const mendPool = (error: unknown): void => {
    if (!isSilence(error)) return
    log.warn('PostgreSQL is silent: all connections are made anew')
    dropConnections(pool)
  }
  const follower = new Follower({
    pool, head: () => hub.arriving, epoch: () => hub.epoch, onVersion: deliver, onContact: () => hub.freshness.contact(), onRupture: () => hub.load(),
  })
  const follow = (): void => {
    follower.catchUp().catch((error: unknown) => {
      log.debug({ err: error }, 'could not follow')
      mendPool(error)
    })
  }
  const clock = new Clock({
    url: config.listenUrl ?? databaseUrl,
    safetyMs,
    onVersion: deliver,
    onRead: () => hub.freshness.contact(),
    beforeLeading: () => follower.catchUp(),
    onLeading: (isLeading, cause) => log.info({ isLeading, err: cause }, isLeading ? 'this node leads: its clock numbers versions' : 'this node no longer leads'),
    onStranger: (holder) => log.error({ holder }, 'no node can lead: the lock of the clock is held by a stranger, whose session must be ended'),
    onError: (error) => {
      log.warn({ err: error }, 'the clock lost its connection and tries again')
      mendPool(error)
    },
  })
  const housekeeper = new Housekeeper({
    pool, keepMs: config.retentionMs, maxBytes: config.retentionBytes, isLeading: () => clock.isLeading,
    onPolls: (polls) => { clock.polls = polls },
    onDrift: (table, outcome) => log.warn({ table, outcome }, 'the definition of a watched table has changed'),
    onLapsed: () => clock.resign(new Lapsed()),
    onTurned: () => { void hub.refresh().catch(() => undefined) },
    onError: (error) => log.warn({ err: error }, 'housekeeping failed and will be tried again'),
  })
  const listener = new Listener({
    url: config.listenUrl ?? databaseUrl,
    onNotification: (payload) => {
      if (payload === 'bell') clock.ring()
      else if (payload === 'version' && !clock.isLeading) follow()
    },
    onConnected: () => {
      log.info('listening for notifications')
      clock.ring()
      follow()
    },
    onDown: (error) => {
      log.warn({ err: error }, 'the listener is down: changes arrive by polling until it is back')
      mendPool(error)
    },
  })
  const safety = setInterval(() => { if (!clock.isLeading) follow() }, safetyMs)
  const beating = setInterval(() => hub.freshness.beat(), BEAT_MS)
  clock.start()
  listener.start()
  housekeeper.start()
  return {
    clock,
    listener,
    async close() {
      clearInterval(safety)
      clearInterval(beating)
      await Promise.all([housekeeper.close(), listener.close(), clock.close()])
    },
  }
}

async function listen(server: Server, { host, port }: Config): Promise<void> {
  server.listen({ host, port, backlog: 4_096 })
  try {
    await once(server, 'listening')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : ''
    if (code === 'EADDRINUSE') throw new StartupError(`port ${port} on ${host} is taken`, 'set PORT to a free one (0 picks one)', { cause: error })
    if (code === 'EACCES') throw new StartupError(`port ${port} may not be used by this user`, 'set PORT to one above 1023', { cause: error })
    throw new StartupError(`cannot listen on ${host} (${String(code)})`, 'set HOST to an address of this machine', { cause: error })
  }
}

async function closeServer(server: Server, direct: DirectConnections | undefined): Promise<void> {
  if (!server.listening) return
  const closed = once(server, 'close')
  server.close()
  direct?.close()
  server.closeIdleConnections()
  const deadline = setTimeout(() => {
    server.closeAllConnections()
    direct?.destroy()
  }, 500)
  await closed
  clearTimeout(deadline)
}
