/** Whatever is made of the requests that openapi.yaml documents: the answer is one that it documents too, and the server goes on. */
import { createParser } from 'eventsource-parser'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { assertConforms, document, faultIn, type Json } from '../support/contract.ts'
import { expectSomeProblem } from '../support/problem.ts'
import { openSocket, parseAnswer, type RawAnswer } from '../support/raw.ts'
import { documentedRequest, mutatedRequest, render, target, type Known, type WireRequest } from '../support/requests.ts'
import { startTestServer, type TestServer } from '../support/server.ts'

const SETUP = `
  create table public.items (id int primary key, grp text, owner int, n int not null default 0);
  insert into public.items select n, chr(97 + n % 3), n % 5 from generate_series(1, 30) n;
  select freshet.watch('public.items', filters => '{grp,owner}');
  create table public.notes (id bigint primary key, body text);
  select freshet.watch('public.notes', public => false);`

let server: TestServer
let known: Known
beforeAll(async () => {
  server = await startTestServer({ setup: SETUP, vote: (id) => Promise.resolve(id === 1 ? { committedAtMs: 1, tookMs: 1 } : null) })
  const cursors: string[] = []
  for (let round = 0; round < 3; round += 1) {
    const { version } = await server.poll('items')
    await server.database.query('update items set n = n + 1 where id = 1')
    cursors.push(version, (await server.pollUntilChanged('items', version)).version)
  }
  const { version, next = '' } = await server.poll('items', '?limit=5')
  const [epoch = '', number] = version.split('.')
  known = {
    channels: ['items', 'notes'], filters: { grp: ['a', 'zz', '', 'é'], owner: ['1', 'x'] },
    cursors: [...cursors, next, `${epoch}.0`, `zzzz.${number ?? ''}`],
  }
})
afterAll(() => { expect(server.warnings).toEqual([]) })

/** For how long a stream is listened to, and a poll waited for that asks to be held. What they would say later is for other tests. */
const PATIENCE_MS = 100

/** Null: it is held, as was asked. */
async function send(request: WireRequest): Promise<RawAnswer | null> {
  const bytes = render(request)
  const socket = await openSocket(server.url)
  let text = ''
  const leave = (): void => { if (/\r\nContent-Type: text\/event-stream/i.test(text) || (text === '' && /wait/i.test(bytes.toString('latin1')))) socket.destroy() }
  const patience = setInterval(leave, PATIENCE_MS)
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
    if (/^data:.*\n\n/m.test(text)) leave()
  })
  const closed = new Promise((resolve) => socket.once('close', resolve))
  socket.write(bytes)
  await closed
  clearInterval(patience)
  return text === '' && /wait/i.test(bytes.toString('latin1')) ? null : parseAnswer(text)
}

/** Whether URL parsers and the server read the same address. */
function isPlain(request: WireRequest): boolean {
  return URL.canParse(target(request), 'http://localhost') && new URL(target(request), 'http://localhost').pathname === request.path
}

async function expectDocumented(request: WireRequest, answer: RawAnswer): Promise<void> {
  expect(answer.status).toBeGreaterThanOrEqual(200)
  expect(answer.status).toBeLessThan(500)
  const isParsed = !answer.body.includes('"code":"malformed_request"')
  if (answer.status >= 400 && answer.body !== '') expectSomeProblem(answer)
  if (request.method === 'HEAD' && isParsed) expect(answer.body).toBe('')
  if (answer.headers.get('content-type')?.startsWith('text/event-stream') === true) expectStream(answer.body)
  if (isPlain(request) && isParsed && answer.status !== 414) await assertConforms(request.method, target(request), toResponse(answer))
}

const schemas = (document['components'] as { readonly schemas: Readonly<Record<string, Json>> }).schemas

function expectStream(body: string): void {
  const parser = createParser({
    onEvent: ({ event, data }) => expect(faultIn(JSON.parse(data), schemas[event === 'status' ? 'Status' : 'Delta'] ?? {})).toBeNull(),
    onError: (error) => { throw error },
  })
  parser.feed(body)
}

function toResponse({ status, headers, body }: RawAnswer): Response {
  return new Response([204, 304].includes(status) ? null : body, { status, headers: [...headers] })
}

/** [rfc9110 §9.3.2] the same headers; what depends on the body may be left out, and advice is of its moment. */
async function expectSameHead(request: WireRequest, { status, headers }: RawAnswer): Promise<void> {
  const head = await send({ ...request, method: 'HEAD' })
  if (head === null) return
  const comparable = (from: ReadonlyMap<string, string>): unknown => [...from].filter(([name]) => !['content-length', 'transfer-encoding'].includes(name))
    .map(([name, value]) => /^(?:date|poll-.*|retry-after)$/.test(name) ? name : `${name}: ${value}`).sort()
  expect([head.status, head.body, comparable(head.headers)]).toEqual([status, '', comparable(headers)])
}

async function expectSane(request: WireRequest): Promise<void> {
  const answer = await send(request)
  if (answer === null) return
  await expectDocumented(request, answer)
  if (request.method === 'GET' && !answer.body.includes('"code":"malformed_request"')) await expectSameHead(request, answer)
}

const RUNS = { seed: 20_260_301, numRuns: 80, interruptAfterTimeLimit: 15_000 }

describe('a request', () => {
  it.each([
    ['that is documented gets an answer that is documented', documentedRequest],
    ['to which anything has happened gets one too', mutatedRequest],
  ])('%s', { timeout: 60_000 }, async (_what, requests) => {
    const several = fc.array(requests(known), { minLength: 12, maxLength: 12 })
    await fc.assert(fc.asyncProperty(several, async (atOnce) => {
      await Promise.all(atOnce.map(expectSane))
      expect(await server.poll('items')).toMatchObject({ reset: true, more: false })
    }), RUNS)
  })
})
