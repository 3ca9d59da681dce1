import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ApiError, ERROR_KINDS, quoted, StartupError, toApiError, toProblem, type ErrorCode } from '../../src/errors.ts'

const SEED = { seed: 20_260_131, numRuns: 500 }

const codes = Object.keys(ERROR_KINDS) as ErrorCode[]

describe('the table of codes', () => {
  // Codes are contract: this list may grow, a line of it never changes.
  it.each<[ErrorCode, number]>([
    ['malformed_request', 400],
    ['malformed_body', 400],
    ['malformed_cursor', 400],
    ['unknown_parameter', 400],
    ['duplicated_parameter', 400],
    ['invalid_parameter', 400],
    ['invalid_filter', 400],
    ['unknown_filter', 400],
    ['unknown_channel', 404],
    ['not_found', 404],
    ['method_not_allowed', 405],
    ['not_acceptable', 406],
    ['request_timeout', 408],
    ['payload_too_large', 413],
    ['uri_too_long', 414],
    ['unsupported_media_type', 415],
    ['rate_limited', 429],
    ['headers_too_large', 431],
    ['internal', 500],
    ['overloaded', 503],
    ['too_many_streams', 503],
    ['draining', 503],
    ['database_unreachable', 503],
    ['channel_parked', 503],
  ])('%s is %i', (code, status) => {
    expect(new ApiError(code, 'Detail.').status).toBe(status)
  })

  it.each(codes)('%s has a title and a hint in plain sentences', (code) => {
    const { title, hint } = ERROR_KINDS[code]
    expect(title).toMatch(/^[A-Z][a-z ]+$/)
    expect(hint).toMatch(/^[A-Z].*\.$/)
  })

  it.each(codes)('%s carries Retry-After exactly if it is a 429 or 503', (code) => {
    const { status, headers } = new ApiError(code, 'Detail.')
    expect('Retry-After' in headers).toBe(status === 429 || status === 503)
  })
})

describe('ApiError', () => {
  it('is an Error whose message is the detail and whose cause is kept for the log', () => {
    const cause = new Error('connection refused')
    const error = new ApiError('database_unreachable', 'PostgreSQL does not answer.', { cause })
    expect(error).toBeInstanceOf(Error)
    expect(error).toMatchObject({ name: 'ApiError', message: 'PostgreSQL does not answer.', cause })
  })

  it.each([
    [0, '1'],
    [0.2, '1'],
    [1, '1'],
    [2.1, '3'],
    [30, '30'],
  ])('Retry-After of %d seconds is sent as %s', (retryAfterSeconds, sent) => {
    expect(new ApiError('rate_limited', 'Detail.', { retryAfterSeconds }).headers).toEqual({ 'Retry-After': sent })
  })

  it('a 405 always has Allow', () => {
    expect(new ApiError('method_not_allowed', 'Detail.').headers).toEqual({ Allow: 'GET, HEAD, OPTIONS' })
    expect(new ApiError('method_not_allowed', 'Detail.', { allow: ['POST', 'OPTIONS'] }).headers).toEqual({
      Allow: 'POST, OPTIONS',
    })
  })
})

describe('toProblem', () => {
  it('is the RFC 9457 body of an ApiError', () => {
    const error = new ApiError('unknown_channel', 'No channel "x".', { parameter: 'channel', hint: 'Try "y".' })
    expect(toProblem(error)).toEqual({
      type: '/docs#unknown_channel',
      title: 'Unknown channel',
      status: 404,
      detail: 'No channel "x".',
      hint: 'Try "y".',
      code: 'unknown_channel',
      parameter: 'channel',
    })
  })

  it('has no parameter where none is at fault, and the hint of the table where none is given', () => {
    const problem = toProblem(new ApiError('draining', 'This server is shutting down.'))
    expect(problem).not.toHaveProperty('parameter')
    expect(problem.hint).toBe(ERROR_KINDS.draining.hint)
  })

  it.each<[string, unknown]>([
    ['an Error', new Error('password authentication failed for user "secret"')],
    ['a TypeError', new TypeError('secret is not a function')],
    ['an object that looks like an ApiError', { code: 'secret', status: 200, message: 'secret' }],
    ['a string', 'secret'],
    ['undefined', undefined],
    ['null', null],
  ])('says nothing of %s', (_what, thrown) => {
    const problem = toProblem(thrown)
    expect(problem).toMatchObject({ code: 'internal', status: 500 })
    expect(JSON.stringify(problem)).not.toContain('secret')
    expect(toApiError(thrown).cause).toBe(thrown)
  })

  it.each([
    ['a refused connection', Object.assign(new Error('connect ECONNREFUSED secret:5432'), { code: 'ECONNREFUSED' })],
    ['a database that shuts down', Object.assign(new Error('secret'), { code: '57P01' })],
    ['a table locked by an ALTER', Object.assign(new Error('canceling statement of secret due to lock timeout'), { code: '55P03' })],
    ['a connection that broke', new Error('Connection terminated unexpectedly')],
    ['a full pool', new Error('timeout exceeded when trying to connect')],
  ])('calls %s an outage, without a word of the message', (_what, thrown) => {
    const problem = toProblem(thrown)
    expect(problem).toMatchObject({ code: 'database_unreachable', status: 503 })
    expect(JSON.stringify(problem)).not.toMatch(/secret|ECONN|terminated/)
    expect(toApiError(thrown).cause).toBe(thrown)
  })

  it('says nothing of the cause of an ApiError', () => {
    const error = new ApiError('internal', 'Detail.', { cause: new Error('secret') })
    expect(JSON.stringify(toProblem(error))).not.toContain('secret')
    expect(toApiError(error)).toBe(error)
  })
})

describe('quoted', () => {
  it.each([
    ['plain', '"plain"'],
    ['', '""'],
    ['Tee für zwei', '"Tee für zwei"'],
    ['a\r\nSet-Cookie: x', String.raw`"a\r\nSet-Cookie: x"`],
    ['\0\x1b[31m', String.raw`"\u0000\u001b[31m"`],
    ['\x7f\x85', String.raw`"\u{7f}\u{85}"`],
    ['\u202egnp', String.raw`"\u{202e}gnp"`],
    ['say "hi"', String.raw`"say \"hi\""`],
    ['\ud83d', String.raw`"\ud83d"`],
    ['🫖', '"🫖"'],
    ['x'.repeat(80), `"${'x'.repeat(80)}"`],
    ['x'.repeat(81), `"${'x'.repeat(79)}…"`],
    [`${'x'.repeat(78)}🫖y`, `"${'x'.repeat(78)}…"`],
  ])('%j is shown as %s', (text, shown) => {
    expect(quoted(text)).toBe(shown)
  })

  it('any text is at most 80 harmless characters', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => {
        const shown = quoted(text)
        expect(shown.length).toBeLessThanOrEqual(82)
        expect(shown).not.toMatch(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u)
      }),
      SEED,
    )
  })
})

describe('StartupError', () => {
  it('says in one sentence what is wrong and what to do', () => {
    const cause = new Error('EADDRINUSE')
    const error = new StartupError('Port 8080 on 127.0.0.1 is taken', 'set PORT to a free one', { cause })
    expect(error.message).toBe('Port 8080 on 127.0.0.1 is taken; set PORT to a free one.')
    expect(error).toMatchObject({ name: 'StartupError', cause, cure: 'set PORT to a free one' })
  })
})
