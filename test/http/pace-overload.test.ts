/** Clients that ask more often than they were told, and more of them than the server is to answer. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, describe, expect, it, vi } from 'vitest'
import { Hub } from '../../src/hub/hub.ts'
import { Advisor } from '../../src/pace/advisor.ts'
import { rawQuery } from '../../src/transport/address.ts'
import { PageStore } from '../../src/transport/pages.ts'
import { PollEndpoint } from '../../src/transport/poll.ts'
import { channel, Model, ModelSource, table } from '../support/model.ts'
import { startTestServer, type TestServer } from '../support/server.ts'
import { hasPostgres } from '../support/database.ts'

const SETUP = `
  create table public.items (id int primary key, label text);
  insert into public.items values (1, 'Tea');
  select freshet.watch('public.items');`
const CHANGES = '/v1/channels/items/changes'

interface Refusal {
  readonly status: number
  readonly retryAfter: number
}

/** Asks one after another; the answers that are refusals. */
async function askOften(server: TestServer, times: number, headers: Readonly<Record<string, string>>): Promise<{ readonly served: number; readonly refusals: readonly Refusal[] }> {
  const refusals: Refusal[] = []
  let served = 0
  for (let i = 0; i < times; i += 1) {
    const response = await server.get(CHANGES, headers)
    if (response.status === 200 || response.status === 304) served += 1
    else refusals.push({ status: response.status, retryAfter: Number(response.headers.get('retry-after')) })
    await response.text()
  }
  return { served, refusals }
}

function expectSpread(refusals: readonly Refusal[], windowSeconds: number): void {
  const values = refusals.map(({ retryAfter }) => retryAfter)
  expect(values.every((value) => Number.isInteger(value) && value >= 1 && value <= windowSeconds + 1)).toBe(true)
  expect(values.some((value, i) => value === values[i + 1]), 'two in a row are never equal').toBe(false)
  expect(new Set(values).size).toBeGreaterThan(5)
}

describe('a client that is up to date', () => {
  it('is answered from memory, however often it asks', async () => {
    const source = new ModelSource(new Model([channel('items', table(1))]))
    const hub = new Hub({ source, onError: (error) => { throw error } })
    await hub.load()
    const poll = new PollEndpoint({ hub, advisor: new Advisor(), pages: new PageStore(), draining: new AbortController().signal, drainDeadlineMs: 30_000 })
    const server = createServer((request, response) => { void poll.answer(request, response, { name: 'items', rawQuery: rawQuery(request) }) }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    afterAll(() => { server.close() })
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}${CHANGES}`
    const asked = [vi.spyOn(source, 'openState'), vi.spyOn(source, 'readChanges'), vi.spyOn(source, 'readCatalog'), vi.spyOn(source, 'castFilter')]
    const etag = (await fetch(url)).headers.get('etag') ?? ''
    for (let i = 0; i < 300; i += 1) expect((await fetch(url, { headers: { 'If-None-Match': etag } })).status).toBe(304)
    expect(asked.map(({ mock }) => mock.calls.length)).toEqual([1, 0, 0, 0])
  })
})

describe.skipIf(!hasPostgres)('a client that ignores the advice', () => {
  it('is served up to the limit, and then limited, with a time to come back that is not everybody\'s', async () => {
    const server = await startTestServer({ setup: SETUP, environment: { RATE_LIMIT: '3' } })
    const { version } = await server.poll('items')
    const { served, refusals } = await askOften(server, 120, { 'If-None-Match': `W/"${version}"` })
    expect(served).toBeGreaterThanOrEqual(2)
    expect(refusals.length).toBeGreaterThan(20)
    expect(refusals.every(({ status }) => status === 429)).toBe(true)
    expectSpread(refusals, 10)
  })
})

describe.skipIf(!hasPostgres)('more than the budget', () => {
  it('is turned away with 503 and times to come back that are spread, and the others are told to take their time', async () => {
    const server = await startTestServer({ setup: SETUP, environment: { POLL_BUDGET: '0.5' } })
    const { version } = await server.poll('items')
    const { served, refusals } = await askOften(server, 100, { 'If-None-Match': `W/"${version}"` })
    // Twenty seconds' worth at once, less the first, and what is added while it is spent.
    expect(served).toBeGreaterThanOrEqual(9)
    expect(refusals.length).toBeGreaterThan(20)
    expect(refusals.every(({ status }) => status === 503)).toBe(true)
    expectSpread(refusals, 300)
  })

  it('says so in words', async () => {
    const server = await startTestServer({ setup: SETUP, environment: { POLL_BUDGET: '0.1' } })
    for (;;) {
      const response = await server.get(CHANGES)
      if (response.status === 200) continue
      expect(await response.json()).toMatchObject({ code: 'overloaded', status: 503 })
      return
    }
  })

  it('is told as the reason', async () => {
    const server = await startTestServer({ setup: SETUP, environment: { POLL_BUDGET: '0.5' } })
    const { version } = await server.poll('items')
    for (let i = 0; i < 6; i += 1) await server.poll('items', `?since=${version}`)
    // The price follows within a second, whatever the machine does meanwhile.
    await expect.poll(async () => (await server.poll('items', `?since=${version}`)).poll_reason, { interval: 1_500, timeout: 20_000 }).toBe('load')
    expect(server.server.advisor.scarcity).toBeGreaterThan(1)
  })
})
