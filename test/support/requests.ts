/**
 * Requests made from openapi.yaml: every shape it documents, and what may become of them on the way. All of it is as it goes over the
 * wire, encoded or not. Left out: headers that say where a request ends, since a server rightly waits for what they promise.
 */
import fc from 'fast-check'
import { paths, resolve, type Json } from './contract.ts'

export interface WireRequest {
  readonly method: string
  readonly path: string
  readonly query: readonly (readonly [string, string])[]
  readonly headers: readonly (readonly [string, string])[]
  readonly body: string | null
  readonly protocol: string
}

/** What the server under test has, so that requests are not all about nothing. */
export interface Known {
  readonly channels: readonly string[]
  /** Texts for each filter. */
  readonly filters: Readonly<Record<string, readonly string[]>>
  readonly cursors: readonly string[]
}

export function target({ path, query }: Pick<WireRequest, 'path' | 'query'>): string {
  return path + (query.length === 0 ? '' : `?${query.map(([name, value]) => `${name}=${value}`).join('&')}`)
}

export function render(request: WireRequest): Buffer {
  const { method, headers, body, protocol } = request
  const length = body === null ? [] : [['Content-Length', String(Buffer.byteLength(body))] as const]
  const lines = [`${method} ${target(request)} ${protocol}`, ...[...headers, ...length].map(([name, value]) => `${name}: ${value}`)]
  return Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), Buffer.from(body ?? '')])
}

/** Any request that the contract documents, of any operation; those that take parameters more often. */
export function documentedRequest(known: Known): fc.Arbitrary<WireRequest> {
  const operations = Object.entries(paths).flatMap(([template, item]) => ['get', 'head', 'options', 'post']
    .filter((method) => method in item)
    .map((method) => ({ weight: 'parameters' in (item[method] as Json) ? 6 : 1, arbitrary: requestOf(template, method, item, known) })))
  return fc.oneof(...operations)
}

/** The same after up to three misfortunes. */
export function mutatedRequest(known: Known): fc.Arbitrary<WireRequest> {
  return fc.tuple(documentedRequest(known), fc.array(mutation, { minLength: 1, maxLength: 3 }))
    .map(([request, mutations]) => mutations.reduce((mutated, mutate) => mutate(mutated), request))
}

function requestOf(template: string, method: string, item: Json, known: Known): fc.Arbitrary<WireRequest> {
  const operation = item[method] as Json
  const parameters = [...parametersOf(item), ...parametersOf(operation)]
  const of = (place: string): fc.Arbitrary<(readonly [string, string])[]> =>
    fc.tuple(...parameters.filter((parameter) => parameter['in'] === place).map((parameter) => pairsOf(parameter, known))).map((pairs) => pairs.flat())
  return fc.record({ path: of('path'), query: of('query'), headers: of('header'), body: bodyOf(operation) }).map(({ path, query, headers, body }) => ({
    method: method.toUpperCase(),
    path: path.reduce((filled, [name, value]) => filled.replace(`{${name}}`, value), template),
    query: query.map(([name, value]) => [encodeURIComponent(name), encodeURIComponent(value)] as const),
    headers: [['Host', 'localhost'], ['Connection', 'close'], ...body === null ? [] : [['Content-Type', 'application/json'] as const], ...headers],
    body,
    protocol: 'HTTP/1.1',
  }))
}

function parametersOf(node: Json): readonly Json[] {
  return (node['parameters'] as readonly Json[] | undefined ?? []).map(resolve)
}

/** None or one name and value; of an exploded object, any of its members. What is required is seldom missing. */
function pairsOf(parameter: Json, known: Known): fc.Arbitrary<(readonly [string, string])[]> {
  const name = String(parameter['name'])
  const pairs = parameter['explode'] === true ? membersOf(known.filters) : valueOf(parameter, known).map((given) => [[name, given] as const])
  // Without the name of a channel there is another address.
  return parameter['in'] === 'path' ? pairs : fc.option(pairs, { freq: parameter['required'] === true ? 20 : 2, nil: [] })
}

function membersOf(columns: Readonly<Record<string, readonly string[]>>): fc.Arbitrary<(readonly [string, string])[]> {
  return fc.subarray(Object.entries(columns)).chain((some) => fc.tuple(...some.map(([column, texts]) => fc.constantFrom(...texts).map((text) => [column, text] as const))))
}

function valueOf(parameter: Json, known: Known): fc.Arbitrary<string> {
  const schema = resolve(parameter['schema'] as Json)
  const isChannel = /^channels?$/.test(String(parameter['name']))
  // An example with a cursor is truer with one that this server gave.
  const examples = fc.constantFrom(...known.cursors).map((cursor) => String(parameter['example']).replace(/k3f9\.\d+/, cursor))
  const real = isChannel ? fc.constantFrom(...known.channels) : examples
  switch (schema['type']) {
    case 'integer': return fc.oneof(real, fc.integer({ min: Number(schema['minimum']), max: Number(schema['maximum'] ?? 60) }).map(String))
    case 'array': return fc.uniqueArray(fc.oneof({ weight: 20, arbitrary: real }, text(schema['items'] as Json)), { minLength: Number(schema['minItems']), maxLength: Number(schema['maxItems']) }).map((items) => items.join(','))
    default: return fc.oneof({ weight: 9, arbitrary: real }, text(schema))
  }
}

function text(schema: Json): fc.Arbitrary<string> {
  if (typeof schema['pattern'] === 'string') return fc.stringMatching(new RegExp(schema['pattern']))
  return fc.string({ unit: 'grapheme-ascii', maxLength: Number(schema['maxLength'] ?? 64) })
}

function bodyOf(operation: Json): fc.Arbitrary<string | null> {
  if (!('requestBody' in operation)) return fc.constant(null)
  return fc.oneof(fc.integer({ min: 0, max: 3 }).map((id) => JSON.stringify({ id })), fc.json(), fc.constantFrom('', '{', '{"id":1e999}', '\u0000'))
}

const LONG = 9_000
const VALUES = [
  '', '%00', '%0d%0a', '%', '%zz', '%ff', '%ed%a0%80', '%c0%80', '%2f', '%2e%2e%2f', '..', '-1', '0', '1', '1.5', '1e3', 'NaN', 'Infinity', '9'.repeat(40), 'null', 'true', '[]', '{}', 'a,b,,c', '__proto__',
  `'%20or%201=1`, '<script>', '*', '"', 'W/"', '"*"', '"k3f9.1-gzip",W/"zzzz.1"', 'k3f9.1', 'k3f9.1.r.0-1', 'zzzz.9007199254740993', 'wait=1;wait', 'x'.repeat(300), 'x'.repeat(LONG), '%41'.repeat(LONG / 3), '"a",'.repeat(LONG / 4),
  '\u0000', '\u0001', '\t', '\u007f', '\u00e9', ' ', '#', '\\',
]
const NAMES = ['sinc', 'Since', 'since', 'limit', 'wait', 'grp', 'owner', 'id', 'channels', 'padding', 'evs_preamble', 'next', '__proto__', 'constructor[prototype]', 'grp[]', 'grp.a', '', '%00', '%zz', '%67rp']
const HEADERS = ['Host', 'Accept', 'Accept-Encoding', 'If-None-Match', 'If-Modified-Since', 'Prefer', 'Last-Event-ID', 'Range', 'Origin', 'Expect', 'Cookie', 'Authorization', 'X-Forwarded-For', 'X-HTTP-Method-Override', 'Content-Type', 'Upgrade']
const METHODS = ['GET', 'HEAD', 'OPTIONS', 'POST', 'PUT', 'PATCH', 'DELETE', 'TRACE', 'PROPFIND', 'M-SEARCH', 'get', 'FETCH', '']

type Mutation = (request: WireRequest) => WireRequest
const value = fc.constantFrom(...VALUES)

const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  // Another value for a parameter, or the parameter under another name.
  fc.tuple(fc.nat(), value).map(([at, other]): Mutation => (request) => ({ ...request, query: replaceAt(request.query, at, ([name]) => [name, other]) })),
  fc.tuple(fc.nat(), fc.constantFrom(...NAMES)).map(([at, other]): Mutation => (request) => ({ ...request, query: replaceAt(request.query, at, ([, kept]) => [other, kept]) })),
  // One too many: unknown, or there already.
  fc.tuple(fc.constantFrom(...NAMES), value).map((added): Mutation => (request) => ({ ...request, query: [...request.query, added] })),
  fc.nat().map((at): Mutation => (request) => ({ ...request, query: [...request.query, ...request.query.slice(at % (request.query.length + 1))] })),
  fc.integer({ min: 100, max: 600 }).map((count): Mutation => (request) => ({ ...request, query: [...request.query, ...Array.from({ length: count }, (_, index) => [`p${index}`, ''] as const)] })),
  // Headers: one more, or another value.
  fc.tuple(fc.constantFrom(...HEADERS), value).map((added): Mutation => (request) => ({ ...request, headers: [...request.headers, added] })),
  fc.tuple(fc.nat(), value).map(([at, other]): Mutation => (request) => ({ ...request, headers: replaceAt(request.headers, at, ([name, kept]) => [name, name === 'Connection' ? kept : other]) })),
  // The address.
  fc.tuple(fc.nat(), value).map(([at, other]): Mutation => (request) => ({ ...request, path: replaceAt(request.path.split('/'), at, () => other).join('/') })),
  fc.constantFrom('/', '//', '/..', '/%2e%2e', '/.', ';a=b', '%00', '/x').map((tail): Mutation => (request) => ({ ...request, path: request.path + tail })),
  fc.constantFrom('/', '/..', 'x', 'http://example.com', 'http://', '*').map((start): Mutation => (request) => ({ ...request, path: start + request.path })),
  fc.constant<Mutation>((request) => ({ ...request, path: request.path.toUpperCase() })),
  fc.nat().map((at): Mutation => (request) => ({ ...request, path: replaceAt(request.path.split(''), at, (character) => `%${character.charCodeAt(0).toString(16).padStart(2, '0')}`).join('') })),
  // The rest of the first line.
  fc.constantFrom(...METHODS).map((method): Mutation => (request) => ({ ...request, method })),
  fc.constantFrom('HTTP/1.0', 'HTTP/2.0', 'HTTP/9', 'http/1.1', '').map((protocol): Mutation => (request) => ({ ...request, protocol })),
)

function replaceAt<T>(items: readonly T[], at: number, other: (item: T) => T): readonly T[] {
  return items.map((item, index) => index === at % items.length ? other(item) : item)
}
