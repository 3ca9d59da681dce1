/**
 * The HTTP application: addresses, methods, cross-origin rules and limits. What an address does is in the file of its endpoint.
 */
import { readFile } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import express, { type Express, type Request, type RequestHandler, type Response } from 'express'
import { rateLimit } from 'express-rate-limit'
import helmet from 'helmet'
import { parse as parseYaml } from 'yaml'
import type { Channel, Readiness } from '../contract/names.ts'
import { parseChannelName, parseNothing } from '../contract/request.ts'
import { formatVersion } from '../contract/version.ts'
import { ApiError, ERROR_KINDS } from '../errors.ts'
import type { Hub } from '../hub/hub.ts'
import type { ChannelDefinition } from '../contract/change.ts'
import { methods, problemHandler, sendProblem } from './problem.ts'
import type { PollEndpoint } from './poll.ts'
import type { SseEndpoint } from './sse.ts'

/** The demo's one way to write: null where there is no such row. */
export type Vote = (id: number) => Promise<{ readonly committedAtMs: number; readonly tookMs: number } | null>

export interface AppOptions {
  readonly hub: Hub
  readonly poll: PollEndpoint
  readonly sse: SseEndpoint
  readonly changesPerMinute: (channel: string) => number
  readonly readiness: () => Promise<Readiness>
  readonly metrics: () => Promise<string>
  /** Null: no demo here. */
  readonly vote: Vote | null
  readonly isDraining: () => boolean
  /** Requests a second and address; 0: no limit. */
  readonly rateLimit: number
  readonly trustProxy: boolean | number | string
  readonly onRequest: (route: string, status: number) => void
  readonly onError: (error: unknown) => void
}

const GET = ['GET', 'HEAD', 'OPTIONS']
const root = new URL('../../', import.meta.url)

const CONTENT_SECURITY = {
  directives: {
    defaultSrc: [`'self'`], styleSrc: [`'self'`], scriptSrc: [`'self'`], connectSrc: [`'self'`], imgSrc: [`'self'`, 'data:'],
    // Pages are served over plain HTTP on a laptop as well.
    upgradeInsecureRequests: null,
  },
}

export async function createApp(options: AppOptions): Promise<Express> {
  const app = express()
  app.disable('x-powered-by')
  app.set('etag', false)
  // The contract parses queries by itself, strictly.
  app.set('query parser', false)
  app.set('trust proxy', options.trustProxy)
  app.use(countRequests(options.onRequest))
  app.use((_request, response, next) => {
    response.set('X-Content-Type-Options', 'nosniff')
    next()
  })
  serveOperations(app, options)
  app.use('/v1', crossOrigin(options.hub))
  if (options.rateLimit > 0) app.use(limitRate(options.rateLimit))
  serveChannels(app, options)
  await serveDocuments(app)
  serveDemo(app, options)
  servePages(app)
  app.use((request) => {
    throw new ApiError('not_found', `There is nothing at ${JSON.stringify(request.path.slice(0, 80))}.`)
  })
  app.use(problemHandler(options.onError))
  return app
}

/** Liveness, readiness and figures: before any limit, for whoever watches. */
function serveOperations(app: Express, { readiness, metrics }: AppOptions): void {
  app.route('/healthz').get((request, response) => {
    parseNothing(rawQuery(request))
    response.set('Cache-Control', 'no-store').json({ status: 'ok' })
  }).all(methods(GET))
  app.route('/readyz').get(async (request, response) => {
    parseNothing(rawQuery(request))
    const ready = await readiness()
    response.set('Cache-Control', 'no-store').status(ready.status === 'ready' ? 200 : 503)
    if (ready.status !== 'ready') response.set('Retry-After', '1')
    response.json(ready)
  }).all(methods(GET))
  app.route('/metrics').get(async (request, response) => {
    parseNothing(rawQuery(request))
    response.set({ 'Cache-Control': 'no-store', 'Content-Type': 'text/plain; version=0.0.4; charset=utf-8' }).send(await metrics())
  }).all(methods(GET))
}

function serveChannels(app: Express, { hub, poll, sse, changesPerMinute, isDraining }: AppOptions): void {
  const describe = (channel: ChannelDefinition): Channel => ({
    name: channel.name,
    public: channel.isPublic,
    key: [...channel.table.keyColumns],
    columns: channel.columns.map(({ name, type, nullable }) => ({ name, type, nullable })),
    filters: [...channel.filters],
    version: formatVersion({ epoch: hub.epoch, number: hub.lastTouched([{ channel, filters: new Map() }]) }),
    changes_per_minute: changesPerMinute(channel.name),
    status: channel.table.parked === null ? 'live' : 'parked',
    ...channel.table.parked === null ? {} : { parked_reason: channel.table.parked },
  })
  const refuseWhileDraining: RequestHandler = (_request, _response, next) => {
    if (isDraining()) throw new ApiError('draining', 'The server is shutting down.', { retryAfterSeconds: 1 + Math.random() * 3 })
    next()
  }
  app.route('/v1/channels').get(refuseWhileDraining, (request, response) => {
    parseNothing(rawQuery(request))
    if (!hub.isLoaded) throw new ApiError('database_unreachable', 'The server has not reached its database yet.')
    // The demo's first: it is what a newcomer looks for.
    const channels = hub.channels.toSorted((a, b) => Number(b.name === 'options') - Number(a.name === 'options'))
    response.set('Cache-Control', 'no-store').json({ channels: channels.map(describe) })
  }).all(methods(GET))
  app.route('/v1/channels/:channel').get(refuseWhileDraining, (request, response) => {
    const channel = hub.channel(channelName(request))
    parseNothing(rawQuery(request))
    response.set('Cache-Control', 'no-store').json(describe(channel))
  }).all(methods(GET))
  app.route('/v1/channels/:channel/changes').get(refuseWhileDraining, (request, response) =>
    poll.answer(request, response, channelName(request), rawQuery(request))).all(methods(GET))
  // No refusal here: EventSource would take it for the last word.
  app.route('/v1/channels/:channel/stream').get((request, response) =>
    sse.one(request, response, channelName(request), rawQuery(request))).all(methods(GET))
  app.route('/v1/stream').get((request, response) => sse.many(request, response, rawQuery(request))).all(methods(GET))
}

/** The contract as YAML and as JSON; the latter with the table of problems, for the documentation page. */
async function serveDocuments(app: Express): Promise<void> {
  const yaml = await readFile(new URL('openapi.yaml', root), 'utf8')
  const document = parseYaml(yaml) as { info: Record<string, unknown> }
  document.info['x-problems'] = Object.entries(ERROR_KINDS).map(([code, { status, title, hint }]) => ({ code, status, title, hint }))
  const json = JSON.stringify(document)
  const serve = (type: string, body: string): RequestHandler => (request, response) => {
    parseNothing(rawQuery(request))
    response.set({ 'Cache-Control': 'no-cache', 'Content-Type': type, 'Access-Control-Allow-Origin': '*' }).send(body)
  }
  app.route('/openapi.yaml').get(serve('application/yaml; charset=utf-8', yaml)).all(methods(GET))
  app.route('/openapi.json').get(serve('application/json; charset=utf-8', json)).all(methods(GET))
}

function serveDemo(app: Express, { vote }: AppOptions): void {
  if (vote === null) return
  const allow = ['POST', 'OPTIONS']
  app.route('/demo/votes').post(requireJson, express.json({ limit: '1kb', strict: true }), async (request, response) => {
    const id: unknown = (request.body as { readonly id?: unknown } | undefined)?.id
    if (typeof id !== 'number' || !Number.isInteger(id)) throw new ApiError('malformed_body', 'The body has no whole number "id".')
    const committed = await vote(id)
    if (committed === null) throw new ApiError('malformed_body', `There is no option ${id}.`, { hint: 'Send the id of a row of the channel "options".' })
    response.set({ 'Cache-Control': 'no-store', 'Server-Timing': `commit;dur=${committed.tookMs.toFixed(1)}`, 'Freshet-Committed-At': String(committed.committedAtMs) })
    response.status(204).end()
  }).all(methods(allow))
}

const requireJson: RequestHandler = (request, _response, next) => {
  if (request.is('application/json') === false) throw new ApiError('unsupported_media_type', 'The body is not application/json.')
  next()
}

function servePages(app: Express): void {
  const directory = new URL('src/pages/', root)
  const page = (file: string): RequestHandler => (_request, response, next) => {
    response.sendFile(new URL(file, directory).pathname, { etag: true, cacheControl: false, headers: { 'Cache-Control': 'no-cache' } }, (error) => {
      if (error !== undefined && !response.headersSent) next(error)
    })
  }
  app.use(helmet({ contentSecurityPolicy: CONTENT_SECURITY, strictTransportSecurity: false }))
  app.route('/').get(page('index.html')).all(methods(GET))
  app.route('/tv').get(page('tv.html')).all(methods(GET))
  app.route('/docs').get(page('docs.html')).all(methods(GET))
  app.use('/assets', express.static(directory.pathname, { index: false, redirect: false, cacheControl: false, etag: true, extensions: false,
    setHeaders: (response) => response.setHeader('Cache-Control', 'no-cache') }))
}

/** Public channels are for any page; the others, and what is not a channel, for none. */
function crossOrigin(hub: Hub): RequestHandler {
  return (request, response, next) => {
    const name = /^\/channels\/([^/]+)/.exec(request.path)?.[1]
    const isPrivate = hub.channels.some((channel) => channel.name === name && !channel.isPublic)
    if (!isPrivate) {
      response.set('Access-Control-Allow-Origin', '*')
      response.set('Access-Control-Expose-Headers', 'ETag, Poll-After-Ms, Poll-Interval, Poll-Reason, Preference-Applied, Retry-After, Age')
      if (request.method === 'OPTIONS') {
        response.set({ 'Access-Control-Allow-Methods': 'GET, HEAD', 'Access-Control-Allow-Headers': 'If-None-Match, Prefer, Last-Event-ID, Cache-Control', 'Access-Control-Max-Age': '86400' })
      }
    }
    next()
  }
}

function limitRate(requestsPerSecond: number): RequestHandler {
  return rateLimit({
    windowMs: 1_000, limit: requestsPerSecond, standardHeaders: false, legacyHeaders: false, validate: false,
    handler: (_request, response) => sendProblem(response, new ApiError('rate_limited', 'Too many requests from this address.', { retryAfterSeconds: 1 + Math.random() * 3 })),
  })
}

function countRequests(onRequest: AppOptions['onRequest']): RequestHandler {
  return (request, response: Response, next) => {
    response.once('close', () => onRequest(routeOf(request), response.statusCode))
    next()
  }
}

/** The address with its variable parts named, so that figures stay few. */
function routeOf(request: Request): string {
  const route: unknown = (request as { readonly route?: { readonly path?: unknown } }).route?.path
  return typeof route === 'string' ? route : 'other'
}

function channelName(request: Request): string {
  return parseChannelName(request.path.split('/')[3] ?? '')
}

/** The query string as it was sent, without its question mark. */
export function rawQuery(request: IncomingMessage): string {
  const url = request.url ?? ''
  const start = url.indexOf('?')
  return start < 0 ? '' : url.slice(start + 1)
}
