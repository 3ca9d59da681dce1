/**
 * Follows a stream over fetch: connects, hands each Delta on, and comes back with the last event id when the connection ends.
 * Runs wherever fetch does. Promise: it ends when aborted, when the server says "stop", or for a refusal that another attempt
 * would only repeat; everything else is retried for ever, at the pace the server asks for, later and later while it fails.
 */
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import type { Delta, Status, VersionText } from '../contract/names.ts'
import { backOffMs, isAborted, isDelta, parse, refusalOf, retryAfterMs, toError } from './wire.ts'

export interface FollowOptions {
  /** `…/v1/channels/{channel}/stream`, with filters, or `…/v1/stream?channels=…`. */
  readonly url: string | URL
  /** Begin after this version. Default: with the whole state, as a reset. */
  readonly since?: VersionText | undefined
  /** Ends it: `follow` resolves. */
  readonly signal?: AbortSignal | undefined
  /** Further request headers, for a private channel. Browsers preflight a request that has any. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Each Delta as it comes, parts included, and its JSON text. Feed it to a `Replica`. */
  readonly onDelta: (delta: Delta, text: string) => void
  /** News of the server: since when it cannot see its database; null once it can. */
  readonly onStatus?: ((status: Status) => void) | undefined
  /** A connection stands. */
  readonly onConnect?: (() => void) | undefined
  /** A connection ended or none came about; the next attempt follows. Call `disconnect` of the `Replica` here. */
  readonly onDisconnect?: ((disconnection: Disconnection) => void) | undefined
  /** A connection silent for so long, in ms, counts as lost. Default 45,000: three heartbeats. */
  readonly silenceMs?: number | undefined
  /** Default: the global ones. */
  readonly fetch?: typeof fetch | undefined
  readonly random?: (() => number) | undefined
}

export interface Disconnection {
  /** Null: the server ended the stream in good order, as it does with every stream after a while. */
  readonly cause: Error | null
  readonly retryInMs: number
}

const DEFAULT_RETRY_MS = 2_000
const SILENCE_MS = 45_000

/** What is carried from one connection to the next. */
interface Position {
  lastEventId: string
  retryMs: number
  /** Attempts in a row on which nothing was heard. */
  failures: number
}

type Ending =
  | { readonly kind: 'stopped' }
  | { readonly kind: 'ended'; readonly cause: Error | null; readonly retryAfterMs: number }

/**
 * Resolves when `signal` aborts or the server answers 204. Rejects with FollowError when the server refuses for good (404 and its
 * like), and with whatever a callback throws.
 */
export async function follow(options: FollowOptions): Promise<void> {
  const { signal, random = Math.random } = options
  const position: Position = { lastEventId: options.since ?? '', retryMs: DEFAULT_RETRY_MS, failures: -1 }
  while (!isAborted(signal)) {
    position.failures += 1
    const ending = await connectOnce(options, position)
    if (ending.kind === 'stopped' || isAborted(signal)) return
    const retryInMs = Math.max(ending.retryAfterMs, backOffMs(position, random()))
    options.onDisconnect?.({ cause: ending.cause, retryInMs })
    await wait(retryInMs, signal)
  }
}

async function connectOnce(options: FollowOptions, position: Position): Promise<Ending> {
  const connection = new AbortController()
  const abort = (): void => connection.abort()
  options.signal?.addEventListener('abort', abort, { once: true })
  try {
    const response = await open(options, position, connection.signal)
    if (response instanceof Error) return { kind: 'ended', cause: response, retryAfterMs: 0 }
    if (response.status === 204) return { kind: 'stopped' }
    const refusal = await refused(response)
    if (refusal !== null) return { kind: 'ended', cause: refusal, retryAfterMs: retryAfterMs(response) }
    options.onConnect?.()
    return { kind: 'ended', cause: await read(response, connection, options, position), retryAfterMs: 0 }
  } finally {
    connection.abort()
    options.signal?.removeEventListener('abort', abort)
  }
}

function open(options: FollowOptions, { lastEventId }: Position, signal: AbortSignal): Promise<Response | Error> {
  const headers: Record<string, string> = { ...options.headers, Accept: 'text/event-stream' }
  if (lastEventId !== '') headers['Last-Event-ID'] = lastEventId
  return (options.fetch ?? fetch)(options.url, { headers, signal }).catch(toError)
}

/** An Error to come back after, null for a stream; throws what will not change. */
async function refused(response: Response): Promise<Error | null> {
  const isStream = response.headers.get('content-type')?.startsWith('text/event-stream') === true
  return response.status === 200 && isStream ? null : refusalOf(response, 'an event stream')
}

/** Reads to the end. Resolves to what broke the connection, or to null where the server ended it. */
async function read(response: Response, connection: AbortController, options: FollowOptions, position: Position): Promise<Error | null> {
  const body: ReadableStream<Uint8Array> | null = response.body
  if (body === null) return null
  const reader = body.getReader()
  const decoder = new TextDecoder()
  const faults: Error[] = []
  const parser = createParser({
    onEvent: (event) => { if (faults.length === 0) faults.push(...deliver(event, options, position)) },
    // A heartbeat: the channel is quiet, not the server.
    onComment: () => { position.failures = -1 },
    onRetry: (retryMs) => { position.retryMs = retryMs },
  })
  const { silenceMs = SILENCE_MS } = options
  for (;;) {
    // A half-open connection says nothing for ever; a healthy one has heartbeats.
    const silence = setTimeout(() => connection.abort(), silenceMs)
    const chunk = await reader.read().catch(toError)
    clearTimeout(silence)
    if (chunk instanceof Error) return isAborted(connection.signal) ? new Error(`the connection was silent for ${silenceMs} ms`) : chunk
    if (chunk.done) return ended(position)
    parser.feed(decoder.decode(chunk.value, { stream: true }))
    if (faults[0] !== undefined) return faults[0]
  }
}

/** In good order, and asked to come back in its own time: no failure. */
function ended(position: Position): null {
  position.failures = -1
  return null
}

/** Hands an event on; what is wrong with it, if it is not what a Freshet server sends. */
function deliver({ event, data, id }: EventSourceMessage, { onDelta, onStatus }: FollowOptions, position: Position): readonly Error[] {
  const value = parse(data)
  if (event === 'status' && isStatus(value)) onStatus?.(value)
  if (event !== undefined && event !== 'message') return []
  if (!isDelta(value)) return [new Error('the stream carries something that is not a Delta')]
  onDelta(value, data)
  // After it was taken: what a callback refused is asked for again.
  if (id !== undefined) position.lastEventId = id
  position.failures = -1
  return []
}

function isStatus(value: unknown): value is Status {
  return typeof value === 'object' && value !== null && 'stale_since' in value
}

function wait(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const finish = (): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', finish)
      resolve()
    }
    const timer = setTimeout(finish, ms)
    // A signal that has aborted already says nothing more.
    if (isAborted(signal)) finish()
    else signal?.addEventListener('abort', finish, { once: true })
  })
}
