import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { poll, type PollOptions, type PollWait } from '../../src/client/poll.ts'
import type { Delta } from '../../src/contract/names.ts'

const URL = 'http://tv/v1/channels/items/changes'

function delta(version: string, given: Partial<Delta> = {}): Delta {
  return { channel: 'items', since: null, version, reset: false, more: false, changes: [], poll_after_ms: 10_000, poll_reason: 'idle', ...given }
}

function answer(body: Delta, headers: Readonly<Record<string, string>> = {}): Response {
  return new Response(JSON.stringify(body), { headers: { 'Content-Type': 'application/json', ...headers } })
}

interface Run {
  readonly asked: { readonly url: string; readonly headers: Headers; readonly atMs: number }[]
  readonly deltas: Delta[]
  readonly waits: PollWait[]
  readonly ended: Promise<void>
  readonly stop: AbortController
}

/** Polls a server that gives these answers, and the last of them for ever. */
function run(answers: readonly (() => Response | Error)[], options: Partial<PollOptions> = {}): Run {
  const stop = new AbortController()
  const asked: Run['asked'] = []
  const deltas: Delta[] = []
  const waits: PollWait[] = []
  const ended = poll({
    url: URL, signal: stop.signal, random: () => 0.5,
    onDelta: (one) => deltas.push(one), onWait: (wait) => waits.push(wait),
    fetch: (url, init) => {
      const given = (answers[asked.length] ?? answers.at(-1))?.() ?? new Error('no answer')
      asked.push({ url: new Request(url).url, headers: new Headers(init?.headers), atMs: Date.now() })
      return given instanceof Error ? Promise.reject(given) : Promise.resolve(given)
    },
    ...options,
  })
  return { asked, deltas, waits, ended, stop }
}

describe('a client that polls', () => {
  beforeEach(() => { vi.useFakeTimers({ now: 1e12 }) })
  afterEach(() => {
    vi.useRealTimers()
    vi.unstubAllGlobals()
  })

  it('begins with the whole state, goes on from each version, and sends no header of its own', async () => {
    const { asked, deltas, stop, ended } = run([() => answer(delta('e.1', { reset: true })), () => answer(delta('e.2')), () => answer(delta('e.2'))])
    await vi.advanceTimersByTimeAsync(25_000)
    expect(asked.map(({ url }) => url)).toEqual([URL, `${URL}?since=e.1`, `${URL}?since=e.2`])
    expect(asked.every(({ headers }) => [...headers].length === 0)).toBe(true)
    expect(deltas.map(({ version }) => version), 'what says nothing new is not handed on').toEqual(['e.1', 'e.2'])
    stop.abort()
    await ended
  })

  it('asks 2 to 5 % later than it is told, and tells why', async () => {
    const { asked, waits, stop, ended } = run([() => answer(delta('e.1', { poll_after_ms: 20_000, poll_reason: 'tick' }))])
    await vi.advanceTimersByTimeAsync(20_300)
    expect(asked).toHaveLength(1)
    await vi.advanceTimersByTimeAsync(800)
    expect(asked).toHaveLength(2)
    expect(waits[0]).toEqual({ waitMs: 20_700, reason: 'tick' })
    stop.abort()
    await ended
  })

  it('keeps the filters of its address, and subtracts the time a cache has kept the answer', async () => {
    const { asked, waits, stop, ended } = run([() => answer(delta('e.1'), { Age: '8' })], { url: `${URL}?grp=hot`, waitSeconds: 0 })
    await vi.advanceTimersByTimeAsync(2_500)
    expect(waits[0]?.waitMs).toBe(2_070)
    expect(asked.map(({ url }) => url)).toEqual([`${URL}?grp=hot&wait=0`, `${URL}?grp=hot&since=e.1&wait=0`])
    stop.abort()
    await ended
  })

  it('that is held asks again at once', async () => {
    const { asked, stop, ended } = run([() => answer(delta('e.1'))], { waitSeconds: 25 })
    await vi.advanceTimersByTimeAsync(1_000)
    expect(asked.length).toBeGreaterThan(4)
    expect(asked[1]?.url).toBe(`${URL}?since=e.1&wait=25`)
    stop.abort()
    await ended
  })

  it('waits longer after each failure, at least as long as it is asked to, and then comes back out of step', async () => {
    const busy = (): Response => new Response('{}', { status: 503, headers: { 'Retry-After': '30' } })
    const { waits, stop, ended } = run([() => new Error('no route'), () => new Error('no route'), () => new Response('half a', { status: 200 }), busy, () => answer(delta('e.1'))])
    await vi.advanceTimersByTimeAsync(60_000)
    expect(waits.slice(0, 4).map(({ waitMs }) => waitMs)).toEqual([1_000, 2_000, 4_000, 33_000])
    expect(waits.slice(0, 4).map(({ reason }) => (reason instanceof Error ? reason.message : reason))).toEqual(['no route', 'no route', 'the answer is no Delta', 'The server answered 503.'])
    expect(waits[4]).toEqual({ waitMs: 6_500, reason: 'idle' })
    expect(waits[5]?.waitMs, 'once').toBe(10_350)
    stop.abort()
    await ended
  })

  it('ends when it is refused for good, but begins anew when only its cursor is', async () => {
    const problem = (code: string, status: number) => (): Response => Response.json({ type: '/docs', title: code, status, code, detail: `It is ${code}.`, hint: 'Look.' }, { status })
    const { asked, ended } = run([problem('malformed_cursor', 400), () => answer(delta('e.1')), problem('unknown_channel', 404)], { since: 'x.1' })
    const refused = expect(ended).rejects.toMatchObject({ name: 'FollowError', status: 404, message: 'It is unknown_channel.' })
    await vi.advanceTimersByTimeAsync(20_000)
    await refused
    expect(asked.map(({ url }) => url)).toEqual([`${URL}?since=x.1`, URL, `${URL}?since=e.1`])
  })

  it('asks at once when the machine has slept', async () => {
    const { asked, waits, stop, ended } = run([() => answer(delta('e.1', { poll_after_ms: 300_000 }))])
    await vi.advanceTimersByTimeAsync(10_000)
    expect(asked).toHaveLength(1)
    vi.setSystemTime(Date.now() + 3_600_000)
    await vi.advanceTimersByTimeAsync(1_100)
    expect(asked).toHaveLength(2)
    expect(waits[1]?.waitMs, 'with many others: its own phase').toBe(195_000)
    stop.abort()
    await ended
  })

  it('asks at once when its tab is shown again, or the network is back', async () => {
    const document = Object.assign(new EventTarget(), { hidden: true })
    const window = new EventTarget()
    vi.stubGlobal('document', document)
    vi.stubGlobal('window', window)
    const { asked, stop, ended } = run([() => answer(delta('e.1', { poll_after_ms: 300_000 }))])
    await vi.advanceTimersByTimeAsync(100)
    document.dispatchEvent(new Event('visibilitychange'))
    window.dispatchEvent(new Event('online'))
    await vi.advanceTimersByTimeAsync(100)
    expect(asked, 'nobody looks').toHaveLength(1)
    document.hidden = false
    document.dispatchEvent(new Event('visibilitychange'))
    await vi.advanceTimersByTimeAsync(100)
    expect(asked).toHaveLength(2)
    window.dispatchEvent(new Event('online'))
    await vi.advanceTimersByTimeAsync(100)
    expect(asked).toHaveLength(3)
    stop.abort()
    await ended
  })

  it('fails with whatever a callback throws', async () => {
    await expect(run([() => answer(delta('e.1'))], { onDelta: () => { throw new Error('full') } }).ended).rejects.toThrow('full')
  })
})
