import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { beforeAll, describe, expect, it } from 'vitest'
import { rawGet, withoutMoving } from '../support/raw.ts'
import { startTestServer, type TestServer } from '../support/server.ts'

const SETUP = `
  create table public.items (id int primary key, grp text, n int not null default 0);
  insert into public.items select n, 'g' || n % 2 from generate_series(1, 4) n;
  select freshet.watch('public.items', filters => '{grp}');
  create table public.secrets (id int primary key);
  select freshet.watch('public.secrets', public => false);
  create table public.gone (id int primary key);
  select freshet.watch('public.gone');`

/** Both are JSON to the server; only the second is weighed by Express. */
const LANE = 'Accept: */*'
const PLAIN = 'Accept: application/json, */*'

let server: TestServer
let since: string
beforeAll(async () => {
  server = await startTestServer({ setup: SETUP })
  since = (await server.poll('items')).version
  await server.database.query('update items set n = n + 1 where id = 1')
  await server.pollUntilChanged('items', since)
})

async function answerTo(url: string, path: string, headers: readonly string[]): Promise<string> {
  const { status, headers: answered, body } = await rawGet(url, path, headers)
  return withoutMoving(`${status}\n${[...answered].map(([name, value]) => `${name}: ${value}`).join('\n')}\n\n${body}`)
}

describe('a poll that is spared Express gets the same answer, header for header', () => {
  const cases: readonly (readonly [string, string, readonly string[]])[] = [
    ['its whole state', 'items/changes', []],
    ['a delta', 'items/changes?since=SINCE', []],
    ['a filtered delta', 'items/changes?since=SINCE&grp=g0', []],
    ['nothing new', 'items/changes', ['If-None-Match: "HEAD"']],
    ['nothing new, as a 200', 'items/changes?since=HEAD', []],
    ['a hold that ends without news', 'items/changes?since=HEAD', ['Prefer: wait=1']],
    ['a private channel', 'secrets/changes', []],
    ['a page', 'items/changes?limit=10', []],
    ['an unknown parameter', 'items/changes?colour=red', []],
    ['a malformed cursor', 'items/changes?since=%00', []],
    ['a future one', 'items/changes?since=zzzz.1', []],
    ['an unknown channel', 'nothing/changes', []],
    ['a slash at the end', 'items/changes/', []],
    ['an encoded name', 'it%65ms/changes', []],
    ['capitals', 'items/Changes', []],
  ]
  for (const [what, path, headers] of cases) {
    it(what, async () => {
      const head = (await server.poll('items')).version
      const fill = (text: string): string => text.replace('SINCE', since).replace('HEAD', head)
      const ask = (way: string): Promise<string> => answerTo(server.url, `/v1/channels/${fill(path)}`, [...headers.map(fill), way])
      const [lane, plain] = await Promise.all([ask(LANE), ask(PLAIN)])
      expect(lane).toBe(plain)
    })
  }

  it('when one address asks too often, counting both ways together', async () => {
    const limited = await startTestServer({ database: server.database, environment: { RATE_LIMIT: '40' } })
    await expect.poll(async () => {
      // Until all fall into one second of the limiter.
      const answers = await Promise.all(Array.from({ length: 100 }, (_, index) => answerTo(limited.url, '/v1/channels/items/changes?since=zzzz.1', [index % 2 === 0 ? LANE : PLAIN])))
      const refused = [LANE, PLAIN].map((_, way) => [...new Set(answers.filter((answer, index) => index % 2 === way && answer.startsWith('429')))])
      return refused.map(({ length }) => length).join() === '1,1' && refused[0]?.[0] === refused[1]?.[0]
    }).toBe(true)
  })

  it('behind a proxy, counting the addresses that it names', async () => {
    const limited = await startTestServer({ database: server.database, environment: { RATE_LIMIT: '40', TRUST_PROXY: '1' } })
    const ask = (index: number): Promise<string> => answerTo(limited.url, '/v1/channels/items/changes?since=zzzz.1', [LANE, `X-Forwarded-For: 10.0.0.${index % 100}`])
    const answers = await Promise.all(Array.from({ length: 100 }, (_, index) => ask(index)))
    expect(answers.filter((answer) => answer.startsWith('429'))).toEqual([])
  })
})

/** The head of a stream, and its bytes until it has caught up or ends. */
async function beginningOf(url: string, accept: string | undefined): Promise<string> {
  const request = get(url, { agent: false, headers: accept === undefined ? {} : { accept } })
  const [response] = await once(request, 'response') as [IncomingMessage]
  let text = ''
  for await (const chunk of response.setEncoding('utf8')) {
    text += String(chunk)
    if (text.includes('"more":false')) break
  }
  request.destroy()
  return `${response.statusCode ?? ''}\n${response.rawHeaders.join('\n').replace(/\nDate\n.*/, '')}\n\n${text.replace(/retry: ?\d+/g, 'retry')}`
}

describe('a stream that is spared Express begins in the same way', () => {
  const plain = 'text/event-stream, text/html'
  for (const [what, path] of [
    ['with its whole state', 'items/stream'],
    ['with a delta', 'items/stream?last_event_id=SINCE'],
    ['filtered', 'items/stream?grp=g1'],
    ['of a private channel', 'secrets/stream'],
    ['with an unknown filter', 'items/stream?colour=red'],
    ['with a malformed cursor', 'items/stream?last_event_id=%00'],
    ['of no channel', 'nothing/stream'],
    ['with a slash at the end', 'items/stream/'],
  ] as const) {
    it(what, async () => {
      const url = `${server.url}/v1/channels/${path.replace('SINCE', since)}`
      const [expected, ...others] = await Promise.all([plain, 'text/event-stream', '*/*', undefined].map((accept) => beginningOf(url, accept)))
      expect(expected).toContain(path.startsWith('items/stream') && !path.includes('colour') ? '"more":false' : '\n')
      for (const other of others) expect(other).toBe(expected)
    })
  }

  it('when one address asks too often', async () => {
    const limited = await startTestServer({ database: server.database, environment: { RATE_LIMIT: '1' } })
    const url = `${limited.url}/v1/channels/items/stream?last_event_id=zzzz.1`
    const beginnings = await Promise.all(Array.from({ length: 20 }, (_, index) => beginningOf(url, index % 2 === 0 ? plain : '*/*')))
    const refused = beginnings.filter((beginning) => !beginning.includes('"more"'))
    expect(refused.length).toBeGreaterThan(10)
    expect(new Set(refused).size).toBe(1)
  })
})
