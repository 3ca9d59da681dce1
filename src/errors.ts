/**
 * Every way a request can fail, in one table of stable codes, and the one class that carries them.
 * Promise: a body made here names the cause and the cure and never shows internals; whatever is not
 * an ApiError becomes `internal` with a fixed sentence. Codes are contract: add, never rename.
 */

interface ErrorKind {
  readonly status: number
  readonly title: string
  /** What the reader can do about it, unless the thrower knows better. */
  readonly hint: string
  /** Default `Retry-After` in seconds, so that no 429 or 503 leaves without one. */
  readonly retryAfterSeconds?: number
}

const kinds = {
  malformed_request: {
    status: 400,
    title: 'Malformed request',
    hint: 'Send a request of HTTP/1.1, or 1.0, as RFC 9112 has it.',
  },
  malformed_body: {
    status: 400,
    title: 'Malformed body',
    hint: 'Send a JSON document of the documented shape, encoded as UTF-8.',
  },
  malformed_cursor: {
    status: 400,
    title: 'Malformed cursor',
    hint: 'Pass a version or next exactly as the server gave it, or leave since out to get the whole state.',
  },
  unknown_parameter: {
    status: 400,
    title: 'Unknown parameter',
    hint: 'Check its spelling against /docs.',
  },
  duplicated_parameter: {
    status: 400,
    title: 'Duplicated parameter',
    hint: 'Give each parameter once.',
  },
  invalid_parameter: {
    status: 400,
    title: 'Invalid parameter',
    hint: 'See /docs for the values it takes.',
  },
  invalid_filter: {
    status: 400,
    title: 'Invalid filter value',
    hint: 'Give a value that PostgreSQL can cast to the type of the column.',
  },
  unknown_filter: {
    status: 400,
    title: 'Unknown filter',
    hint: 'GET /v1/channels/{channel} lists the filters of a channel.',
  },
  unknown_channel: {
    status: 404,
    title: 'Unknown channel',
    hint: 'GET /v1/channels lists the channels there are.',
  },
  not_found: {
    status: 404,
    title: 'Not found',
    hint: 'See /docs for the addresses there are.',
  },
  method_not_allowed: {
    status: 405,
    title: 'Method not allowed',
    hint: 'Use one of the methods named in the Allow header.',
  },
  not_acceptable: {
    status: 406,
    title: 'Not acceptable',
    hint: 'Leave the Accept header out, or let it include the media type documented for this address.',
  },
  request_timeout: {
    status: 408,
    title: 'Request timeout',
    hint: 'Send the whole request at once.',
  },
  payload_too_large: {
    status: 413,
    title: 'Payload too large',
    hint: 'Send a smaller body.',
  },
  uri_too_long: {
    status: 414,
    title: 'Address too long',
    hint: 'Shorten the query string.',
  },
  unsupported_media_type: {
    status: 415,
    title: 'Unsupported media type',
    hint: 'Send the body with Content-Type: application/json.',
  },
  rate_limited: {
    status: 429,
    title: 'Too many requests',
    hint: 'Wait for Retry-After, then keep to the Poll-After-Ms of each answer.',
    retryAfterSeconds: 1,
  },
  headers_too_large: {
    status: 431,
    title: 'Request headers too large',
    hint: 'Send fewer or shorter headers.',
  },
  internal: {
    status: 500,
    title: 'Internal error',
    hint: 'Try again; if it stays, the log of the server has the cause.',
  },
  overloaded: {
    status: 503,
    title: 'Overloaded',
    hint: 'Wait for Retry-After, then keep to the Poll-After-Ms of each answer.',
    retryAfterSeconds: 10,
  },
  too_many_streams: {
    status: 503,
    title: 'Too many streams',
    hint: 'Wait for Retry-After and connect again, or poll /v1/channels/{channel}/changes instead.',
    retryAfterSeconds: 5,
  },
  draining: {
    status: 503,
    title: 'Shutting down',
    hint: 'Wait for Retry-After and ask again; another node or the next process answers from the same cursor.',
    retryAfterSeconds: 1,
  },
  database_unreachable: {
    status: 503,
    title: 'Database unreachable',
    hint: 'Keep your cursor and ask again after Retry-After; nothing is lost meanwhile.',
    retryAfterSeconds: 5,
  },
  channel_parked: {
    status: 503,
    title: 'Channel parked',
    hint: 'GET /v1/channels/{channel} gives the reason; watching the table again usually cures it.',
    retryAfterSeconds: 30,
  },
} as const satisfies Record<string, ErrorKind>

/** The stable `code` of a problem, and the fragment of its `type`. */
export type ErrorCode = keyof typeof kinds

/** The table, for the documentation page and the tests. */
export const ERROR_KINDS: Readonly<Record<ErrorCode, ErrorKind>> = kinds

/** What a thrower may add to the table's entry. */
export interface ApiErrorOptions {
  /** The cure, in a sentence; default: the one of the code. */
  readonly hint?: string | undefined
  /** Sent as `Retry-After`, rounded up to whole seconds, at least 1; default: the one of the code, else none. */
  readonly retryAfterSeconds?: number | undefined
  /** The query parameter or path segment at fault. */
  readonly parameter?: string | undefined
  /** Methods sent as `Allow`; default for `method_not_allowed`: GET, HEAD, OPTIONS. */
  readonly allow?: readonly string[] | undefined
  /** For the log only; never part of the answer. */
  readonly cause?: unknown
}

/**
 * A failure the client is told about. `message` becomes the `detail` of the problem: write it for
 * that reader, one plain sentence, with anything taken from the request passed through `quoted`.
 */
export class ApiError extends Error {
  override readonly name = 'ApiError'
  readonly code: ErrorCode
  readonly status: number
  readonly title: string
  readonly hint: string
  readonly parameter: string | undefined
  /** Response headers this failure requires: `Retry-After`, `Allow`. */
  readonly headers: Readonly<Record<string, string>>

  constructor(code: ErrorCode, detail: string, options: ApiErrorOptions = {}) {
    super(detail, options.cause === undefined ? undefined : { cause: options.cause })
    const kind = ERROR_KINDS[code]
    this.code = code
    this.status = kind.status
    this.title = kind.title
    this.hint = options.hint ?? kind.hint
    this.parameter = options.parameter
    this.headers = requiredHeaders(code, options)
  }
}

function requiredHeaders(code: ErrorCode, options: ApiErrorOptions): Record<string, string> {
  const headers: Record<string, string> = {}
  const retryAfterSeconds = options.retryAfterSeconds ?? ERROR_KINDS[code].retryAfterSeconds
  if (retryAfterSeconds !== undefined) headers['Retry-After'] = String(Math.max(1, Math.ceil(retryAfterSeconds)))
  // [rfc9110 §15.5.6] a 405 MUST carry Allow.
  const allow = options.allow ?? (code === 'method_not_allowed' ? ['GET', 'HEAD', 'OPTIONS'] : undefined)
  if (allow !== undefined) headers['Allow'] = allow.join(', ')
  return headers
}

/** The body of an error answer, `application/problem+json` [rfc9457 §3]; the contract's `Problem`. */
export interface ProblemBody {
  type: string
  title: string
  status: number
  detail: string
  hint: string
  code: ErrorCode
  parameter?: string
}

/**
 * Any thrown value as the ApiError to answer with. An ApiError is returned as it is; that the database
 * is away, too busy or locked becomes `database_unreachable`; anything else `internal`, with the
 * original as `cause` for the log.
 */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error
  if (isOutage(error)) return new ApiError('database_unreachable', 'The database does not answer just now.', { cause: error })
  return new ApiError('internal', 'The server failed to answer this request.', { cause: error })
}

/** SQLSTATE classes and Node's codes for: nobody is there, or nobody has the time. */
const OUTAGE = /^(?:08|40|53|57P|57014|55P03|25P0[23]|ECONN|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|EAI_AGAIN)/
/** node-postgres has no codes for its own. */
const OUTAGE_MESSAGE = /^(?:Connection terminated|Query read timeout|timeout e|Client was closed|Client has encountered a connection error|Cannot use a pool after)/

function isOutage(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  return OUTAGE.test('code' in error ? String(error.code) : '') || OUTAGE_MESSAGE.test(error.message)
}

/** A standby ends what stands in the way of the log of its primary, in a question or between two. */
const CUT_SHORT = /^(?:40001|40P01|57P01)$/

/** Whether PostgreSQL ended a reading for reasons of its own: asked again, it may answer at once. */
export function isCutShort(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  return CUT_SHORT.test('code' in error ? String(error.code) : '') || error.message.startsWith('Client has encountered a connection error')
}

/** The RFC 9457 body for any thrown value; says nothing of causes, stacks or foreign messages. */
export function toProblem(error: unknown): ProblemBody {
  const { code, title, status, message, hint, parameter } = toApiError(error)
  const problem: ProblemBody = { type: `/docs#${code}`, title, status, detail: message, hint, code }
  return parameter === undefined ? problem : { ...problem, parameter }
}

const MAX_QUOTED_CHARACTERS = 80

/**
 * Text from a request, fit to be shown in a message or a log line: in double quotes, at most 80
 * characters between them, control, format and lone surrogate characters escaped.
 */
export function quoted(text: string): string {
  // Cut before escaping, so that the work is bounded, and after, since escapes are longer.
  const escaped = JSON.stringify(text.slice(0, MAX_QUOTED_CHARACTERS))
    .slice(1, -1)
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, escapeCharacter)
  if (text.length <= MAX_QUOTED_CHARACTERS && escaped.length <= MAX_QUOTED_CHARACTERS) return `"${escaped}"`
  // Never leave half of a surrogate pair at the cut.
  return `"${escaped.slice(0, MAX_QUOTED_CHARACTERS - 1).replace(/[\uD800-\uDBFF]$/, '')}…"`
}

function escapeCharacter(character: string): string {
  return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`
}

/**
 * A reason not to start, told to the operator in one sentence on stderr before exit code 1:
 * `new StartupError('Port 8080 on 127.0.0.1 is taken', 'set PORT to a free one')` reads
 * "Port 8080 on 127.0.0.1 is taken; set PORT to a free one."
 */
export class StartupError extends Error {
  override readonly name = 'StartupError'
  /** What is wrong, without a full stop. */
  readonly reason: string
  /** What to do about it, in the imperative, without a full stop. */
  readonly cure: string

  constructor(reason: string, cure: string, options: { readonly cause?: unknown } = {}) {
    super(`${reason}; ${cure}.`, options.cause === undefined ? undefined : { cause: options.cause })
    this.reason = reason
    this.cure = cure
  }
}
