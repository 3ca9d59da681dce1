/**
 * The poll: what changed since the client's version, with the moment to ask again. Promise: 304 is the truth; every answer, also
 * a 304, bears the advice; an answer to a URL without `since` is nobody else's; what memory has at once is the same however it is asked for.
 */
import { setMaxListeners } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { LRUCache } from 'lru-cache'
import { RangeLost, type ChannelDefinition, type Window } from '../contract/change.ts'
import { parsePoll, type PollRequest } from '../contract/request.ts'
import { formatCursor, formatVersion, type Version } from '../contract/version.ts'
import { ApiError } from '../errors.ts'
import { discard, isHeld, type Delta, type HeldDelta } from '../hub/answer.ts'
import type { Follower } from '../hub/feed.ts'
import { feedKey, type Answer, type Hub } from '../hub/hub.ts'
import type { Asking, Advisor } from '../pace/advisor.ts'
import type { Advice } from '../pace/pace.ts'
import { deltaHead } from './frame.ts'
import { JSON_TYPE, type HeaderList } from './headers.ts'
import { Outflow } from './outflow.ts'
import type { Page, PageStore } from './pages.ts'
import { header } from './sse.ts'

export interface PollOptions {
  readonly hub: Hub
  readonly pages: PageStore
  readonly advisor: Advisor
  /** Aborted when the server drains: held polls are answered at once. */
  readonly draining: AbortSignal
  /** How long a client may take nothing at all of a body. */
  readonly drainDeadlineMs: number
}

export interface PollAddress {
  /** The channel's. */
  readonly name: string
  /** Without the question mark. */
  readonly rawQuery: string
  /** Of the answer, where they are not set on the response already. */
  readonly headers?: HeaderList
}

/** What is asked, understood. */
interface Asked {
  readonly query: PollRequest
  readonly window: Window
  /** What the answer bears besides the headers of a poll. */
  readonly headers: HeaderList
}

/** Everything that an answer is made of. */
interface Poll extends Asked {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly epoch: string
}

/** What memory has to say to a poll. */
export interface Recalled {
  readonly asked: Asked
  readonly version: Version
  /** Null: nothing new. */
  readonly delta: HeldDelta | null
}

/** An answer in one piece. */
export interface WholeAnswer {
  readonly status: 200 | 304
  readonly headers: string[]
  /** Bytes as characters. */
  readonly body: string
}

/** Questions that were read lately, and the longest of them, characters: all who are at the same version ask the same. */
const KNOWN_QUESTIONS = 1_000
const MAX_KNOWN_LENGTH = 200

export class PollEndpoint {
  readonly #options: PollOptions
  readonly #questions = new LRUCache<string, PollRequest>({ max: KNOWN_QUESTIONS })

  constructor(options: PollOptions) {
    this.#options = options
    // Each held poll listens.
    setMaxListeners(0, options.draining)
  }

  /** `GET /v1/channels/{channel}/changes`. Rejects with ApiError before anything is sent. */
  async answer(request: IncomingMessage, response: ServerResponse, { name, rawQuery, headers = [] }: PollAddress): Promise<void> {
    const { hub, advisor } = this.#options
    const retryAfterSeconds = advisor.admit()
    if (retryAfterSeconds > 0) throw new ApiError('overloaded', 'More is asked of this server than it can answer.', { retryAfterSeconds })
    const channel = hub.channel(name)
    const query = this.#read(request, rawQuery, channel)
    if (hub.staleSinceMs !== null) throw new ApiError('database_unreachable', 'The database has not answered for more than five seconds.')
    const window = await hub.window(name, query.filters)
    const poll = { request, response, query, window, epoch: hub.epoch, headers }
    if (query.cursor?.kind === 'page' && await this.#answerPage(poll, query.cursor.page)) return
    await this.#answerDelta(poll)
  }

  /** What memory says in one piece; null: the answer comes from elsewhere, or later. Counts nothing. Throws ApiError as `answer` rejects. */
  recall(request: Pick<IncomingMessage, 'headers'>, { name, rawQuery, headers = [] }: PollAddress): Recalled | null {
    const { hub } = this.#options
    const query = this.#read(request, rawQuery, hub.channel(name))
    const window = hub.windowAtOnce(name, query.filters)
    const held = heldVersion(query, hub)
    if (hub.staleSinceMs !== null || window === null || held === null || query.limit !== null || query.waitSeconds !== null || query.cursor?.kind === 'page') return null
    const answer = hub.answerAtOnce([window], held)
    if (answer === null) return null
    const asked = { query, window, headers }
    if (answer.kind === 'unchanged') return { asked, version: held, delta: null }
    return isHeld(answer) ? { asked, version: { epoch: hub.epoch, number: answer.version }, delta: answer } : null
  }

  /** Counts the poll and answers it; null: there are too many. */
  tell(recalled: Recalled): WholeAnswer | null {
    return this.#options.advisor.admit() > 0 ? null : this.#whole(recalled)
  }

  #read(request: Pick<IncomingMessage, 'headers'>, rawQuery: string, { filters }: ChannelDefinition): PollRequest {
    const [ifNoneMatch, prefer] = [header(request, 'if-none-match'), header(request, 'prefer')]
    const key = `${rawQuery}\n${ifNoneMatch ?? ''}\n${prefer ?? ''}\n${filters.join('\0')}`
    const known = this.#questions.get(key)
    if (known !== undefined) return known
    const query = parsePoll(rawQuery, { ifNoneMatch, prefer }, filters)
    if (key.length <= MAX_KNOWN_LENGTH) this.#questions.set(key, query)
    return query
  }

  async #answerDelta(poll: Poll): Promise<void> {
    const { hub } = this.#options
    const { query, window } = poll
    const held = heldVersion(query, hub)
    let answer = await hub.answer([window], held)
    // Named by the epoch it was given in, whatever begins while it is held or written.
    let epoch = hub.epoch
    const deadlineMs = performance.now() + (query.waitSeconds ?? 0) * 1_000
    while (this.#isNothingNew(answer, poll) && held !== null && performance.now() < deadlineMs) {
      if (!await this.#change(poll, answer.kind === 'delta' ? { epoch, number: answer.version } : held, deadlineMs)) break
      answer = await hub.answer([window], held)
      epoch = hub.epoch
    }
    if (poll.request.socket.destroyed) return letGo(answer)
    const version = answer.kind === 'delta' ? { epoch, number: answer.version } : held
    if (version === null) throw new ApiError('internal', 'The server failed to answer this request.')
    if (matches(query, version)) {
      await letGo(answer)
      this.#reply(poll, { asked: poll, version, delta: null })
    } else if (answer.kind === 'delta' && query.limit !== null) {
      await this.#answerFirstPage({ ...poll, epoch }, answer, query.limit)
    } else if (answer.kind === 'delta' && !isHeld(answer)) {
      await this.#stream(poll, answer, version)
    } else {
      this.#reply(poll, { asked: poll, version, delta: answer.kind === 'delta' ? answer : null })
    }
  }

  /** Whether a held request should go on waiting: up to date, or behind only by what its filters leave out. */
  #isNothingNew(answer: Answer, { query }: Poll): boolean {
    if (query.waitSeconds === null || this.#options.draining.aborted) return false
    return answer.kind === 'unchanged' || (answer.since !== null && isHeld(answer) && answer.parts.length === 0)
  }

  /** Waits for a change after `version`: true if one came, false at the deadline, at drain or when the client left. */
  #change({ window, request: { socket } }: Poll, version: Version, deadlineMs: number): Promise<boolean> {
    const { hub, draining } = this.#options
    return new Promise((resolve) => {
      const settle = (hasChanged: boolean): void => {
        clearTimeout(timer)
        hub.unfollow([window], follower)
        draining.removeEventListener('abort', onGone)
        socket.off('close', onGone)
        resolve(hasChanged)
      }
      const onGone = (): void => settle(false)
      // Let go first, so that the follower is in no group when the answer is asked for.
      const follower: Follower = { deliver: () => { settle(true); return false }, overtaken: () => settle(true) }
      const timer = setTimeout(onGone, deadlineMs - performance.now())
      // Not the response's end: one that waits behind another of its connection has none.
      socket.setMaxListeners(0).on('close', onGone)
      draining.addEventListener('abort', onGone)
      // What can no longer be followed can no longer be answered either: whoever asks is told why.
      if (!isFollowing(() => hub.follow([window], version, follower))) settle(true)
    })
  }

  async #answerFirstPage(poll: Poll, delta: Delta, limit: number): Promise<void> {
    const page = await this.#options.pages.begin(delta, { feed: feedKey([poll.window]), since: delta.since, version: delta.version, limit }).catch(toNullIfLost)
    if (page !== null) this.#sendPage(poll, delta, page)
    // Nothing was sent yet, and the log that has turned under a long reading says so to the next.
    else await this.#answerDelta(poll)
  }

  /** False: the page is not here; the answer begins anew from where the client's whole state is. */
  async #answerPage(poll: Poll, { epoch, version, since, position }: { epoch: string; version: number; since: number | null; position: string }): Promise<boolean> {
    if (epoch !== poll.epoch) return false
    const page = await this.#options.pages.read(position, { feed: feedKey([poll.window]), since, version, limit: poll.query.limit ?? 1_000 })
    if (page === null) return false
    this.#sendPage(poll, { since, version }, page)
    return true
  }

  #sendPage(poll: Poll, { since, version }: Pick<Delta, 'since' | 'version'>, page: Page): void {
    const { epoch, response } = poll
    const { advice, headers } = this.#describe(poll, page.next === null ? { epoch, number: version } : null)
    const next = page.next === null ? '' : `,"next":"${formatCursor({ epoch, version, since, position: page.next })}"`
    const body = `${headOf(poll, since, { epoch, number: version }, page.next !== null)}${page.changes.join(',')}${tailOf(advice, next)}`
    headers.push('Content-Type', JSON_TYPE, 'Content-Length', String(Buffer.byteLength(body)))
    response.writeHead(200, headers).end(poll.request.method === 'HEAD' ? undefined : body)
  }

  #reply({ request, response }: Poll, recalled: Recalled): void {
    const { status, headers, body } = this.#whole(recalled)
    // As one text with the head it is one write, where a buffer would be another.
    response.writeHead(status, headers).end(request.method === 'HEAD' ? undefined : body, 'latin1')
  }

  #whole({ asked, version, delta }: Recalled): WholeAnswer {
    const { advice, headers } = this.#describe(asked, version)
    if (matches(asked.query, version)) return { status: 304, headers, body: '' }
    const { since, parts } = delta ?? { since: version.number, parts: [] }
    const changes = parts.filter((part) => part.changes.length > 0).map((part) => part.changes.toString('latin1'))
    const body = `${headOf(asked, since, version)}${changes.join(',')}${tailOf(advice)}`
    headers.push('Content-Type', JSON_TYPE, 'Content-Length', String(body.length))
    return { status: 200, headers, body }
  }

  async #stream(poll: Poll, delta: Delta, version: Version): Promise<void> {
    const { request, response } = poll
    const { advice, headers } = this.#describe(poll, version)
    response.writeHead(200, [...headers, 'Content-Type', JSON_TYPE])
    if (request.method === 'HEAD') {
      await discard(delta)
      response.end()
    } else {
      await writeStreamed(poll, { head: headOf(poll, delta.since, version), parts: delta.parts, tail: tailOf(advice), deadlineMs: this.#options.drainDeadlineMs })
    }
  }

  /** Headers of 200 and 304 alike [rfc9110 §15.4.5], for the caller to complete. `version` null: a part of an answer has no ETag. */
  #describe({ query, window, headers: own }: Asked, version: Version | null): { readonly advice: Advice; readonly headers: string[] } {
    const advice = this.#options.advisor.advise(window.channel.name, askingOf(query, version))
    const headers = [...own]
    if (version !== null) headers.push('ETag', `W/"${formatVersion(version)}"`)
    headers.push('Poll-After-Ms', String(advice.afterMs), 'Poll-Interval', String(Math.ceil(advice.afterMs / 1_000)), 'Poll-Reason', advice.reason,
      'Cache-Control', cacheControl(query, window.channel.isPublic))
    if (query.waitPreferred) headers.push('Preference-Applied', `wait=${query.waitSeconds ?? 0}`)
    return { advice, headers }
  }
}

/** The version the client holds: `since`, else the newest ETag it names that was issued; failing that one it may be early with. */
function heldVersion({ cursor, etags }: PollRequest, hub: Hub): Version | null {
  if (cursor?.kind === 'version') return cursor.version
  if (cursor?.kind === 'page') return cursor.page.since === null ? null : { epoch: cursor.page.epoch, number: cursor.page.since }
  if (etags === null || etags === 'any') return null
  const newestFirst = etags.toSorted((a, b) => b.number - a.number)
  const ours = newestFirst.filter(({ epoch }) => epoch === hub.epoch)
  return ours.find(({ number }) => hub.wasIssued(number)) ?? ours[0] ?? newestFirst[0] ?? null
}

async function letGo(answer: Answer): Promise<void> {
  if (answer.kind === 'delta') await discard(answer)
}

function toNullIfLost(error: unknown): null {
  if (error instanceof RangeLost) return null
  throw error
}

function isFollowing(follow: () => boolean): boolean {
  try {
    return follow()
  } catch {
    return false
  }
}

/** [rfc9110 §13.1.2] weak comparison: the answer that would be sent is one the client has. `*` matches any. */
function matches({ etags }: PollRequest, version: Version): boolean {
  if (etags === null) return false
  return etags === 'any' || etags.some((etag) => etag.epoch === version.epoch && etag.number === version.number)
}

/** Only who comes without a cursor is told something of its own: every other answer may be shared. A part, or an answer to who holds, is followed by the next question at once. */
function askingOf({ since, etags, waitSeconds }: PollRequest, version: Version | null): Asking {
  return { isFirst: since === null && etags === null, isHolding: waitSeconds !== null || version === null }
}

/** Only an answer that says whose state it starts from may be shared; a held one is late for everybody else. */
function cacheControl({ since, waitSeconds }: PollRequest, isPublic: boolean): string {
  if (!isPublic) return 'private, no-store'
  return since === null || waitSeconds !== null ? 'no-store' : 'public, max-age=0, s-maxage=1'
}

function headOf({ window }: Asked, since: number | null, { epoch, number }: Version, more = false): string {
  return deltaHead(window.channel.name, { epoch, since, version: number }, more)
}

/** After the last change. */
function tailOf({ afterMs, reason }: Advice, next = ''): string {
  return `]${next},"poll_after_ms":${afterMs},"poll_reason":"${reason}"}\n`
}

const COMMA = Buffer.from(',')

interface StreamedBody {
  readonly head: string
  readonly parts: Delta['parts']
  readonly tail: string
  readonly deadlineMs: number
}

async function writeStreamed({ request, response }: Poll, { head, parts, tail, deadlineMs }: StreamedBody): Promise<void> {
  const outflow = new Outflow(response, request.socket)
  response.write(head)
  let isFirst = true
  for await (const { changes } of parts) {
    if (!outflow.isOpen) return
    if (changes.length === 0) continue
    if (!isFirst) outflow.write(COMMA)
    isFirst = false
    if (!outflow.write(changes)) await outflow.drained(deadlineMs)
  }
  response.end(tail)
}
