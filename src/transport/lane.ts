/**
 * The poll's way past Express, whose routing costs many times what the answer does. Takes only requests that it surely understands;
 * everything else goes the plain way. Promise: status, headers and body are those of the plain way.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import type { ChannelDefinition } from '../contract/change.ts'

/** `/v1/channels/{channel}/changes` with nothing encoded in its path. */
const POLL = /^\/v1\/channels\/([a-z0-9][a-z0-9_.-]{0,62})\/changes(?:\?|$)/

export interface LaneOptions {
  /** Of the channels that are served; undefined: there is none of that name. */
  readonly find: (name: string) => ChannelDefinition | undefined
  /** Answers, refusals included. Never rejects. */
  readonly answer: (request: IncomingMessage, response: ServerResponse, channel: ChannelDefinition) => Promise<void>
  readonly isDraining: () => boolean
}

export function pollLane({ find, answer, isDraining }: LaneOptions, plain: RequestListener): RequestListener {
  return (request, response) => {
    const name = request.method === 'GET' && takesJson(request.headers.accept) && !isDraining() ? POLL.exec(request.url ?? '')?.[1] : undefined
    const channel = name === undefined ? undefined : find(name)
    if (channel === undefined) {
      plain(request, response)
      return
    }
    void answer(request, response, channel)
  }
}

/** What a poller says; a longer list of wishes is weighed on the plain way [rfc9110 §12.5.1]. */
function takesJson(accept: string | undefined): boolean {
  return accept === undefined || accept === '*/*' || accept === 'application/json'
}
