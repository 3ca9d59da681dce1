/**
 * What is answered before the application looks: requests that are not HTTP as this server speaks it. Promise: whoever can read
 * an answer gets a problem that names the fault; the connection, not the process, pays for it.
 */
import type { IncomingMessage, RequestListener, Server } from 'node:http'
import type { Duplex } from 'node:stream'
import { ApiError } from '../errors.ts'
import { ANY_ORIGIN, setHeaders, setVary } from './headers.ts'
import { sendProblem, sendProblemRaw } from './problem.ts'
import { isStreaming } from './wire.ts'

const MAX_ADDRESS_BYTES = 8_192

/** Options of the server that go with the guard: Node's own answer to a missing Host has no body. */
export const GUARDED = { requireHostHeader: false, maxHeaderSize: 32 * 1024 } as const

/** The application, spared what it could not make sense of. */
export function guarded(app: RequestListener): RequestListener {
  return (request, response) => {
    const url = originForm(request.url ?? '')
    const fault = faultOf(request, url)
    if (fault === null) {
      request.url = url
      app(request, response)
      return
    }
    setVary(url, response)
    // Nothing of any channel is in it.
    if (url.startsWith('/v1/')) setHeaders(response, ANY_ORIGIN)
    // What follows on this connection cannot be trusted to be what it seems.
    response.setHeader('Connection', 'close')
    sendProblem(response, fault)
  }
}

/** Answers what never becomes a request. */
export function guardConnections(server: Server, app: RequestListener): void {
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    // What a client sends behind its request for a stream is nothing to the stream.
    if (isStreaming(socket) && error.code !== 'ECONNRESET') return
    // After a first answer, bytes of another would be taken for part of it.
    const isFresh = !('bytesWritten' in socket) || socket.bytesWritten === 0
    if (socket.writable && isFresh && error.code !== 'ECONNRESET') sendProblemRaw(socket, brokenRequest(error.code))
    else socket.destroy()
  })
  server.on('connect', (_request: IncomingMessage, socket: Duplex) => {
    socket.on('error', () => undefined)
    sendProblemRaw(socket, new ApiError('method_not_allowed', 'CONNECT is not possible here.'))
  })
  // [rfc9110 §10.1.1] an expectation that is not understood may be ignored.
  server.on('checkExpectation', app)
}

function brokenRequest(code: string | undefined): ApiError {
  switch (code) {
    case 'HPE_HEADER_OVERFLOW': return new ApiError('headers_too_large', 'The head of the request is longer than 32,768 bytes.')
    case 'ERR_HTTP_REQUEST_TIMEOUT': return new ApiError('request_timeout', 'The request did not arrive in time.')
    default: return new ApiError('malformed_request', 'What arrived is not a request of HTTP/1.1.')
  }
}

/** [rfc9112 §3.2.2] a server must accept the absolute form, `GET http://host/path`; whose host it is means nothing here. */
function originForm(url: string): string {
  const path = url.replace(/^https?:\/\/[^/?#]*/i, '')
  return path === url || path.startsWith('/') ? path : `/${path}`
}

function faultOf(request: IncomingMessage, url: string): ApiError | null {
  if (url.length > MAX_ADDRESS_BYTES) return new ApiError('uri_too_long', `The address is longer than ${MAX_ADDRESS_BYTES} bytes.`)
  const hosts = request.rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host').length
  // [rfc9112 §3.2] exactly one in HTTP/1.1.
  if (hosts > 1 || (hosts === 0 && request.httpVersion === '1.1')) return new ApiError('malformed_request', `The request has ${hosts} Host headers instead of one.`)
  if (!url.startsWith('/') && !(url === '*' && request.method === 'OPTIONS')) return new ApiError('malformed_request', 'The address does not begin with a slash.')
  return null
}
