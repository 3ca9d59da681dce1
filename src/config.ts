/**
 * The configuration, read once from the environment, checked and frozen: the only reader of process.env.
 * Promise: a value that cannot be meant stops the start with one sentence that names the variable and the cure.
 */
import { StartupError } from './errors.ts'

export type Environment = Readonly<Record<string, string | undefined>>

export interface Config {
  readonly host: string
  /** 0: any free port. */
  readonly port: number
  /** Null: the embedded PostgreSQL. */
  readonly databaseUrl: string | null
  /** A direct connection for LISTEN, where `databaseUrl` goes through a pooler. */
  readonly listenUrl: string | null
  readonly logLevel: string
  readonly maxStreams: number
  /** 0: no limit. */
  readonly maxStreamsPerAddress: number
  /** Requests a second and client address; 0: no limit. */
  readonly rateLimit: number
  /** Polls a second that intervals are chosen for; 0: as many as the event loop can take. */
  readonly pollBudget: number
  /** As Express takes it: false, a number of proxies, or a list of addresses. */
  readonly trustProxy: boolean | number | string
  readonly drainSeconds: number
  readonly retentionMs: number
  readonly retentionBytes: number
  /** Memory for recent versions and for what was rendered of them. */
  readonly ringBytes: number
  readonly cacheBytes: number
  readonly poolMax: number
  readonly migrates: boolean
  /** Null: with the embedded PostgreSQL only. */
  readonly hasDemo: boolean | null
  /** What the state directory is derived from. */
  readonly environment: Environment
}

const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']

/** Throws StartupError. */
export function readConfig(environment: Environment): Config {
  const text = (name: string, fallback: string): string => {
    const value = environment[name]?.trim()
    return value === undefined || value === '' ? fallback : value
  }
  const number = (name: string, fallback: number, { least = 0, most = Number.MAX_SAFE_INTEGER } = {}): number => {
    const value = Number(text(name, String(fallback)))
    if (Number.isFinite(value) && value >= least && value <= most) return value
    throw new StartupError(`${name} is ${JSON.stringify(environment[name])}`, `set it to a number from ${least} to ${most}`)
  }
  const flag = (name: string): boolean | null => {
    switch (text(name, '')) {
      case '': return null
      case '1': case 'true': case 'on': return true
      case '0': case 'false': case 'off': return false
      default: throw new StartupError(`${name} is ${JSON.stringify(environment[name])}`, 'set it to 1 or 0')
    }
  }
  return Object.freeze({
    host: text('HOST', '127.0.0.1'),
    port: number('PORT', 8080, { most: 65_535 }),
    databaseUrl: databaseUrl('DATABASE_URL', text('DATABASE_URL', '')),
    listenUrl: databaseUrl('LISTEN_URL', text('LISTEN_URL', '')),
    logLevel: oneOf('LOG_LEVEL', text('LOG_LEVEL', 'info'), LOG_LEVELS),
    maxStreams: number('MAX_STREAMS', 20_000),
    maxStreamsPerAddress: number('MAX_STREAMS_PER_IP', 0),
    rateLimit: number('RATE_LIMIT', 200),
    pollBudget: number('POLL_BUDGET', 0),
    trustProxy: trustProxy(text('TRUST_PROXY', '')),
    drainSeconds: number('DRAIN_SECONDS', 3, { most: 3_600 }),
    retentionMs: number('RETENTION_HOURS', 24, { least: 0.001 }) * 3_600_000,
    retentionBytes: number('RETENTION_BYTES', 1_000_000_000, { least: 1_000_000 }),
    ringBytes: number('RING_BYTES', 32_000_000, { least: 1_000_000 }),
    cacheBytes: number('CACHE_BYTES', 64_000_000, { least: 1_000_000 }),
    poolMax: number('POOL_MAX', 10, { least: 6, most: 1_000 }),
    migrates: flag('MIGRATE') ?? true,
    hasDemo: flag('DEMO'),
    environment,
  })
}

function databaseUrl(name: string, value: string): string | null {
  if (value === '') return null
  const cure = 'set it to postgres://user:password@host:port/database'
  if (!URL.canParse(value)) throw new StartupError(`${name} is not a URL`, cure)
  const { protocol } = new URL(value)
  if (protocol === 'postgres:' || protocol === 'postgresql:') return value
  throw new StartupError(`${name} begins with ${protocol}`, cure)
}

function oneOf(name: string, value: string, allowed: readonly string[]): string {
  if (allowed.includes(value)) return value
  throw new StartupError(`${name} is ${JSON.stringify(value)}`, `set it to one of ${allowed.join(', ')}`)
}

function trustProxy(value: string): boolean | number | string {
  if (value === '' || value === 'off' || value === '0' || value === 'false') return false
  if (value === 'on' || value === 'true') return 1
  return /^\d+$/.test(value) ? Number(value) : value
}
