/**
 * Errors as answers: application/problem+json [rfc9457], never stored, never with internals. What is not an ApiError is
 * logged with its cause and answered as `internal`.
 */
import { STATUS_CODES, type ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { ErrorRequestHandler, RequestHandler } from 'express'
import { ApiError, toApiError, toProblem } from '../errors.ts'

export function sendProblem(response: ServerResponse, error: unknown): void {
  const problem = toApiError(error)
  response.removeHeader('ETag')
  response.statusCode = problem.status
  for (const [name, value] of Object.entries(headersOf(problem))) response.setHeader(name, value)
  response.end(bodyOf(problem))
}

/** The same on a connection where there is no response yet, and none can be. The connection ends with it. */
export function sendProblemRaw(socket: Duplex, problem: ApiError): void {
  const headers = Object.entries({ ...headersOf(problem), Connection: 'close' }).map(([name, value]) => `${name}: ${value}\r\n`).join('')
  socket.end(`HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status] ?? ''}\r\n${headers}\r\n${bodyOf(problem)}`)
}

function bodyOf(problem: ApiError): string {
  return JSON.stringify(toProblem(problem))
}

function headersOf(problem: ApiError): Record<string, string> {
  return {
    ...problem.headers, 'Cache-Control': 'no-store', 'Content-Type': 'application/problem+json; charset=utf-8',
    'Content-Length': String(Buffer.byteLength(bodyOf(problem))),
  }
}

/** The end of a request that failed. */
export function answerFailure(response: ServerResponse, error: unknown, onError: (error: unknown) => void): void {
  const problem = fromExpress(error)
  if (problem.code === 'internal') onError(problem.cause ?? problem)
  // A body that broke off must not look complete.
  if (response.headersSent) response.destroy()
  else sendProblem(response, problem)
}

/** The last handler of the application. */
export function problemHandler(onError: (error: unknown) => void): ErrorRequestHandler {
  // eslint-disable-next-line @typescript-eslint/no-unused-vars -- Express knows an error handler by its four parameters
  return (error: unknown, _request, response, _next) => answerFailure(response, error, onError)
}

/** 405 with the methods there are; OPTIONS answered with them. */
export function methods(allow: readonly string[]): RequestHandler {
  return (request, response) => {
    if (request.method !== 'OPTIONS') throw new ApiError('method_not_allowed', `${request.method} is not possible here.`, { allow })
    response.set({ 'Allow': allow.join(', '), 'Cache-Control': 'no-store' }).status(204).end()
  }
}

/** What Express and its body parser throw, in our words. */
function fromExpress(error: unknown): ApiError {
  if (error instanceof ApiError || !(error instanceof Error) || !('status' in error)) return toApiError(error)
  switch (error.status) {
    case 400: return error instanceof URIError ? new ApiError('not_found', 'The address is not properly encoded.', { cause: error })
      : new ApiError('malformed_body', 'The body is not the JSON it should be.', { cause: error })
    case 413: return new ApiError('payload_too_large', 'The body is too large.', { cause: error })
    case 415: return new ApiError('unsupported_media_type', 'The body is of another media type or encoding.', { cause: error })
    default: return toApiError(error)
  }
}
