/**
 * The two ways past Express, whose routing costs many times what a poll or the beginning of a stream does: on node:http, and on the bare
 * socket. Both take only requests that they surely understand; everything else goes the plain way, to Express.
 * Promise: status, headers and body are those of the plain way.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import type { Express } from 'express'
import type { ChannelDefinition } from '../contract/change.ts'
import type { Hub } from '../hub/hub.ts'
import { POLL_ROUTE, rawQuery, STREAM_ROUTE } from './address.ts'
import { onceAnswered } from './answered.ts'
import type { DirectOptions } from './direct.ts'
import { ANY_ORIGIN, NO_SNIFFING, setHeaders, VARYING } from './headers.ts'
import type { RateLimit } from './limit.ts'
import type { PollEndpoint } from './poll.ts'
import { answerFailure } from './problem.ts'
import type { SseEndpoint } from './sse.ts'

export interface LaneOptions {
  readonly hub: Hub
  readonly poll: PollEndpoint
  readonly sse: SseEndpoint
  readonly isDraining: () => boolean
  readonly trustProxy: boolean | number | string
  readonly onRequest: (route: string, status: number) => void
  readonly onError: (error: unknown) => void
}

const PRIVATE_POLL = [...VARYING, ...NO_SNIFFING]
const PUBLIC_POLL = [...PRIVATE_POLL, ...ANY_ORIGIN]

/** The steps of the plain way that polls and streams take, in their order. */
export function besideExpress(app: Express, options: LaneOptions, limit: RateLimit): RequestListener {
  const { poll, sse, trustProxy, onRequest, onError } = options
  async function answerPoll(request: IncomingMessage, response: ServerResponse, channel: ChannelDefinition): Promise<void> {
    const headers = pollHeaders(channel)
    try {
      await limit.admit(request)
      await poll.answer(request, response, { name: channel.name, rawQuery: rawQuery(request), headers })
    } catch (error) {
      if (!response.headersSent) setHeaders(response, headers)
      answerFailure(response, error, onError)
    }
    onRequest(POLL_ROUTE, response.statusCode)
  }
  async function answerStream(request: IncomingMessage, response: ServerResponse, { name, isPublic }: ChannelDefinition): Promise<void> {
    onceAnswered(response, () => onRequest(STREAM_ROUTE, response.statusCode))
    setHeaders(response, [...NO_SNIFFING, ...isPublic ? ANY_ORIGIN : []])
    try {
      if (await limit.isExceeded(request)) sse.refuse(response)
      else await sse.one(request, response, name, rawQuery(request))
    } catch (error) {
      answerFailure(response, error, onError)
    }
  }
  return (request, response) => {
    const asked = request.method === 'GET' ? askedOf(request, options) : null
    if (asked === null) return void app(request, response)
    adopt(request, app, trustProxy)
    void (asked.kind === 'changes' ? answerPoll : answerStream)(request, response, asked.channel)
  }
}

/** The same once more, of polls that memory answers, up to where anything is refused: that is counted again, and said, on node:http. */
export function besideNode(app: Express, options: LaneOptions, limit: RateLimit): DirectOptions['answer'] {
  const { poll, trustProxy, onRequest } = options
  return async (request) => {
    const asked = askedOf(request, options)
    if (asked?.kind !== 'changes') return null
    const { channel } = asked
    try {
      adopt(request, app, trustProxy)
      const recalled = poll.recall(request, { name: channel.name, rawQuery: rawQuery(request), headers: pollHeaders(channel) })
      const answer = recalled === null || await limit.isExceeded(request) ? null : poll.tell(recalled)
      if (answer !== null) onRequest(POLL_ROUTE, answer.status)
      return answer
    } catch {
      // Whatever it was, the plain way meets it too.
      return null
    }
  }
}

/** `/v1/channels/{channel}/changes` and `…/stream` with nothing encoded in the path. */
const LANE = /^\/v1\/channels\/([a-z0-9][a-z0-9_.-]{0,62})\/(changes|stream)(?:\?|$)/

/** What a GET asks for, where it is surely understood and served. */
function askedOf({ url, headers }: Pick<IncomingMessage, 'url' | 'headers'>, { hub, isDraining }: LaneOptions): { readonly kind: string; readonly channel: ChannelDefinition } | null {
  const [, name, kind] = isDraining() ? [] : LANE.exec(url ?? '') ?? []
  if (name === undefined || kind === undefined || !accepts(headers.accept, kind === 'changes' ? 'application/json' : 'text/event-stream')) return null
  const channel = hub.find(name)
  return channel === undefined ? null : { kind, channel }
}

/** What such clients say; a longer list of wishes is weighed on the plain way [rfc9110 §12.5.1]. */
function accepts(wish: string | undefined, type: string): boolean {
  return wish === undefined || wish === '*/*' || wish === type
}

/** Express knows which of the forwarded addresses to trust. */
function adopt(request: object, app: Express, trustProxy: LaneOptions['trustProxy']): void {
  if (trustProxy !== false) Object.setPrototypeOf(request, app.request)
}

function pollHeaders({ isPublic }: ChannelDefinition): readonly string[] {
  return isPublic ? PUBLIC_POLL : PRIVATE_POLL
}
