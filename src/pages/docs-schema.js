// Reads an OpenAPI document: follows references and shows schemas. A named schema is shown once and linked from
// everywhere else, so that a schema that contains itself is as finite as any other.
import { el } from './dom.js'
import { markdown } from './markdown.js'

const MOST_HOPS = 20
const DEEPEST = 6
const PREFIX = '#/components/schemas/'

/** The object behind `node`, whatever number of references leads there. Siblings of a `$ref` win over its target. */
export function resolve(spec, node) {
  let found = node
  for (let hops = 0; found?.$ref !== undefined && hops < MOST_HOPS; hops += 1) {
    const { $ref, ...siblings } = found
    found = { ...pointedAt(spec, $ref), ...siblings }
  }
  return found ?? {}
}

function pointedAt(spec, ref) {
  if (!ref.startsWith('#/')) return {}
  const steps = ref.slice(2).split('/').map((step) => decodeURIComponent(step).replaceAll('~1', '/').replaceAll('~0', '~'))
  return steps.reduce((node, step) => node?.[step], spec) ?? {}
}

/** A schema's type in a few words, with links to the named ones. */
export function typeOf(schema) {
  if (schema === undefined || schema === true) return ['anything']
  if (schema.$ref?.startsWith(PREFIX)) {
    const name = schema.$ref.slice(PREFIX.length)
    return [el('a', { href: `#schema-${name}` }, name)]
  }
  if ('const' in schema) return [el('code', {}, JSON.stringify(schema.const))]
  if (schema.enum) return schema.enum.flatMap((value, index) => [index === 0 ? '' : ' | ', el('code', {}, String(value))])
  const choices = schema.oneOf ?? schema.anyOf
  if (choices) return joined(choices.map(typeOf), ' or ')
  if (schema.allOf) return joined(schema.allOf.map(typeOf), ' and ')
  if (schema.type === 'array') return ['array of ', ...typeOf(schema.items)]
  return [[schema.type ?? 'anything'].flat().join(' or '), ...limitsOf(schema)]
}

function joined(lists, word) {
  return lists.flatMap((nodes, index) => (index === 0 ? nodes : [word, ...nodes]))
}

function limitsOf(schema) {
  const limits = []
  if (schema.format) limits.push(schema.format)
  if (schema.minimum !== undefined && schema.maximum !== undefined) limits.push(`${schema.minimum} to ${schema.maximum}`)
  else if (schema.minimum !== undefined) limits.push(`at least ${schema.minimum}`)
  else if (schema.maximum !== undefined) limits.push(`at most ${schema.maximum}`)
  if (schema.maxLength !== undefined) limits.push(`at most ${schema.maxLength} characters`)
  if (schema.default !== undefined) limits.push(`default ${JSON.stringify(schema.default)}`)
  return limits.length === 0 ? [] : [el('small', {}, ` ${limits.join(', ')}`)]
}

/** A schema in full: description, then one line a property. */
export function showSchema(schema, depth = 0) {
  const parts = [...markdown(schema.description, 4)]
  const choices = schema.oneOf ?? schema.anyOf ?? schema.allOf
  if (schema.properties) parts.push(propertiesOf(schema, depth))
  else if (schema.type !== 'object' || choices) parts.push(el('p', { class: 'type' }, typeOf(schema)))
  if (schema.pattern) parts.push(el('p', { class: 'type' }, 'pattern ', el('code', {}, schema.pattern)))
  for (const example of schema.examples ?? []) parts.push(el('p', { class: 'type' }, 'for example ', el('code', {}, JSON.stringify(example))))
  return parts
}

function propertiesOf(schema, depth) {
  const required = new Set(schema.required)
  const list = el('dl', { class: 'properties' })
  for (const [name, property] of Object.entries(schema.properties)) {
    const nested = property.properties && depth < DEEPEST ? propertiesOf(property, depth + 1) : null
    list.append(
      el('dt', {}, el('code', {}, name), required.has(name) ? null : el('small', {}, ' optional')),
      el('dd', {}, el('p', { class: 'type' }, typeOf(property)), markdown(property.description, 4), nested),
    )
  }
  return list
}
