// One operation of the API on the page: what it does, what it takes, what it answers, and the form to try it.
import { codeBlock, el } from './dom.js'
import { resolve, showSchema, typeOf } from './docs-schema.js'
import { tryIt } from './docs-try.js'
import { inline, markdown } from './markdown.js'

const METHODS = ['get', 'post', 'put', 'patch', 'delete', 'head', 'options']
// They say about themselves all there is to say in one line; their details wait until somebody asks.
const MINOR = new Set(['head', 'options'])

/** All operations of the document, in its order, with every reference followed that is needed to send a request. */
export function operationsOf(spec) {
  const server = (spec.servers?.[0]?.url ?? '').replace(/\/$/, '')
  return Object.entries(spec.paths ?? {}).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method] !== undefined).map((method) => {
      const source = item[method]
      return {
        source, method, path, server,
        id: `op-${source.operationId ?? `${method}-${path}`}`,
        tag: source.tags?.[0] ?? 'Other',
        summary: source.summary ?? `${method} ${path}`,
        minor: MINOR.has(method),
        parameters: mergedParameters(spec, item.parameters, source.parameters),
        body: bodyOf(spec, source),
        streams: method === 'get' && Object.values(source.responses ?? {}).some((response) => 'text/event-stream' in (resolve(spec, response).content ?? {})),
      }
    }))
}

// An operation's own parameter replaces the path's of the same name and place.
function mergedParameters(spec, ofPath = [], ofOperation = []) {
  const merged = new Map()
  for (const parameter of [...ofPath, ...ofOperation].map((node) => resolve(spec, node))) merged.set(`${parameter.in} ${parameter.name}`, parameter)
  return [...merged.values()]
}

function bodyOf(spec, { requestBody }) {
  if (requestBody === undefined) return null
  const { content = {}, description } = resolve(spec, requestBody)
  const [type, media] = Object.entries(content)[0] ?? ['application/json', {}]
  const example = media.example ?? resolve(spec, Object.values(media.examples ?? {})[0]).value
  return { type, description, schema: media.schema, example }
}

/** The words a search may find it by. */
export function wordsOf({ method, path, summary, source, parameters }) {
  return [method, path, summary, source.description ?? '', ...parameters.map(({ name }) => name)].join(' ').toLowerCase()
}

export function showOperation(spec, operation) {
  return operation.minor ? showMinor(spec, operation) : el('article', { class: 'operation', id: operation.id, tabindex: '-1' },
    el('header', {}, el('h3', {}, el('a', { class: 'anchor', href: `#${operation.id}` }, operation.summary)), addressOf(operation)),
    bodyFor(spec, operation))
}

function showMinor(spec, operation) {
  const details = el('details', { class: 'minor', id: operation.id, tabindex: '-1' },
    el('summary', {}, addressOf(operation), el('span', {}, operation.summary)))
  details.addEventListener('toggle', () => details.append(bodyFor(spec, operation)), { once: true })
  return details
}

function addressOf({ method, path }) {
  return el('p', { class: 'address' }, el('span', { class: `method ${method}` }, method.toUpperCase()), ' ', el('code', {}, path))
}

function bodyFor(spec, operation) {
  const { source, parameters, body } = operation
  return el('div', { class: 'halves' },
    el('div', { class: 'told' },
      markdown(source.description, 4),
      parameters.length > 0 && [el('h4', {}, 'Parameters'), parametersOf(spec, parameters)],
      body && [el('h4', {}, 'Body'), markdown(body.description, 5), el('p', { class: 'type' }, typeOf(body.schema), el('small', {}, ` as ${body.type}`))],
      el('h4', {}, 'Answers'),
      Object.entries(source.responses ?? {}).map(([status, response]) => showResponse(spec, status, resolve(spec, response)))),
    el('div', { class: 'tried' }, el('h4', {}, 'Try it'), tryIt(spec, operation)))
}

function parametersOf(spec, parameters) {
  return el('dl', { class: 'properties' }, parameters.map((parameter) => [
    el('dt', {}, el('code', {}, parameter.name), el('small', {}, ` ${parameter.in}${parameter.required ? ', required' : ''}`)),
    el('dd', {}, el('p', { class: 'type' }, typeOf(parameter.schema)), markdown(parameter.description, 5)),
  ]))
}

function showResponse(spec, status, { description = '', headers = {}, content = {} }) {
  const kind = /^[23]/.test(status) ? 'good' : 'bad'
  const [first] = description.split(/(?<=\.)\s|\n\n/)
  const details = el('details', { class: 'response' },
    el('summary', {}, el('span', { class: `code-${kind}` }, status), ' ', inline(first)))
  details.addEventListener('toggle', () => details.append(
    ...markdown(description.slice(first.length), 5),
    ...headersOf(spec, headers),
    ...Object.entries(content).flatMap(([type, media]) => contentOf(spec, type, media)),
  ), { once: true })
  return details
}

function headersOf(spec, headers) {
  const entries = Object.entries(headers)
  if (entries.length === 0) return []
  return [el('h5', {}, 'Headers'), el('dl', { class: 'properties' }, entries.map(([name, node]) => {
    const header = resolve(spec, node)
    const example = header.example === undefined ? null : el('p', { class: 'type' }, 'for example ', el('code', {}, String(header.example)))
    return [el('dt', {}, el('code', {}, name)), el('dd', {}, el('p', { class: 'type' }, typeOf(header.schema)), markdown(header.description, 5), example)]
  }))]
}

function contentOf(spec, type, { schema, example, examples = {} }) {
  const named = Object.values(examples).map((node) => resolve(spec, node))
  const all = example === undefined ? named : [{ summary: 'Example', value: example }, ...named]
  const data = schema?.contentSchema ? [el('p', { class: 'type' }, 'each event: ', typeOf(schema.contentSchema))] : []
  return [
    el('h5', {}, type),
    schema?.$ref || data.length === 0 ? el('div', {}, schema?.$ref ? el('p', { class: 'type' }, typeOf(schema)) : showSchema(schema ?? {})) : null,
    ...data,
    ...all.map(({ summary, value }) => el('figure', {}, el('figcaption', {}, summary ?? 'Example'),
      typeof value === 'string' ? codeBlock(value.trimEnd()) : codeBlock(JSON.stringify(value, null, 2), { language: 'json' }))),
  ].filter(Boolean)
}
