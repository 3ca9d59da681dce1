/** How a command reaches a running server, and what it says when that fails. */
import type { Config } from '../config.ts'
import type { ChannelList, Problem, Readiness } from '../contract/names.ts'
import { StartupError } from '../errors.ts'
import type { Option } from './command.ts'
import { printable } from './terminal.ts'

export const URL_OPTION: Option = { value: '<url>', help: 'of the server; default: http://HOST:PORT' }

/** The server's address, ending in a slash. Throws StartupError. */
export function serverUrl({ host, port }: Config, given: string | undefined): URL {
  if (given === undefined && port === 0) throw new StartupError('PORT is 0, so the server may be at any port', 'pass its address with --url')
  const text = given ?? `http://${reachable(host)}:${port}`
  if (!/^https?:\/\//.test(text) || !URL.canParse(text)) throw new StartupError(`--url is ${JSON.stringify(text)}`, 'write it as http://host:port')
  const url = new URL(text)
  url.search = ''
  url.hash = ''
  if (!url.pathname.endsWith('/')) url.pathname += '/'
  return url
}

/** An address to listen at as one to connect to. */
function reachable(host: string): string {
  switch (host) {
    case '0.0.0.0': return '127.0.0.1'
    case '::': return '[::1]'
    default: return host.includes(':') ? `[${host}]` : host
  }
}

export interface Answer {
  readonly status: number
  readonly body: unknown
}

/** The status and the parsed body, whatever they are. Throws StartupError when nobody answers. */
export async function ask(url: URL): Promise<Answer> {
  try {
    const response = await fetch(url, { headers: { Accept: 'application/json' }, signal: AbortSignal.timeout(10_000) })
    return { status: response.status, body: parse(await response.text()) }
  } catch (error) {
    throw unreachable(url, error)
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

export function unreachable(url: URL, cause: unknown): StartupError {
  const because = cause instanceof Error && cause.cause instanceof Error && 'code' in cause.cause ? ` (${String(cause.cause.code)})` : ''
  return new StartupError(`no server answers at ${url.origin}${because}`, 'start it with "freshet start", or pass its address with --url', { cause })
}

/** What a server that refused said, as a sentence of ours. */
export function explainRefusal(url: URL, status: number, problem: Problem | null): StartupError {
  if (problem === null) return new StartupError(`${url.href} answered ${status}`, 'check that --url is the address of a Freshet server')
  const cure = problem.code === 'unknown_channel' ? 'run "freshet channels" for those there are' : problem.hint
  return new StartupError(lowered(problem.detail), lowered(cure))
}

function lowered(sentence: string): string {
  return printable(sentence.charAt(0).toLowerCase() + sentence.slice(1).replace(/\.$/, ''))
}

export function isProblem(body: unknown): body is Problem {
  return isObject(body) && typeof body['code'] === 'string' && typeof body['detail'] === 'string' && typeof body['hint'] === 'string'
}

export function isChannelList(body: unknown): body is ChannelList {
  return isObject(body) && Array.isArray(body['channels'])
}

export function isReadiness(body: unknown): body is Readiness {
  return isObject(body) && typeof body['status'] === 'string' && isObject(body['checks'])
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null
}
