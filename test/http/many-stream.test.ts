import { beforeAll, describe, expect, it } from 'vitest'
import { rawGet } from '../support/raw.ts'
import { startTestServer, type TestServer } from '../support/server.ts'
import { openStream, Replica, type Delta } from '../support/sse.ts'

const SETUP = `
  create table public.credits (id int primary key, amount int not null);
  create table public.debits (id int primary key, amount int not null);
  create table public.quiet (id int primary key);
  insert into public.credits select n, 0 from generate_series(1, 10) n;
  insert into public.debits select n, 0 from generate_series(1, 10) n;
  select freshet.watch('public.credits'), freshet.watch('public.debits'), freshet.watch('public.quiet');`

let server: TestServer
let stream: string
beforeAll(async () => {
  server = await startTestServer({ setup: SETUP })
  stream = `${server.url}/v1/stream?channels=credits,debits,quiet`
})

const ANY = '(select 1 + floor(random() * 10)::int)'
const TRANSFER = `do $$ begin update credits set amount = amount + 1 where id = ${ANY}; update debits set amount = amount + 1 where id = ${ANY}; end $$`

/** Several channels as one client holds them: nothing is applied before a version is whole. */
class Replicas {
  readonly #parts: Delta[] = []
  readonly channels = new Map<string, Replica>()
  version: string | null = null

  /** True when all channels have moved to a new version. */
  apply(delta: Delta): boolean {
    this.#parts.push(delta)
    if (delta.more) return false
    for (const channel of new Set(this.#parts.map((part) => part.channel))) {
      const replica = this.channels.get(channel) ?? new Replica()
      this.channels.set(channel, replica)
      const parts = this.#parts.filter((part) => part.channel === channel)
      for (const [index, part] of parts.entries()) replica.apply({ ...part, more: index < parts.length - 1 })
    }
    this.#parts.length = 0
    this.version = delta.version
    return true
  }

  disconnected(): void {
    this.#parts.length = 0
  }

  sum(channel: string): number {
    return [...this.channels.get(channel)?.rows.values() ?? []].reduce((sum, { amount }) => sum + Number(amount), 0)
  }
}

describe('a stream of several channels', () => {
  it('begins with a reset of each, empty ones too, and one id at the end', async () => {
    const reader = await openStream(stream)
    await reader.until(({ id }) => id !== undefined)
    const deltas = reader.events.map(({ data }) => JSON.parse(data) as Delta)
    expect(deltas.map(({ channel, reset, more, changes }) => [channel, reset, more, changes.length])).toEqual([
      ['credits', true, true, 10], ['debits', true, true, 10], ['quiet', true, false, 0],
    ])
    expect(reader.events.map(({ id }) => id)).toEqual([undefined, undefined, deltas[0]?.version])
    expect(new Set(deltas.map(({ version }) => version)).size).toBe(1)
    reader.close()
  })

  it('has at each version one delta for each channel it touched, whole, the id on the last', async () => {
    const reader = await openStream(stream)
    await reader.until(({ id }) => id !== undefined)
    await server.database.query(TRANSFER)
    await reader.until((event) => event.id !== undefined && !(JSON.parse(event.data) as Delta).reset)
    const [first, second] = reader.events.slice(3)
    const deltas = [first, second].map((event) => JSON.parse(event?.data ?? '') as Delta)
    expect(deltas.map(({ channel, more, reset }) => [channel, more, reset])).toEqual([['credits', true, false], ['debits', false, false]])
    expect(deltas[0]?.version).toBe(deltas[1]?.version)
    expect([first?.id, second?.id]).toEqual([undefined, deltas[0]?.version])
    reader.close()
  })

  it('never shows one table without the other, across reconnects, under concurrent writers', async () => {
    const replicas = new Replicas()
    const sums: number[] = []
    const torn: string[] = []
    const apply = (delta: Delta): void => {
      if (!replicas.apply(delta)) return
      sums.push(replicas.sum('credits'))
      if (replicas.sum('credits') !== replicas.sum('debits')) torn.push(delta.version)
    }
    const writers = { areDone: false }
    let connections = 0
    const write = async (): Promise<void> => {
      for (let n = 0; n < 50 || connections < 8; n += 1) await server.database.query(TRANSFER)
    }
    const writing = Promise.all([1, 2, 3, 4].map(write)).finally(() => { writers.areDone = true })
    while (!writers.areDone) {
      const reader = await openStream(stream, replicas.version === null ? {} : { 'Last-Event-ID': replicas.version }, apply)
      let seen = 0
      await reader.until(() => (seen += 1) > 3 + connections || writers.areDone).catch(() => undefined)
      reader.close()
      await reader.ended
      replicas.disconnected()
      connections += 1
    }
    await writing
    const last = await openStream(stream, { 'Last-Event-ID': replicas.version ?? '' }, apply)
    const total = (await server.database.query<{ total: number }>('select sum(amount)::int as total from credits'))[0]?.total
    await expect.poll(() => replicas.sum('credits')).toBe(total)
    expect(replicas.sum('debits')).toBe(total)
    expect(torn).toEqual([])
    expect(new Set(sums).size).toBeGreaterThan(10)
    expect([...replicas.channels.values()].map(({ resets }) => resets)).toEqual([1, 1, 1])
    last.close()
  })

  it('resumes with what each channel lacks, and leaves out those that nothing touched', async () => {
    const { version } = await server.poll('credits')
    await server.database.query('insert into quiet values (1)')
    const after = await server.pollUntilChanged('quiet', version)
    const reader = await openStream(stream, { 'Last-Event-ID': version })
    const delta = await reader.delta(() => true)
    expect(delta).toMatchObject({ channel: 'quiet', since: version, version: after.version, more: false })
    expect(reader.events).toHaveLength(1)
    reader.close()
  })

  it('starts all anew when one table is emptied: there is no state with only some of them', async () => {
    const replicas = new Replicas()
    const reader = await openStream(stream, {}, (delta) => { replicas.apply(delta) })
    await reader.until(({ id }) => id !== undefined)
    await server.database.query('truncate quiet')
    await reader.delta(({ channel, reset, changes, more }) => channel === 'quiet' && reset && !more && changes.length === 0)
    expect(replicas.channels.get('quiet')?.rows.size).toBe(0)
    expect(replicas.channels.get('credits')?.rows.size).toBe(10)
    await server.database.query(TRANSFER)
    await reader.delta(({ channel, reset }) => channel === 'debits' && !reset)
    expect(replicas.sum('credits')).toBe(replicas.sum('debits'))
    reader.close()
  })

  it('gives the channels in the order asked, and of one the same as its own stream', async () => {
    // Whatever the tests before left behind: rows that are on several pages come in as many parts.
    await server.database.query('vacuum full credits, debits')
    const reader = await openStream(`${server.url}/v1/stream?channels=debits,credits`)
    await reader.until(({ id }) => id !== undefined)
    expect(reader.events.map(({ data }) => (JSON.parse(data) as Delta).channel)).toEqual(['debits', 'credits'])
    reader.close()
    const [one, own] = await Promise.all(['/v1/stream?channels=credits', '/v1/channels/credits/stream'].map(async (path) => {
      const single = await openStream(server.url + path)
      const { data } = await single.until(() => true)
      single.close()
      return data
    }))
    expect(one).toBe(own)
  })

  it.each([
    ['', 400, 'invalid_parameter'],
    ['?channels=', 400, 'invalid_parameter'],
    ['?channels=credits,credits', 400, 'invalid_parameter'],
    ['?channels=credits,', 400, 'invalid_parameter'],
    [`?channels=${Array.from({ length: 21 }, (_, index) => `c${index}`).join(',')}`, 400, 'invalid_parameter'],
    ['?channels=credits&channels=debits', 400, 'duplicated_parameter'],
    ['?channels=credits,missing', 404, 'unknown_channel'],
    ['?channels=credits,No', 404, 'unknown_channel'],
    ['?channels=credits&amount=1', 400, 'unknown_parameter'],
    ['?channels=credits&limit=1', 400, 'unknown_parameter'],
  ])('%s is %i %s', async (query, status, code) => {
    const answer = await rawGet(server.url, `/v1/stream${query}`)
    expect(answer.status).toBe(status)
    expect(JSON.parse(answer.body)).toMatchObject({ code, status })
  })

  it('with a private channel among others is for no page of another origin', async () => {
    await server.database.query(`create table inner_life (id int primary key); select freshet.watch('public.inner_life', public => false)`)
    await expect.poll(async () => (await server.get('/v1/channels/inner_life')).status).toBe(200)
    const isOpen = async (channels: string): Promise<string | null> => {
      const reader = await openStream(`${server.url}/v1/stream?channels=${channels}`, { Origin: 'https://elsewhere.example' })
      reader.close()
      return reader.headers.get('access-control-allow-origin')
    }
    expect(await isOpen('credits,inner_life')).toBeNull()
    expect(await isOpen('credits%2Cinner%5Flife')).toBeNull()
    expect(await isOpen('credits,debits')).toBe('*')
  })
})
