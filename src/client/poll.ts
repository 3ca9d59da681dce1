/**
 * Polls a channel as the server advises: for whoever cannot hold a connection. Sends no header of its own, so browsers send no
 * preflight. Promise: it ends when aborted or for a refusal that another attempt would only repeat; a tab that is shown again and
 * a machine that comes back from standby ask at once, and a crowd of them does not come back in step.
 *
 *   asking ──answer──▶ waiting, as long as advised ──over, shown, awake──▶ asking
 *     └──refused, unreachable──▶ waiting, longer each time ──▶ asking
 */
import type { Delta, PollReason, VersionText } from '../contract/names.ts'
import { backOffMs, FollowError, isAborted, isDelta, parse, refusalOf, retryAfterMs, toError } from './wire.ts'

export interface PollOptions {
  /** `…/v1/channels/{channel}/changes`, with filters. */
  readonly url: string | URL
  /** Begin after this version. Default: with the whole state, as a reset. */
  readonly since?: VersionText | undefined
  /** Lets the server hold each question until something changes, up to 25 seconds. Default: it answers at once. */
  readonly waitSeconds?: number | undefined
  /** Ends it: `poll` resolves. */
  readonly signal?: AbortSignal | undefined
  /** Each Delta that says something new. Feed it to a `Replica`. */
  readonly onDelta: (delta: Delta) => void
  /** When it asks again, and why then. */
  readonly onWait?: ((wait: PollWait) => void) | undefined
  /** Default: the global ones. */
  readonly fetch?: typeof fetch | undefined
  readonly random?: (() => number) | undefined
}

export interface PollWait {
  readonly waitMs: number
  /** The server's reason, or why there was no answer. */
  readonly reason: PollReason | Error
}

/** Of an answer without advice. */
const DEFAULT_MS = 5_000
const SHORTEST_MS = 250
const RETRY_MS = 1_000
/** Waiting is done in slices: one that takes this much longer has been slept through. */
const SLICE_MS = 1_000
const ASLEEP_MS = 5_000

/** What is carried from one question to the next. */
interface Position {
  version: VersionText | null
  failures: number
  /** It asks out of turn: many may do so for the same cause. */
  isBack: boolean
}

/** Resolves when `signal` aborts. Rejects with FollowError when the server refuses for good, and with whatever a callback throws. */
export async function poll(options: PollOptions): Promise<void> {
  const { signal, onWait } = options
  const position: Position = { version: options.since ?? null, failures: 0, isBack: false }
  while (!isAborted(signal)) {
    const wait = await ask(options, position)
    if (isAborted(signal)) return
    onWait?.(wait)
    position.isBack = await sleep(wait.waitMs, signal) || wait.reason instanceof Error
  }
}

async function ask(options: PollOptions, position: Position): Promise<PollWait> {
  const answer = await (options.fetch ?? fetch)(address(options, position), { signal: options.signal ?? null }).then(read, toError)
  if (answer instanceof Error) return failed(answer, position, options)
  if (answer.delta === null) return refused(answer.response, position, options)
  const { delta, response } = answer
  const isNew = delta.version !== position.version
  if (isNew) options.onDelta(delta)
  Object.assign(position, { version: delta.version, failures: 0 })
  return { waitMs: nextMs(delta, response, position, options), reason: delta.poll_reason ?? 'idle' }
}

interface Read {
  readonly response: Response
  /** Null: this is no answer. */
  readonly delta: Delta | null
}

async function read(response: Response): Promise<Read | Error> {
  if (response.status !== 200) return { response, delta: null }
  const value = parse(await response.text().catch(() => ''))
  // Cut short on the way, or something between that answers for the server.
  return isDelta(value) && !value.more ? { response, delta: value } : new Error('the answer is no Delta')
}

async function refused(response: Response, position: Position, options: PollOptions): Promise<PollWait> {
  try {
    return failed(await refusalOf(response, 'a Delta'), position, options, retryAfterMs(response))
  } catch (error) {
    // A cursor of another server, most likely. Without one there is nothing left to mend.
    if (!(error instanceof FollowError) || error.problem?.code !== 'malformed_cursor' || position.version === null) throw error
    position.version = null
    return failed(error, position, options)
  }
}

function failed(reason: Error, position: Position, { random = Math.random }: PollOptions, leastMs = 0): PollWait {
  const waitMs = Math.max(Math.round(leastMs * (1 + 0.2 * random())), backOffMs({ retryMs: RETRY_MS, failures: position.failures }, random()))
  position.failures += 1
  return { waitMs, reason }
}

function address({ url, waitSeconds }: PollOptions, { version }: Position): string {
  const [path = '', query = ''] = String(url).split('?')
  const parameters = [query, version === null ? '' : `since=${encodeURIComponent(version)}`, waitSeconds === undefined ? '' : `wait=${waitSeconds}`]
  return [path, parameters.filter((parameter) => parameter !== '').join('&')].filter((part) => part !== '').join('?')
}

/** The advice, less the time a cache has kept the answer, and a little of one's own: everybody is told the same. */
function nextMs(delta: Delta, response: Response, { isBack }: Position, { waitSeconds, random = Math.random }: PollOptions): number {
  // Who is held has nothing to wait for.
  if (waitSeconds !== undefined && waitSeconds > 0) return Math.round(SHORTEST_MS * random())
  const ageMs = Number(response.headers.get('age')) * 1_000 || 0
  const advisedMs = Math.max(SHORTEST_MS, (delta.poll_after_ms ?? DEFAULT_MS) - ageMs)
  return Math.round(advisedMs * (isBack ? 0.3 + 0.7 * random() : 1.02 + 0.03 * random()))
}

/** Whether it ended early, because somebody looks or the machine has slept. */
function sleep(ms: number, signal: AbortSignal | undefined): Promise<boolean> {
  return new Promise((resolve) => {
    const end = new AbortController()
    const finish = (isEarly: boolean): void => {
      clearTimeout(timer)
      end.abort()
      resolve(isEarly)
    }
    const slice = (leftMs: number): NodeJS.Timeout => {
      const beganMs = Date.now()
      return setTimeout(() => {
        if (Math.abs(Date.now() - beganMs - Math.min(leftMs, SLICE_MS)) > ASLEEP_MS) finish(true)
        else if (leftMs <= SLICE_MS) finish(false)
        else timer = slice(leftMs - SLICE_MS)
      }, Math.min(leftMs, SLICE_MS))
    }
    let timer = slice(ms)
    signal?.addEventListener('abort', () => finish(false), { signal: end.signal })
    if (isAborted(signal)) finish(false)
    for (const [target, event] of returns()) target.addEventListener(event, () => { if (isShown()) finish(true) }, { signal: end.signal })
  })
}

/** What tells that somebody looks again, where there is such a thing. */
function returns(): readonly (readonly [EventTarget, string])[] {
  const { document, window } = page()
  return document === undefined || window === undefined ? [] : [[document, 'visibilitychange'], [window, 'online'], [window, 'pageshow']]
}

function isShown(): boolean {
  return page().document?.hidden !== true
}

interface Page {
  readonly document?: EventTarget & { readonly hidden: boolean }
  readonly window?: EventTarget
}

/** The page it runs in; nothing of it elsewhere. */
function page(): Page {
  return globalThis as Page
}
