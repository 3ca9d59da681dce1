/**
 * The way past Express, whose routing costs many times what a poll or the beginning of a stream does. Takes only requests that it surely
 * understands; everything else goes the plain way. Promise: status, headers and body are those of the plain way.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import type { ChannelDefinition } from '../contract/change.ts'

/** `/v1/channels/{channel}/changes` and `…/stream` with nothing encoded in the path. */
const LANE = /^\/v1\/channels\/([a-z0-9][a-z0-9_.-]{0,62})\/(changes|stream)(?:\?|$)/

/** Answers, refusals included. Never rejects. */
type Answer = (request: IncomingMessage, response: ServerResponse, channel: ChannelDefinition) => Promise<void>

export interface LaneOptions {
  /** Of the channels that are served; undefined: there is none of that name. */
  readonly find: (name: string) => ChannelDefinition | undefined
  readonly poll: Answer
  readonly stream: Answer
  readonly isDraining: () => boolean
}

export function fastLane({ find, poll, stream, isDraining }: LaneOptions, plain: RequestListener): RequestListener {
  return (request, response) => {
    const address = request.method === 'GET' && !isDraining() ? laneOf(request) : null
    const channel = address === null ? undefined : find(address.name)
    if (address === null || channel === undefined) plain(request, response)
    else void (address.kind === 'changes' ? poll : stream)(request, response, channel)
  }
}

/** What a GET asks for, where it is surely understood. */
export function laneOf({ url, headers }: Pick<IncomingMessage, 'url' | 'headers'>): { readonly name: string; readonly kind: string } | null {
  const [, name, kind] = LANE.exec(url ?? '') ?? []
  if (name === undefined || kind === undefined) return null
  return accepts(headers.accept, kind === 'changes' ? 'application/json' : 'text/event-stream') ? { name, kind } : null
}

/** What such clients say; a longer list of wishes is weighed on the plain way [rfc9110 §12.5.1]. */
function accepts(wish: string | undefined, type: string): boolean {
  return wish === undefined || wish === '*/*' || wish === type
}
