/**
 * The pace for routes of somebody's own, `import { pace } from 'freshet/pace'`: middleware for Express, Connect or anything that takes
 * (request, response, next). It adds an ETag, answers 304 without asking the route, and says when to ask again. It is told of
 * changes by a call; forgetting to call means stale 304s, calling too often only costs requests.
 */
import { randomBytes } from 'node:crypto'
import type { IncomingMessage, OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { Advisor } from './advisor.ts'
import type { Advice } from './pace.ts'

export interface PaceOptions {
  /** What a request is about: requests of equal text change together. Default: the path, without the query. */
  readonly resource?: (request: IncomingMessage) => string
  /** Requests a second that intervals are chosen for. Default: no limit. */
  readonly budget?: number
  /** Resources remembered at a time; of one that was forgotten the next answer is a whole one. Default 1,000. */
  readonly maxResources?: number
  /** Milliseconds that never run backwards. Default: the process's own. */
  readonly now?: () => number
}

export interface PaceMiddleware {
  (request: IncomingMessage, response: ServerResponse, next: (error?: unknown) => void): void
  /** What this resource says has changed; without a name, all of them have. Call it when the change can be read. */
  touched(resource?: string): void
  /** As the next client would be told, for an answer that has its own way to say so. */
  advice(resource: string): Advice
}

const MAX_RESOURCES = 1_000

export function pace({ resource = pathOf, budget = Infinity, maxResources = MAX_RESOURCES, now = () => performance.now() }: PaceOptions = {}): PaceMiddleware {
  const advisor = new Advisor({ budget, maxChannels: maxResources, now })
  // Another process counts from anew: its tags must not look like ours.
  const life = randomBytes(5).toString('hex')
  const counts = new Map<string, number>()
  let last = 0

  const countOf = (name: string): number => {
    const count = counts.get(name)
    if (count !== undefined) return count
    const [oldest] = counts.keys()
    if (counts.size >= maxResources && oldest !== undefined) counts.delete(oldest)
    counts.set(name, last += 1)
    return last
  }
  const middleware = (request: IncomingMessage, response: ServerResponse, next: (error?: unknown) => void): void => {
    if (request.method !== 'GET' && request.method !== 'HEAD') return next()
    const name = resource(request)
    // Taken before the route reads: what changes meanwhile is asked for again rather than missed.
    const etag = `W/"${life}.${countOf(name)}"`
    const known = request.headers['if-none-match']
    const advice = advisor.advise(name, { isFirst: known === undefined })
    dress(response, etag, advice)
    if (known === undefined || !names(known, etag)) return next()
    response.writeHead(304).end()
  }
  return Object.assign(middleware, {
    touched(name?: string): void {
      for (const one of name === undefined ? [...counts.keys()] : [name]) {
        advisor.observe(one)
        if (counts.has(one)) counts.set(one, last += 1)
      }
    },
    advice: (name: string): Advice => advisor.advise(name, { isHolding: true }),
  })
}

function pathOf({ url = '' }: IncomingMessage): string {
  return url.split('?')[0] ?? ''
}

/** [rfc9110 §13.1.2] weak comparison; a compressing proxy may have marked the tag. */
function names(ifNoneMatch: string, etag: string): boolean {
  const tag = etag.slice(3, -1)
  return ifNoneMatch.split(',').some((one) => one.trim().replace(/^W\//, '').replace(/^"|(?:-gzip|;gzip|-br)?"$/g, '') === tag)
}

/** Only an answer that is one bears the tag: an error that looked unchanged would be shown for ever. */
function dress(response: ServerResponse, etag: string, advice: Advice): void {
  response.setHeader('ETag', etag)
  response.setHeader('Cache-Control', 'no-cache')
  response.setHeader('Poll-After-Ms', advice.afterMs)
  response.setHeader('Poll-Interval', Math.ceil(advice.afterMs / 1_000))
  response.setHeader('Poll-Reason', advice.reason)
  const writeHead = response.writeHead.bind(response) as (status: number, ...rest: readonly (string | OutgoingHttpHeaders | OutgoingHttpHeader[] | undefined)[]) => ServerResponse
  response.writeHead = (status: number, ...rest: readonly (string | OutgoingHttpHeaders | OutgoingHttpHeader[] | undefined)[]) => {
    if (status !== 200 && status !== 304) response.removeHeader('ETag')
    return writeHead(status, ...rest)
  }
}
