import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { Listener, type ListenerOptions } from '../../src/database/listener.ts'
import { isSilence } from '../../src/database/pool.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { startProxy } from '../support/proxy.ts'

describe.skipIf(!hasPostgres)('the listener', () => {
  let database: TestDatabase
  const open: Listener[] = []

  beforeAll(async () => {
    database = await createDatabase({ migrated: false })
  })

  afterEach(async () => {
    await Promise.all(open.splice(0).map((listener) => listener.close()))
  })

  interface Heard {
    readonly listener: Listener
    readonly payloads: string[]
    readonly downs: Error[]
    connected: number
  }

  function listen(options: Partial<ListenerOptions> = {}): Heard {
    const payloads: string[] = []
    const downs: Error[] = []
    const listener = new Listener({
      url: database.url, onNotification: (payload) => payloads.push(payload), onConnected: () => { heard.connected += 1 }, onDown: (error) => downs.push(error), ...options,
    })
    const heard: Heard = { listener, payloads, downs, connected: 0 }
    open.push(listener)
    listener.start()
    return heard
  }

  const BACKENDS = `select pid from pg_stat_activity where application_name = 'freshet:listener' and datname = current_database()`

  it('hears what is notified on its channel, and says when it begins to', async () => {
    const heard = listen()
    expect(heard.listener.isListening).toBe(false)
    await expect.poll(() => heard.connected).toBe(1)
    expect(heard.listener.isListening).toBe(true)
    await database.query(`notify other, 'no'; notify freshet, 'bell'; notify freshet, 'version'`)
    await expect.poll(() => heard.payloads).toEqual(['bell', 'version'])
  })

  it('Up: takes any payload that anybody may send', async () => {
    const heard = listen()
    await expect.poll(() => heard.connected).toBe(1)
    const payloads = ['', '{', 'null', '"', 'probe', 'probe 1.1 and more', '__proto__', 'é😀', 'x'.repeat(7_999)]
    for (const payload of payloads) await database.query(`select pg_notify('freshet', $1)`, [payload])
    await database.query(`notify freshet, 'last'`)
    await expect.poll(() => heard.payloads.at(-1)).toBe('last')
    expect(heard.payloads.filter((payload) => payloads.includes(payload) && payload !== '')).toEqual(payloads.filter((payload) => payload !== '' && !payload.startsWith('probe ')))
    expect(heard.downs).toEqual([])
  })

  it('comes back when its connection is cut, as often as it is, and says so once each time', async () => {
    const heard = listen()
    await expect.poll(() => heard.connected).toBe(1)
    for (let round = 1; round <= 3; round += 1) {
      await database.query(`select pg_terminate_backend(pid) from (${BACKENDS}) backends`)
      await expect.poll(() => heard.connected).toBe(round + 1)
      expect(heard.downs).toHaveLength(round)
      await database.query(`notify freshet, 'round ${round}'`)
      await expect.poll(() => heard.payloads).toContain(`round ${round}`)
    }
    expect(await database.query(BACKENDS)).toHaveLength(1)
  })

  it('notices a connection that has fallen silent without breaking, and comes back when it can', async () => {
    const proxy = await startProxy(database.url)
    const heard = listen({ url: proxy.url, probeEveryMs: 50, probeDeadlineMs: 1_000 })
    await expect.poll(() => heard.connected).toBe(1)
    proxy.silence()
    await expect.poll(() => heard.downs).toHaveLength(1)
    expect(heard.listener.isListening).toBe(false)
    expect(heard.downs.map(isSilence), 'so that other connections are not trusted either').toEqual([true])
    proxy.mend()
    await expect.poll(() => heard.connected).toBe(2)
    await database.query(`notify freshet, 'again'`)
    await expect.poll(() => heard.payloads).toEqual(['again'])
    expect(heard.downs).toHaveLength(1)
  })

  it('is content with its own echo, and keeps it to itself', async () => {
    const heard = listen({ probeEveryMs: 10, probeDeadlineMs: 1_000 })
    const other = listen({ probeEveryMs: 10, probeDeadlineMs: 1_000 })
    await expect.poll(() => [heard.connected, other.connected]).toEqual([1, 1])
    const probes: string[] = []
    const client = await database.connect()
    client.on('notification', ({ payload }) => probes.push(payload ?? ''))
    await client.query('listen freshet')
    await expect.poll(() => probes.length).toBeGreaterThanOrEqual(4)
    expect([heard.payloads, heard.downs, other.payloads, other.downs]).toEqual([[], [], [], []])
  })

  it('waits for a database that is not there, for ever, and tells it once', async () => {
    const proxy = await startProxy(database.url)
    proxy.cut()
    const heard = listen({ url: proxy.url })
    await expect.poll(() => heard.downs).toHaveLength(1)
    // Several attempts later.
    await expect.poll(() => proxy.refused).toBeGreaterThanOrEqual(3)
    proxy.mend()
    await expect.poll(() => heard.connected).toBe(1)
    expect(heard.downs).toHaveLength(1)
  })

  it('is not ended by the host’s idle_session_timeout', async () => {
    await database.query(`do $$ begin execute format('alter database %I set idle_session_timeout = 100', current_database()); end $$`)
    const heard = listen()
    await expect.poll(() => heard.connected).toBe(1)
    const [idle] = await database.query<{ value: string }>(`select current_setting('idle_session_timeout') as value`)
    await database.query('select pg_sleep(0.3)')
    await database.query(`notify freshet, 'still here'`)
    await expect.poll(() => heard.payloads).toEqual(['still here'])
    expect(heard.connected).toBe(1)
    expect(idle).toBeDefined()
    await database.query(`do $$ begin execute format('alter database %I reset idle_session_timeout', current_database()); end $$`)
  })

  it('leaves no connection behind when it is closed, while it listens or while it connects', async () => {
    const heard = listen()
    await expect.poll(() => heard.connected).toBe(1)
    await heard.listener.close()
    await heard.listener.close()
    const hasty = listen()
    await hasty.listener.close()
    await expect.poll(() => database.query(BACKENDS)).toEqual([])
    expect(hasty.connected).toBe(0)
  })
})
