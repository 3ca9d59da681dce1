/** The client's pure part, its thin reader over scripted responses, and the lines that `freshet tail` makes of them. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { follow, type Disconnection, type FollowOptions } from '../../src/client/follow.ts'
import { keyText, Replica } from '../../src/client/replica.ts'
import { backOffMs, FollowError } from '../../src/client/wire.ts'
import { describeApplied } from '../../src/commands/tail-lines.ts'
import { allowsColour, painter } from '../../src/commands/terminal.ts'
import type { Change, Delta } from '../../src/contract/names.ts'

const upsert = (id: number, note: string): Change => ({ op: 'upsert', key: { id }, row: { id, note } })
const gone = (id: number): Change => ({ op: 'delete', key: { id } })

function delta(version: string, changes: Change[], given: Partial<Delta> = {}): Delta {
  return { channel: 'items', since: 'e.0', version, reset: false, more: false, changes, ...given }
}

const reset = (version: string, changes: Change[], more = false): Delta => delta(version, changes, { reset: true, since: null, more })

function notes(replica: Replica, channel = 'items'): Record<string, unknown> {
  return Object.fromEntries([...replica.rows(channel).values()].map(({ id, note }) => [String(id), note]))
}

describe('a replica', () => {
  it('holds nothing of no version before the first answer', () => {
    const replica = new Replica()
    expect([replica.version, replica.rows('items').size, replica.isWhole('items')]).toEqual([null, 0, false])
  })

  it('sets, replaces and removes rows by key', () => {
    const replica = new Replica()
    replica.apply(reset('e.1', [upsert(1, 'a'), upsert(2, 'b')]))
    expect(replica.apply(delta('e.2', [upsert(1, 'c'), gone(2), upsert(3, 'd'), gone(4)]))).toEqual({
      version: 'e.2', resets: [],
      changes: [
        { channel: 'items', change: upsert(1, 'c'), before: { id: 1, note: 'a' } },
        { channel: 'items', change: gone(2), before: { id: 2, note: 'b' } },
        { channel: 'items', change: upsert(3, 'd'), before: undefined },
        { channel: 'items', change: gone(4), before: undefined },
      ],
    })
    expect(notes(replica)).toEqual({ 1: 'c', 3: 'd' })
    expect(replica.version).toBe('e.2')
  })

  it('changes nothing until the last part, then everything at once', () => {
    const replica = new Replica()
    replica.apply(reset('e.1', [upsert(1, 'a')]))
    expect(replica.apply(delta('e.2', [upsert(1, 'b')], { more: true }))).toBeNull()
    expect([replica.version, notes(replica)]).toEqual(['e.1', { 1: 'a' }])
    expect(replica.apply(delta('e.2', [upsert(2, 'c')]))?.changes).toHaveLength(2)
    expect([replica.version, notes(replica)]).toEqual(['e.2', { 1: 'b', 2: 'c' }])
  })

  it('forgets the parts of an answer whose connection ended', () => {
    const replica = new Replica()
    replica.apply(reset('e.1', [upsert(1, 'a')]))
    replica.apply(reset('e.2', [upsert(9, 'lost')], true))
    replica.disconnect()
    expect(replica.apply(delta('e.3', [upsert(2, 'b')]))?.resets).toEqual([])
    expect(notes(replica)).toEqual({ 1: 'a', 2: 'b' })
  })

  it('forgets the parts of an answer that was begun anew at another version', () => {
    const replica = new Replica()
    replica.apply(reset('e.1', [upsert(1, 'a'), upsert(2, 'a')]))
    replica.apply(delta('e.2', [upsert(1, 'b')], { more: true }))
    replica.apply(delta('e.3', [gone(1)], { more: true }))
    replica.apply(delta('e.3', [upsert(3, 'c')]))
    expect(notes(replica)).toEqual({ 2: 'a', 3: 'c' })
  })

  it('begins anew with a reset, once, however many parts it has', () => {
    const replica = new Replica()
    replica.apply(reset('e.1', [upsert(1, 'a')]))
    replica.apply(reset('f.7', [upsert(2, 'b')], true))
    expect(replica.apply(reset('f.7', [upsert(3, 'c')]))).toMatchObject({ version: 'f.7', resets: ['items'] })
    expect(notes(replica)).toEqual({ 2: 'b', 3: 'c' })
  })

  it('applies the channels of one version together, and resets only those that say so', () => {
    const replica = new Replica()
    const of = (channel: string, given: Delta): Delta => ({ ...given, channel })
    replica.apply(of('a', reset('e.1', [upsert(1, 'a')], true)))
    replica.apply(of('b', reset('e.1', [upsert(1, 'b')])))
    replica.apply(of('a', delta('e.2', [upsert(2, 'a')], { more: true })))
    expect(notes(replica, 'a')).toEqual({ 1: 'a' })
    replica.apply(of('b', reset('e.2', [])))
    expect([notes(replica, 'a'), notes(replica, 'b')]).toEqual([{ 1: 'a', 2: 'a' }, {}])
  })

  it('is the same however an answer is cut into parts and however often a connection breaks inside one', () => {
    const changes = fc.array(fc.record({ id: fc.integer({ min: 1, max: 5 }), note: fc.option(fc.string(), { nil: null }) }), { maxLength: 12 })
    fc.assert(fc.property(fc.array(changes, { maxLength: 6 }), fc.integer({ min: 1, max: 4 }), fc.boolean(), (versions, size, breaks) => {
      const [whole, cut] = [new Replica(), new Replica()]
      versions.forEach((list, index) => {
        // A Delta holds each key once.
        const folded = [...new Map(list.map(({ id, note }) => [id, note === null ? gone(id) : upsert(id, note)])).values()]
        whole.apply(delta(`e.${index}`, folded))
        const parts = Array.from({ length: Math.max(1, Math.ceil(folded.length / size)) }, (_, part) => folded.slice(part * size, (part + 1) * size))
        const send = (until: number): void => parts.slice(0, until).forEach((part, place) => cut.apply(delta(`e.${index}`, part, { more: place < parts.length - 1 })))
        if (breaks) {
          send(parts.length - 1)
          cut.disconnect()
        }
        send(parts.length)
      })
      expect(notes(cut)).toEqual(notes(whole))
      expect(cut.version).toBe(whole.version)
    }))
  })

  it('tells keys of several columns apart', () => {
    expect(keyText({ a: '1', b: 2 })).not.toBe(keyText({ a: 1, b: 2 }))
    expect(keyText({ a: '1,2', b: 3 })).not.toBe(keyText({ a: '1', b: '2,3' }))
  })
})

type Script = (request: { readonly lastEventId: string | null; readonly headers: Headers; readonly abort: () => void }) => Response | Error

/** Answers each connection by the next of `scripts`; aborts when they are used up. */
async function run(scripts: readonly Script[], given: Partial<FollowOptions> = {}): Promise<{ readonly deltas: Delta[]; readonly disconnections: Disconnection[]; readonly cursors: (string | null)[] }> {
  const stop = new AbortController()
  const [deltas, disconnections, cursors]: [Delta[], Disconnection[], (string | null)[]] = [[], [], []]
  const left = [...scripts]
  await follow({
    url: 'http://server.test/v1/channels/items/stream',
    signal: stop.signal,
    random: () => 0.5,
    onDelta: (one) => deltas.push(one),
    onDisconnect: (disconnection) => disconnections.push(disconnection),
    fetch: (_url, init) => {
      const headers = new Headers(init?.headers)
      const script = left.shift()
      if (script === undefined) {
        stop.abort()
        return Promise.reject(new Error('aborted'))
      }
      cursors.push(headers.get('last-event-id'))
      const answer = script({ lastEventId: headers.get('last-event-id'), headers, abort: () => stop.abort() })
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer)
    },
    ...given,
  })
  return { deltas, disconnections, cursors }
}

const HEAD = { 'Content-Type': 'text/event-stream; charset=utf-8' }

/** A stream that ends after these chunks, with the shortest wait before the next. */
const stream = (...chunks: string[]): Script => () => new Response(new ReadableStream({
  start(controller) {
    for (const chunk of [': hello\n\nretry: 1\n\n', ...chunks]) controller.enqueue(new TextEncoder().encode(chunk))
    controller.close()
  },
}), { headers: HEAD })

function event(given: Delta): string {
  return `${given.more ? '' : `id: ${given.version}\n`}data: ${JSON.stringify(given)}\n\n`
}

describe('follow', () => {
  it('hands on each Delta, wherever the chunks are cut, with its text', async () => {
    const one = delta('e.1', [upsert(1, 'é☕')])
    const bytes = event(one)
    const texts: string[] = []
    const { deltas } = await run([stream(bytes.slice(0, 9), bytes.slice(9, 30), bytes.slice(30) + event(delta('e.2', [])))], { onDelta: (_delta, text) => texts.push(text) })
    expect(deltas).toEqual([])
    expect(texts).toEqual([JSON.stringify(one), JSON.stringify(delta('e.2', []))])
  })

  it('begins at the version it is given and comes back after the last id, never inside an answer', async () => {
    const { cursors } = await run([
      stream(event(delta('e.5', []))),
      stream(event(delta('e.6', [], { more: true }))),
      stream(event(delta('e.6', [], { more: true })), event(delta('e.6', []))),
      stream(),
    ], { since: 'e.4' })
    expect(cursors).toEqual(['e.4', 'e.5', 'e.5', 'e.6'])
  })

  it('sends no cursor when it has none', async () => {
    expect((await run([stream()])).cursors).toEqual([null])
  })

  it('tells an orderly end from a broken connection, and waits as the server says', async () => {
    const broken: Script = () => new Response(new ReadableStream({
      start(controller) { controller.enqueue(new TextEncoder().encode('retry: 8\n\n')) },
      pull(controller) { controller.error(new Error('cable cut')) },
    }), { headers: HEAD })
    const { disconnections } = await run([stream(), broken, () => new Error('refused'), () => new Error('refused')])
    expect(disconnections.map(({ cause, retryInMs }) => [cause?.message ?? null, retryInMs])).toEqual([
      [null, 1], ['cable cut', 8], ['refused', 16], ['refused', 32],
    ])
  })

  it('waits for Retry-After when the server is busy, and gives up when it refuses for good', async () => {
    const problem = { type: '/docs#x', title: 'x', status: 404, code: 'unknown_channel', detail: 'There is no channel "items".', hint: 'Look.' }
    const refusals = run([stream(), () => Response.json({}, { status: 503, headers: { 'Retry-After': '0.01' } }), () => Response.json(problem, { status: 404 })])
    await expect(refusals).rejects.toThrow('There is no channel "items".')
    await expect(refusals).rejects.toMatchObject({ name: 'FollowError', status: 404, problem: { code: 'unknown_channel' } })
    await expect(run([() => new Response('<html>', { headers: { 'Content-Type': 'text/html' } })])).rejects.toThrow('The server answered 200, but not with an event stream.')
    await expect(run([() => new Response('gone', { status: 410 })])).rejects.toBeInstanceOf(FollowError)
  })

  it('stops where the server says so, and when it is aborted in the middle of a stream', async () => {
    expect((await run([stream(event(delta('e.1', []))), () => new Response(null, { status: 204 })])).deltas).toHaveLength(1)
    const endless: Script = ({ abort }) => new Response(new ReadableStream({ pull() { abort(); return new Promise(() => undefined) } }, { highWaterMark: 0 }), { headers: HEAD })
    const stop = new AbortController()
    await run([endless], { signal: stop.signal, fetch: (_url, init) => {
      const answer = endless({ lastEventId: null, headers: new Headers(), abort: () => stop.abort() })
      const body = answer instanceof Error ? null : answer.body
      return Promise.resolve(new Response(body?.pipeThrough(new TransformStream(), init?.signal == null ? {} : { signal: init.signal }), { headers: HEAD }))
    } })
    expect(stop.signal.aborted).toBe(true)
  })

  it('counts a silent connection as lost', async () => {
    const silent = (signal: AbortSignal | null | undefined): Response => new Response(new ReadableStream({
      start(controller) { signal?.addEventListener('abort', () => controller.error(new Error('aborted'))) },
    }), { headers: HEAD })
    let attempts = 0
    const lost: Disconnection[] = []
    const stop = new AbortController()
    await run([], { silenceMs: 5, signal: stop.signal, fetch: (_url, init) => { attempts += 1; return Promise.resolve(silent(init?.signal)) }, onDisconnect: (one) => { lost.push(one); stop.abort() } })
    expect([attempts, lost[0]?.cause?.message]).toEqual([1, 'the connection was silent for 5 ms'])
  })

  it('hands on the server\'s status, ignores events it does not know, and comes back from what is no Delta', async () => {
    const statuses: unknown[] = []
    const { deltas, disconnections } = await run([stream('event: status\ndata: {"stale_since":null}\n\n', 'event: news\ndata: x\n\n', 'data: {"hello":1}\n\n', event(delta('e.1', [])))], { onStatus: (status) => statuses.push(status) })
    expect([statuses, deltas]).toEqual([[{ stale_since: null }], []])
    expect(disconnections[0]?.cause?.message).toBe('the stream carries something that is not a Delta')
  })

  it('fails with whatever a callback throws', async () => {
    await expect(run([stream(event(delta('e.1', [])))], { onDelta: () => { throw new Error('full') } })).rejects.toThrow('full')
  })

  it('waits twice as long after each failure, up to half a minute but never less than the server asks', () => {
    const waits = [-1, 0, 1, 2, 10].map((failures) => backOffMs({ retryMs: 2_000, failures }, 0.5))
    expect(waits).toEqual([2_000, 2_000, 4_000, 8_000, 30_000])
    expect(backOffMs({ retryMs: 60_000, failures: 3 }, 0.5)).toBe(60_000)
    expect([backOffMs({ retryMs: 1_000, failures: 0 }, 0), backOffMs({ retryMs: 1_000, failures: 0 }, 1)]).toEqual([750, 1_250])
  })
})

describe('the lines of tail', () => {
  const draw = (replica: Replica, given: Delta, isColoured = false): readonly string[] => {
    const applied = replica.apply(given)
    return applied === null ? [] : describeApplied(applied, replica, { atMs: new Date(2024, 0, 2, 3, 4, 5).getTime(), paint: painter(isColoured) })
  }

  it('tell a new row from a changed one and from one that is gone', () => {
    const replica = new Replica()
    expect(draw(replica, reset('e.1', [upsert(1, 'a')]))).toEqual(['03:04:05  e.1  reset: 1 row'])
    expect(draw(replica, delta('e.2', [upsert(1, 'b'), upsert(2, 'c'), gone(1)]))).toEqual([
      '03:04:05  e.2  ~ 1  {"note":"b"}', '03:04:05  e.2  + 2  {"note":"c"}', '03:04:05  e.2  - 1',
    ])
  })

  it('do not call a row new where the state before is not known', () => {
    expect(draw(new Replica(), delta('e.2', [upsert(1, 'b')]))).toEqual(['03:04:05  e.2  ~ 1  {"note":"b"}'])
  })

  it('name the columns of a key that has several, and let no control character through', () => {
    const change: Change = { op: 'upsert', key: { shop: 'a', id: 2 }, row: { shop: 'a', id: 2, note: '\u001b[2J\u009b2J\u202e' } }
    expect(draw(new Replica(), delta('e.1', [change]))).toEqual(['03:04:05  e.1  ~ shop="a" id=2  {"note":"\\u001b[2J\\u009b2J\\u202e"}'])
  })

  it('colour the sign alone, where colours are allowed', () => {
    expect(draw(new Replica(), delta('e.1', [gone(1)]), true)).toEqual(['\u001b[2m03:04:05  e.1\u001b[0m  \u001b[31m-\u001b[0m 1'])
    expect([{}, { NO_COLOR: '' }, { NO_COLOR: '1' }, { TERM: 'dumb' }].map(allowsColour)).toEqual([true, true, false, false])
  })
})
