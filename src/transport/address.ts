/** Addresses: how the figures name them, and what a request says of its own. */
import type { IncomingMessage } from 'node:http'

export const POLL_ROUTE = '/v1/channels/:channel/changes'
export const STREAM_ROUTE = '/v1/channels/:channel/stream'

/** The query string as it was sent, without its question mark. */
export function rawQuery(request: Pick<IncomingMessage, 'url'>): string {
  const url = request.url ?? ''
  const start = url.indexOf('?')
  return start < 0 ? '' : url.slice(start + 1)
}
