/**
 * Requests a second and client address. Promise: both ways to an answer, through Express and past it, count together and refuse alike;
 * a stream is refused as EventSource understands it.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { RequestHandler } from 'express'
import { ipKeyGenerator, MemoryStore, rateLimit } from 'express-rate-limit'
import { ApiError } from '../errors.ts'
import { Spread } from '../pace/spread.ts'
import { sendProblem } from './problem.ts'

/** Of a request, where it comes from. */
type Asker = Pick<IncomingMessage, 'socket'>

/** Those who are turned away come back one by one. */
const RETRY_WITHIN_SECONDS = 10

export class RateLimit {
  readonly #perSecond: number
  readonly #hits = new MemoryStore()
  readonly #spread = new Spread()

  /** 0: no limit. */
  constructor(perSecond: number) {
    this.#perSecond = perSecond
  }

  /** Counts the request; true: it is one too many. */
  async isExceeded(request: Asker): Promise<boolean> {
    return this.#perSecond > 0 && (await this.#hits.increment(keyOf(request))).totalHits > this.#perSecond
  }

  /** Counts the request. Rejects with ApiError rate_limited when it is one too many. */
  async admit(request: Asker): Promise<void> {
    if (await this.isExceeded(request)) throw this.#refusal()
  }

  middleware(refuseStream: (response: ServerResponse) => void): RequestHandler {
    if (this.#perSecond === 0) return (_request, _response, next) => next()
    return rateLimit({
      windowMs: 1_000, limit: this.#perSecond, store: this.#hits, keyGenerator: keyOf, standardHeaders: false, legacyHeaders: false, validate: false,
      handler: (request, response) => {
        // EventSource would take a 429 for the last word.
        if (request.method === 'GET' && /^\/v1\/(?:channels\/[^/]+\/)?stream\/?$/.test(request.path)) refuseStream(response)
        else sendProblem(response, this.#refusal())
      },
    })
  }

  #refusal(): ApiError {
    return new ApiError('rate_limited', 'Too many requests from this address.', { retryAfterSeconds: RETRY_WITHIN_SECONDS * this.#spread.next() })
  }
}

function keyOf(request: Asker): string {
  return ipKeyGenerator(addressOf(request))
}

/** The client's: the one that Express makes out for a request of its own, else that of the connection. */
export function addressOf(request: Asker): string {
  return ('ip' in request ? String(request.ip) : request.socket.remoteAddress) ?? ''
}
