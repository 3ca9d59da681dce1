/** What the environment may say, and the sentence for what it may not. */
import { describe, expect, it } from 'vitest'
import { readConfig } from '../../src/config.ts'
import { serverUrl } from '../../src/commands/http.ts'
import { StartupError } from '../../src/errors.ts'

function refusal(environment: Record<string, string>): string {
  try {
    readConfig(environment)
  } catch (error) {
    if (error instanceof StartupError) return error.message
    throw error
  }
  return 'accepted'
}

describe('the configuration', () => {
  it('has the documented defaults', () => {
    expect(readConfig({})).toMatchObject({
      host: '127.0.0.1', port: 8080, databaseUrl: null, listenUrl: null, logLevel: 'info', maxStreams: 20_000, maxStreamsPerAddress: 0,
      rateLimit: 200, pollBudget: 0, trustProxy: false, drainSeconds: 3, retentionMs: 24 * 3_600_000, retentionBytes: 1e9, ringBytes: 32e6, cacheBytes: 64e6, poolMax: 10, migrates: true, hasDemo: null,
    })
  })

  it('takes what is set, and an empty value for none', () => {
    const url = 'postgres://me@db/app'
    expect(readConfig({
      HOST: '::1', PORT: '0', DATABASE_URL: url, LISTEN_URL: 'postgresql://me@direct/app', LOG_LEVEL: 'debug', MAX_STREAMS: '5', MAX_STREAMS_PER_IP: '2',
      RATE_LIMIT: '0', POLL_BUDGET: '50', TRUST_PROXY: '2', DRAIN_SECONDS: '0.5', RETENTION_HOURS: '0.5', RETENTION_BYTES: '1e6', RING_BYTES: '2e6', CACHE_BYTES: '3e6', POOL_MAX: '6', MIGRATE: 'off', DEMO: '1',
    })).toMatchObject({
      host: '::1', port: 0, databaseUrl: url, listenUrl: 'postgresql://me@direct/app', logLevel: 'debug', maxStreams: 5, maxStreamsPerAddress: 2,
      rateLimit: 0, pollBudget: 50, trustProxy: 2, drainSeconds: 0.5, retentionMs: 1_800_000, retentionBytes: 1_000_000, ringBytes: 2e6, cacheBytes: 3e6, poolMax: 6, migrates: false, hasDemo: true,
    })
    expect(readConfig({ PORT: ' ', DATABASE_URL: '', MIGRATE: '' })).toMatchObject({ port: 8080, databaseUrl: null, migrates: true })
  })

  it('cannot be changed afterwards', () => {
    expect(Object.isFrozen(readConfig({}))).toBe(true)
  })

  it.each([
    [{ PORT: 'http' }, 'PORT is "http"; set it to a number from 0 to 65535.'],
    [{ PORT: '65536' }, 'PORT is "65536"; set it to a number from 0 to 65535.'],
    [{ POLL_BUDGET: '-1' }, 'POLL_BUDGET is "-1"; set it to a number from 0 to 9007199254740991.'],
    [{ RING_BYTES: '32' }, 'RING_BYTES is "32"; set it to a number from 1000000 to 9007199254740991.'],
    [{ POOL_MAX: '5' }, 'POOL_MAX is "5"; set it to a number from 6 to 1000.'],
    [{ RETENTION_HOURS: '-1' }, 'RETENTION_HOURS is "-1"; set it to a number from 0.001 to 9007199254740991.'],
    [{ MIGRATE: 'maybe' }, 'MIGRATE is "maybe"; set it to 1 or 0.'],
    [{ LOG_LEVEL: 'loud' }, 'LOG_LEVEL is "loud"; set it to one of fatal, error, warn, info, debug, trace, silent.'],
    [{ DATABASE_URL: 'localhost' }, 'DATABASE_URL is not a URL; set it to postgres://user:password@host:port/database.'],
    [{ LISTEN_URL: 'mysql://db/app' }, 'LISTEN_URL begins with mysql:; set it to postgres://user:password@host:port/database.'],
  ])('refuses %j in one sentence that names the variable and the cure', (environment, sentence) => {
    expect(refusal(environment)).toBe(sentence)
  })

  it('never repeats a password in a refusal', () => {
    expect(refusal({ DATABASE_URL: 'postgres//me:secret@db' })).not.toContain('secret')
    expect(refusal({ DATABASE_URL: 'https://me:secret@db' })).not.toContain('secret')
  })

  it.each([['off', false], ['0', false], ['on', 1], ['true', 1], ['3', 3], ['10.0.0.0/8, loopback', '10.0.0.0/8, loopback']])('takes TRUST_PROXY=%s as %j', (text, value) => {
    expect(readConfig({ TRUST_PROXY: text }).trustProxy).toBe(value)
  })
})

describe('the address of the server', () => {
  const address = (environment: Record<string, string>, given?: string): string => serverUrl(readConfig(environment), given).href

  it('is where the configuration says it listens, as one that can be connected to', () => {
    expect([{}, { HOST: '0.0.0.0', PORT: '1' }, { HOST: '::' }, { HOST: '::1' }, { HOST: 'db.internal' }].map((environment) => address(environment))).toEqual([
      'http://127.0.0.1:8080/', 'http://127.0.0.1:1/', 'http://[::1]:8080/', 'http://[::1]:8080/', 'http://db.internal:8080/',
    ])
  })

  it('is the one given, with its path', () => {
    expect(address({}, 'https://example.org/feeds')).toBe('https://example.org/feeds/')
    expect(() => address({}, 'example.org')).toThrow('--url is "example.org"; write it as http://host:port.')
    expect(() => address({ PORT: '0' })).toThrow('PORT is 0, so the server may be at any port; pass its address with --url.')
  })
})
