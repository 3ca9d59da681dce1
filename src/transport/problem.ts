/**
 * Errors as answers: application/problem+json [rfc9457], never stored, never with internals. What is not an ApiError is
 * logged with its cause and answered as `internal`.
 */
import type { ErrorRequestHandler, RequestHandler, Response } from 'express'
import { ApiError, toApiError, toProblem } from '../errors.ts'

export function sendProblem(response: Response, error: unknown): void {
  const problem = toApiError(error)
  response.removeHeader('ETag')
  response.set({ ...problem.headers, 'Cache-Control': 'no-store', 'Content-Type': 'application/problem+json; charset=utf-8' })
  response.status(problem.status).send(JSON.stringify(toProblem(problem)))
}

/** The last handler of the application. */
export function problemHandler(onError: (error: unknown) => void): ErrorRequestHandler {
  return (error: unknown, _request, response, next) => {
    const problem = fromExpress(error)
    if (problem.code === 'internal') onError(problem.cause ?? problem)
    // A body that broke off must not look complete.
    if (response.headersSent) response.destroy()
    else sendProblem(response, problem)
    if (response.destroyed) return
    void next
  }
}

/** 405 with the methods there are; OPTIONS answered with them. */
export function methods(allow: readonly string[]): RequestHandler {
  return (request, response) => {
    if (request.method !== 'OPTIONS') throw new ApiError('method_not_allowed', `${request.method} is not possible here.`, { allow })
    response.set('Allow', allow.join(', ')).status(204).end()
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
