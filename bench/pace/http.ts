/**
 * A trace through the real endpoint on a virtual clock: hub, advice and HTTP are those of the server, only commits come from a model
 * instead of a database. The client knows ETags and nothing else; what it has seen, and when, is read from what it was sent.
 */
import { once } from 'node:events'
import { Agent, createServer, get, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { Hub } from '../../src/hub/hub.ts'
import { Advisor } from '../../src/pace/advisor.ts'
import { rawQuery } from '../../src/transport/address.ts'
import { PageStore } from '../../src/transport/pages.ts'
import { PollEndpoint } from '../../src/transport/poll.ts'
import { channel, Model, ModelSource, table } from '../../test/support/model.ts'
import { LATENESS, outcomeOf, type Outcome } from './simulate.ts'
import { createRandom, type Trace } from './traces.ts'

interface Origin {
  readonly url: string
  /** The virtual time, ms. */
  setTime(ms: number): void
  commit(id: number): void
  close(): Promise<void>
}

async function startOrigin(price: number): Promise<Origin> {
  let nowMs = 0
  const model = new Model([channel('t', table(1))])
  const advisor = new Advisor({ price, now: () => nowMs, defer: (work) => work() })
  const onError = (error: unknown): never => { throw error }
  const hub = new Hub({ source: new ModelSource(model), onTouched: (name) => advisor.observe(name), onError })
  await hub.load()
  const poll = new PollEndpoint({ hub, advisor, pages: new PageStore(), draining: new AbortController().signal, drainDeadlineMs: 30_000 })
  const server = createServer((request, response) => { poll.answer(request, response, { name: 't', rawQuery: rawQuery(request) }).catch(onError) })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/channels/t/changes`,
    setTime(ms) { nowMs = ms },
    commit: (id) => hub.accept(model.commit([{ tableId: 1, row: { id, g: 'a', v: 0 } }])),
    async close() {
      hub.close()
      server.close()
      await once(server, 'close')
    },
  }
}

/** One client that does as `simulate` has it. */
export async function replay({ seconds, commits }: Trace, price: number): Promise<Outcome & { readonly unchanged: number }> {
  const origin = await startOrigin(price)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const random = createRandom(1)
  const lags: number[] = []
  const seen = new Set<number>()
  let etag: string | undefined
  let committed = 0
  let polls = 0
  let unchanged = 0
  try {
    for (let now = 0; ; ) {
      for (let at = commits[committed]; at !== undefined && at <= now; at = commits[++committed]) {
        origin.setTime(at * 1_000)
        origin.commit(committed)
      }
      origin.setTime(now * 1_000)
      const [response] = await once(get(origin.url, { agent, headers: etag === undefined ? {} : { 'If-None-Match': etag } }), 'response') as [IncomingMessage]
      const body = await text(response)
      polls++
      if (response.statusCode === 304) unchanged++
      else for (const id of idsOf(body)) if (!seen.has(id)) { seen.add(id); lags.push(now - (commits[id] ?? NaN)) }
      etag = response.headers.etag
      if (now >= seconds) break
      now = Math.min(seconds, now + Number(response.headers['poll-after-ms']) / 1_000 + random.exp(LATENESS))
    }
  } finally {
    agent.destroy()
    await origin.close()
  }
  return { ...outcomeOf(polls, lags), unchanged }
}

function idsOf(body: string): readonly number[] {
  const { changes } = JSON.parse(body) as { readonly changes: readonly { readonly key: { readonly id: number } }[] }
  return changes.map(({ key }) => key.id)
}
