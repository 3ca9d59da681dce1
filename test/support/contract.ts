/** Holds answers against openapi.yaml: status, media type, headers, and the body against its schema. */
import { readFileSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import { parse } from 'yaml'

export type Json = Readonly<Record<string, unknown>>

export const document = parse(readFileSync(new URL('../../openapi.yaml', import.meta.url), 'utf8')) as Json
export const paths = document['paths'] as Readonly<Record<string, Json>>

/** Headers that only some of the answers with a status have. */
const OCCASIONAL = new Set(['age', 'preference-applied', 'vary', 'allow', 'retry-after'])

/** Throws with what is wrong; addresses that the contract does not know pass. Reads a copy of the body, but not of a stream. */
export async function assertConforms(method: string, path: string, answer: Response): Promise<void> {
  const template = templateOf(new URL(path, 'http://localhost').pathname)
  const operation = template === undefined ? undefined : paths[template]?.[method.toLowerCase()] as Json | undefined
  if (template === undefined || operation === undefined) return
  const where = `${method} ${path}: ${answer.status}`
  const responses = operation['responses'] as Readonly<Record<string, Json>>
  const described = responses[answer.status] ?? responses[`${String(answer.status).charAt(0)}XX`]
  if (described === undefined) throw new Error(`${where} is not in the contract`)
  const response = resolve(described)
  checkHeaders(where, template, response, answer)
  await checkBody(where, response, answer)
}

function templateOf(pathname: string): string | undefined {
  return Object.keys(paths).find((template) => new RegExp(`^${template.replace(/\{\w+\}/g, '[^/]+')}$`).test(pathname))
}

function checkHeaders(where: string, template: string, response: Json, answer: Response): void {
  for (const name of Object.keys(response['headers'] as Json | undefined ?? {})) {
    const isPart = name === 'ETag' && template.endsWith('/changes') && answer.status === 200
    const isForOthers = name.startsWith('Access-Control-')
    if (!OCCASIONAL.has(name.toLowerCase()) && !isPart && !isForOthers && !answer.headers.has(name)) throw new Error(`${where} without ${name}`)
  }
  if (template.endsWith('/changes') && answer.status !== 204 && answer.headers.get('vary') !== 'Prefer, Accept-Encoding') throw new Error(`${where} without Vary`)
  if (answer.status === 405 && !answer.headers.has('allow')) throw new Error(`${where} without Allow`)
  if ((answer.status === 429 || answer.status === 503) && !answer.headers.has('retry-after')) throw new Error(`${where} without Retry-After`)
}

async function checkBody(where: string, response: Json, answer: Response): Promise<void> {
  const content = response['content'] as Readonly<Record<string, Json>> | undefined
  const mediaType = answer.headers.get('content-type')?.split(';')[0]
  if (content === undefined) return
  const schema = content[mediaType ?? '']?.['schema']
  if (schema === undefined) throw new Error(`${where} as ${String(mediaType)}`)
  // Large bodies are more of the same, and cost more than what is tested with them.
  const isLarge = answer.headers.has('transfer-encoding') || Number(answer.headers.get('content-length')) > 1e5
  if (mediaType?.endsWith('json') !== true || isLarge) return
  const fault = faultIn(JSON.parse(await answer.clone().text()), schema as Json)
  if (fault !== null) throw new Error(`${where}: ${fault}`)
}

/** What a `$ref` stands for. */
export function resolve(node: Json): Json {
  const reference = node['$ref']
  if (typeof reference !== 'string') return node
  let found: unknown = document
  for (const step of reference.split('/').slice(1)) found = (found as Json)[step]
  // Members beside a $ref only describe.
  return resolve(found as Json)
}

/** What of a JSON value is not as its schema says, with its place; null: nothing. The part of JSON Schema that the contract uses. */
export function faultIn(value: unknown, node: Json, place = '$'): string | null {
  const schema = resolve(node)
  const types = [schema['type'] ?? []].flat() as string[]
  if (types.length > 0 && !types.includes(typeOf(value)) && !(typeOf(value) === 'integer' && types.includes('number'))) return `${place} is ${typeOf(value)}, not ${types.join(' or ')}`
  if ('const' in schema && !isDeepStrictEqual(value, schema['const'])) return `${place} is not ${JSON.stringify(schema['const'])}`
  if (Array.isArray(schema['enum']) && !schema['enum'].includes(value)) return `${place} is ${JSON.stringify(value)}`
  if (Array.isArray(schema['oneOf'])) {
    const faults = schema['oneOf'].map((one) => faultIn(value, one as Json, place))
    if (faults.filter((fault) => fault === null).length !== 1) return `${place} is not one of ${faults.length}: ${faults.join('; ')}`
  }
  if (typeof value === 'number') {
    if (value < Number(schema['minimum'] ?? -Infinity) || value > Number(schema['maximum'] ?? Infinity)) return `${place} is ${value}`
  }
  if (typeof value === 'string' && value.length > Number(schema['maxLength'] ?? Infinity)) return `${place} is too long`
  if (Array.isArray(value)) return firstFault(value.map((item, index) => [item, schema['items'], `${place}[${index}]`]))
  if (typeof value === 'object' && value !== null) {
    const missing = (schema['required'] as string[] | undefined ?? []).find((name) => !(name in value))
    if (missing !== undefined) return `${place} has no ${missing}`
    const properties = schema['properties'] as Json | undefined ?? {}
    return firstFault(Object.entries(value).map(([name, member]) => [member, properties[name], `${place}.${name}`]))
  }
  return null
}

function firstFault(members: readonly (readonly [unknown, unknown, string])[]): string | null {
  for (const [value, schema, place] of members) {
    const fault = schema === undefined ? null : faultIn(value, schema as Json, place)
    if (fault !== null) return fault
  }
  return null
}

function typeOf(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'array'
  return Number.isInteger(value) ? 'integer' : typeof value
}
