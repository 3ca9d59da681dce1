/**
 * The stream endpoints: from a request to a running Stream. Promise: whatever an EventSource may meet in a healthy deployment
 * (a malformed cursor, overload, drain) is a 200; only a programmer's mistake (channel, filter, parameter) is an error.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createSession } from 'better-sse'
import type { Window } from '../contract/change.ts'
import { parseManyStream, parseStream, type StreamCursor } from '../contract/request.ts'
import { toApiError } from '../errors.ts'
import type { Hub } from '../hub/hub.ts'
import { frameRetry } from './frame.ts'
import { addressOf } from './limit.ts'
import { Opening } from './opening.ts'
import type { StreamRegistry } from './registry.ts'
import { Stream, type StreamLimits, type StreamOptions } from './stream.ts'
import { Wire } from './wire.ts'

export interface SseOptions {
  readonly hub: Hub
  readonly registry: StreamRegistry
  readonly limits: StreamLimits
  readonly onError: (error: unknown) => void
  readonly onConflated: () => void
}

const HEAD = {
  'Content-Type': 'text/event-stream; charset=utf-8',
  'Cache-Control': 'private, no-cache, no-store, no-transform, must-revalidate, max-age=0',
  'X-Accel-Buffering': 'no',
  // A stream ends with its connection: nothing can follow on it.
  'Connection': 'close',
} as const

/** What EventSource is told to wait before it reconnects, ms, around which each stream gets its own. */
const RETRY_MS = 2_000

export class SseEndpoint {
  readonly #options: SseOptions
  readonly #streamOptions: StreamOptions

  constructor(options: SseOptions) {
    this.#options = options
    const { hub, limits, onError, onConflated } = options
    this.#streamOptions = { hub, onError, onConflated, ...limits }
  }

  /** `GET /v1/channels/{channel}/stream`. Rejects with ApiError before anything is sent. */
  async one(request: IncomingMessage, response: ServerResponse, name: string, rawQuery: string): Promise<void> {
    const { hub } = this.#options
    await this.#unlessAway(response, async () => {
      const { cursor, filters } = parseStream(rawQuery, { lastEventId: header(request, 'last-event-id') }, hub.channel(name).filters)
      await this.#open(request, response, [await hub.window(name, filters)], cursor)
    })
  }

  /** `GET /v1/stream?channels=a,b`. */
  async many(request: IncomingMessage, response: ServerResponse, rawQuery: string): Promise<void> {
    const { channels, cursor } = parseManyStream(rawQuery, { lastEventId: header(request, 'last-event-id') })
    await this.#unlessAway(response, async () => {
      const windows = await Promise.all(channels.map((name) => this.#options.hub.window(name, new Map())))
      await this.#open(request, response, windows, cursor)
    })
  }

  /** Not now, in the one way that EventSource understands: 200, when to come back, and an end. */
  refuse(response: ServerResponse): void {
    response.writeHead(200, HEAD).end(frameRetry(5_000 + Math.random() * 10_000).event)
  }

  /** Without the database nobody can say whether a channel or a filter exists: that is no error of the client's. */
  async #unlessAway(response: ServerResponse, open: () => Promise<void>): Promise<void> {
    try {
      await open()
    } catch (error) {
      if (toApiError(error).code !== 'database_unreachable') throw error
      this.refuse(response)
    }
  }

  async #open(request: IncomingMessage, response: ServerResponse, windows: readonly Window[], cursor: StreamCursor): Promise<void> {
    // The client may have left while the filters were cast: a session made now would never end.
    if (request.socket.destroyed || response.destroyed) return
    if (request.method === 'HEAD') {
      response.writeHead(200, HEAD).end()
      return
    }
    const { registry } = this.#options
    const opening = new Opening(request, response, HEAD)
    await createSession(opening, { trustClientEventId: false, keepAlive: null, retry: Math.round(RETRY_MS * (0.5 + Math.random())) })
    if (!opening.isOpen) return
    opening.begin()
    const wire = new Wire(request, response)
    // Behind another answer of its connection a stream may wait for ever: it is nobody's until its turn has come.
    if (!await wire.begun()) return
    const address = addressOf(request)
    // The registry is asked as late as this: many at once would all have seen the same free place.
    if (!registry.admits(address)) {
      wire.end(frameRetry(5_000 + Math.random() * 10_000))
      return
    }
    const stream = new Stream({ wire, windows, cursor: cursor === 'malformed' ? null : cursor }, this.#streamOptions)
    const forget = registry.add(stream, address)
    wire.onClose(() => {
      forget()
      stream.stop()
    })
    stream.start()
  }
}

export function header(request: Pick<IncomingMessage, 'headers'>, name: string): string | undefined {
  const value = request.headers[name]
  return Array.isArray(value) ? value.join(',') : value
}
