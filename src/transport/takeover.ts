/**
 * Takes the socket of an answer that will last for hours away from node:http, which would keep a parser, a request and a response
 * beside it: 10 KB an idle stream become 5. Promise: where Node does not allow it, the answer stays as it is and works the same.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createRequire } from 'node:module'
import type { Socket } from 'node:net'

type FreeParser = (parser: unknown, request: IncomingMessage, socket: Socket) => void

/** What node:http itself does with a socket that it hands over after an upgrade; there is no public name for it. */
const freeParser = findFreeParser()

function findFreeParser(): FreeParser | null {
  try {
    const { freeParser: found } = createRequire(import.meta.url)('_http_common') as { readonly freeParser?: unknown }
    return typeof found === 'function' ? found as FreeParser : null
  } catch {
    return null
  }
}

/** The socket, free of node:http and reading nothing; null: it cannot be had. Call it once the head is sent, outside of the parser's callbacks. */
export function takeSocket(request: IncomingMessage, response: ServerResponse): Socket | null {
  const { socket } = response
  // None: the answer waits behind another on its connection, or the client has gone.
  if (freeParser === null || socket === null || socket.destroyed || !('parser' in socket)) return null
  response.detachSocket(socket)
  freeParser(socket.parser, request, socket)
  socket.removeAllListeners()
  socket.setTimeout(0)
  // For those who wait for the end of the answer, as the counters do: it is no longer theirs.
  response.emit('close')
  return socket
}
