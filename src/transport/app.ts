/**
 * The HTTP application: addresses, methods, cross-origin rules and limits. What an address does is in the file of its endpoint.
 */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { RequestListener } from 'node:http'
import { fileURLToPath } from 'node:url'
import express, { type Express, type Request, type RequestHandler, type Response } from 'express'
import helmet from 'helmet'
import { parse as parseYaml } from 'yaml'
import type { Channel, Readiness } from '../contract/names.ts'
import { parseChannelName, parseManyStream, parseNothing } from '../contract/request.ts'
import { formatVersion } from '../contract/version.ts'
import { ApiError, ERROR_KINDS, quoted } from '../errors.ts'
import type { Hub } from '../hub/hub.ts'
import type { ChannelDefinition } from '../contract/change.ts'
import { POLL_ROUTE, rawQuery, STREAM_ROUTE } from './address.ts'
import { onceAnswered } from './answered.ts'
import { ANY_ORIGIN, JSON_TYPE, NO_SNIFFING, setHeaders, setVary } from './headers.ts'
import type { DirectOptions } from './direct.ts'
import { besideExpress, besideNode, type LaneOptions } from './lane.ts'
import { RateLimit } from './limit.ts'
import { methods, problemHandler } from './problem.ts'

/** The demo's one way to write: null where there is no such row. */
export type Vote = (id: number) => Promise<{ readonly committedAtMs: number; readonly tookMs: number } | null>

export interface AppOptions extends LaneOptions {
  readonly changesPerMinute: (channel: string) => number
  readonly readiness: () => Promise<Readiness>
  readonly metrics: () => Promise<string>
  /** Null: no demo here. */
  readonly vote: Vote | null
  /** Requests a second and address; 0: no limit. */
  readonly rateLimit: number
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

export interface App {
  readonly listener: RequestListener
  /** Polls that memory answers, for connections that need nothing else. */
  readonly answerAtOnce: DirectOptions['answer']
}

export async function createApp(options: AppOptions): Promise<App> {
  const app = express()
  const limit = new RateLimit(options.rateLimit)
  app.disable('x-powered-by')
  // The contract parses queries by itself, strictly.
  app.set('query parser', false)
  // One address, one spelling: rules about a path must not be escaped by writing it in capitals.
  app.set('case sensitive routing', true)
  app.set('trust proxy', options.trustProxy)
  app.use(countRequests(options.onRequest))
  app.use((request, response, next) => {
    setVary(request.url, response)
    setHeaders(response, NO_SNIFFING)
    next()
  })
  serveOperations(app, options)
  app.use('/v1', crossOrigin(options.hub))
  app.use(limit.middleware((response) => options.sse.refuse(response)))
  serveChannels(app, options)
  await serveDocuments(app)
  serveDemo(app, options)
  servePages(app)
  app.use((request) => {
    throw new ApiError('not_found', `There is nothing at ${quoted(request.path)}.`)
  })
  app.use(problemHandler(options.onError))
  return { listener: besideExpress(app, options, limit), answerAtOnce: besideNode(app, options, limit) }
}

/** Never stored, and never a 304: Express would give one to `If-None-Match: *`. */
function answer(response: Response, type: string, body: string): void {
  response.set({ 'Cache-Control': 'no-store', 'Content-Type': type, 'Content-Length': String(Buffer.byteLength(body)) }).end(body)
}

/** Liveness, readiness and figures: before any limit, for whoever watches. */
function serveOperations(app: Express, { readiness, metrics }: AppOptions): void {
  app.route('/healthz').get((request, response) => {
    parseNothing(rawQuery(request))
    answer(response, JSON_TYPE, JSON.stringify({ status: 'ok' }))
  }).all(methods(GET))
  app.route('/readyz').get(async (request, response) => {
    parseNothing(rawQuery(request))
    const ready = await readiness()
    response.status(ready.status === 'ready' ? 200 : 503)
    if (ready.status !== 'ready') response.set('Retry-After', '1')
    answer(response, JSON_TYPE, JSON.stringify(ready))
  }).all(methods(GET))
  app.route('/metrics').get(async (request, response) => {
    parseNothing(rawQuery(request))
    answer(response, 'text/plain; version=0.0.4; charset=utf-8', await metrics())
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
  app.route('/v1/channels').get(accepting('application/json'), refuseWhileDraining, (request, response) => {
    parseNothing(rawQuery(request))
    if (!hub.isLoaded) throw new ApiError('database_unreachable', 'The server has not reached its database yet.')
    // The demo's first: it is what a newcomer looks for.
    const channels = hub.channels.toSorted((a, b) => Number(b.name === 'options') - Number(a.name === 'options'))
    answer(response, JSON_TYPE, JSON.stringify({ channels: channels.map(describe) }))
  }).all(methods(GET))
  app.route('/v1/channels/:channel').get(accepting('application/json'), refuseWhileDraining, (request, response) => {
    const channel = hub.channel(channelName(request))
    parseNothing(rawQuery(request))
    answer(response, JSON_TYPE, JSON.stringify(describe(channel)))
  }).all(methods(GET))
  app.route(POLL_ROUTE).get(accepting('application/json'), refuseWhileDraining, (request, response) =>
    poll.answer(request, response, { name: channelName(request), rawQuery: rawQuery(request) })).all(methods(GET))
  // No refusal here: EventSource would take it for the last word.
  app.route(STREAM_ROUTE).get(accepting('text/event-stream'), (request, response) =>
    sse.one(request, response, channelName(request), rawQuery(request))).all(methods(GET))
  app.route('/v1/stream').get(accepting('text/event-stream'), (request, response) => sse.many(request, response, rawQuery(request))).all(methods(GET))
}

/** The contract as YAML and as JSON; the latter with the table of problems, for the documentation page. */
async function serveDocuments(app: Express): Promise<void> {
  const yaml = await readFile(new URL('openapi.yaml', root), 'utf8')
  const document = parseYaml(yaml) as { info: Record<string, unknown> }
  document.info['x-problems'] = Object.entries(ERROR_KINDS).map(([code, { status, title, hint }]) => ({ code, status, title, hint }))
  const json = JSON.stringify(document)
  const serve = (type: string, body: string): RequestHandler => {
    const etag = `W/"${createHash('sha256').update(body).digest('base64url').slice(0, 16)}"`
    return (request, response) => {
      parseNothing(rawQuery(request))
      response.set({ 'Cache-Control': 'no-cache', 'Content-Type': type, 'ETag': etag, 'Access-Control-Allow-Origin': '*' }).send(body)
    }
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

/** [rfc9110 §12.5.1] refuses who wants nothing that is here; who says nothing wants anything. */
function accepting(type: string): RequestHandler {
  return (request, _response, next) => {
    if (request.accepts(type) === false) throw new ApiError('not_acceptable', `This address gives ${type} only.`)
    next()
  }
}

const requireJson: RequestHandler = (request, _response, next) => {
  if (request.is('application/json') === false) throw new ApiError('unsupported_media_type', 'The body is not application/json.')
  next()
}

function servePages(app: Express): void {
  const directory = fileURLToPath(new URL('src/pages/', root))
  const page = (file: string): RequestHandler => (_request, response, next) => {
    // With a root: where npm installs, directories begin with a dot, which counts as hidden in a whole path.
    response.sendFile(file, { root: directory, etag: true, cacheControl: false, headers: { 'Cache-Control': 'no-cache' } }, (error) => {
      if (error !== undefined && !response.headersSent) next(error)
    })
  }
  app.use(helmet({ contentSecurityPolicy: CONTENT_SECURITY, strictTransportSecurity: false }))
  app.route('/').get(page('index.html')).all(methods(GET))
  app.route('/tv').get(page('tv.html')).all(methods(GET))
  app.route('/docs').get(page('docs.html')).all(methods(GET))
  app.use('/assets', express.static(directory, { index: false, redirect: false, cacheControl: false, etag: true, extensions: false,
    setHeaders: (response) => response.setHeader('Cache-Control', 'no-cache') }))
  app.use('/assets', (request, response, next) => {
    if (request.method === 'GET' || request.method === 'HEAD') next()
    else methods(GET)(request, response, next)
  })
}

/** Public channels are for any page; the others for none, not even one of them among others. */
function crossOrigin(hub: Hub): RequestHandler {
  return (request, response, next) => {
    const names = channelNames(request)
    if (!hub.channels.some(({ name, isPublic }) => !isPublic && names.includes(name))) {
      setHeaders(response, ANY_ORIGIN)
      if (request.method === 'OPTIONS') {
        response.set({ 'Access-Control-Allow-Methods': 'GET, HEAD', 'Access-Control-Allow-Headers': 'If-None-Match, Prefer, Last-Event-ID, Cache-Control', 'Access-Control-Max-Age': '86400' })
      }
    }
    next()
  }
}

/** The channels that a request under /v1 is about, as the endpoints will read them; none if it cannot be read. */
function channelNames(request: Request): readonly string[] {
  const [, kind, segment] = request.path.split('/')
  try {
    if (kind === 'channels' && segment !== undefined) return [parseChannelName(segment)]
    if (kind === 'stream') return parseManyStream(rawQuery(request), {}).channels
  } catch { /* refused further on, whoever asks */ }
  return []
}

function countRequests(onRequest: AppOptions['onRequest']): RequestHandler {
  return (request, response: Response, next) => {
    onceAnswered(response, () => onRequest(routeOf(request), response.statusCode))
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
