// Try it: a form for one operation's parameters, the request as curl, and the answer as it came. Streams are shown
// event by event until they are stopped.
import { codeBlock, colourJson, el, setText } from './dom.js'
import { readEvents } from './docs-events.js'
import { resolve } from './docs-schema.js'

const MOST_CHARACTERS = 100_000
const MOST_EVENTS = 100
const AGAIN = new Error('asked again') // ends an exchange without a word: the next one owns the form now
const SHOWN_HEADERS = ['Content-Type', 'ETag', 'Poll-After-Ms', 'Poll-Interval', 'Poll-Reason', 'Preference-Applied', 'Cache-Control',
  'Age', 'Vary', 'Retry-After', 'Allow', 'Server-Timing', 'Freshet-Committed-At']

/** `operation`: { method, path, parameters, body, streams } with all references followed. */
export function tryIt(spec, operation) {
  const fields = operation.parameters.map((parameter) => fieldFor(parameter, resolve(spec, parameter.schema)))
  const body = operation.body === null ? null : bodyField(operation)
  const command = codeBlock('', { language: 'shell', label: 'Copy the request as curl' })
  const send = el('button', { class: 'button', type: 'submit' }, operation.streams ? 'Open the stream' : 'Send')
  const stop = el('button', { class: 'button quiet', type: 'button', hidden: true, onclick: () => running?.abort() }, 'Stop')
  const status = el('p', { class: 'status', role: 'status' })
  const answer = el('div', { class: 'answer' })
  let running = null

  const read = () => requestFrom(operation, fields, body)
  const showCommand = () => command.setCode(curlFor(read(), operation.streams))
  const submit = async (event) => {
    event.preventDefault()
    running?.abort(AGAIN)
    const life = new AbortController()
    running = life
    stop.hidden = false
    answer.replaceChildren()
    setText(status, 'Asking …')
    await exchange({ request: read(), signal: life.signal, status, answer })
    if (running === life) stop.hidden = true
  }
  const form = el('form', { class: 'try', onsubmit: submit, oninput: showCommand },
    fields.map((field) => field.element), body?.element, command,
    el('div', { class: 'buttons' }, send, stop), status, answer)
  showCommand()
  return form
}

// The form

function fieldFor(parameter, schema) {
  const example = parameter.example ?? schema.examples?.[0]
  const isFilters = schema.type === 'object'
  const placeholder = isFilters ? new URLSearchParams(example).toString() : [example ?? ''].flat().join(',')
  const choices = schema.enum ?? (schema.type === 'boolean' ? ['true', 'false'] : null)
  const input = choices
    ? el('select', {}, ['', ...choices].map((value) => el('option', {}, String(value))))
    : el('input', { placeholder, required: parameter.required, list: parameter.name === 'channel' ? 'channel-names' : null, autocomplete: 'off', spellcheck: 'false' })
  if (parameter.required && !choices) input.value = placeholder
  const element = el('label', {}, el('span', {}, el('code', {}, parameter.name), el('small', {}, ` ${parameter.in}${parameter.required ? ', required' : ''}`)), input)
  return { parameter, isFilters, element, input }
}

function bodyField({ body }) {
  const input = el('textarea', { rows: '3', spellcheck: 'false' })
  input.value = JSON.stringify(body.example ?? {})
  return { input, type: body.type, element: el('label', {}, el('span', {}, 'Body', el('small', {}, ` ${body.type}`)), input) }
}

function requestFrom({ method, path, server }, fields, body) {
  const query = []
  const headers = {}
  let address = path
  for (const { parameter, isFilters, input } of fields) {
    const value = input.value.trim()
    if (parameter.in === 'path') address = address.replace(`{${parameter.name}}`, encodeURIComponent(value))
    else if (value === '') continue
    else if (parameter.in === 'header') headers[parameter.name] = value
    else if (isFilters) query.push(new URLSearchParams(value).toString())
    else query.push(`${encodeURIComponent(parameter.name)}=${encodeURIComponent(value)}`)
  }
  if (body !== null) headers['Content-Type'] = body.type
  const url = new URL(server + address + (query.length > 0 ? `?${query.join('&')}` : ''), location.href).href
  return { method: method.toUpperCase(), url, headers, body: body?.input.value }
}

function curlFor({ method, url, headers, body }, streams) {
  const flag = { GET: streams ? ' -N' : ' -i', HEAD: ' -I' }[method] ?? ` -i -X ${method}`
  const parts = Object.entries(headers).map(([name, value]) => ` -H ${quoted(`${name}: ${value}`)}`)
  return `curl${flag} ${quoted(url)}${parts.join('')}${body === undefined ? '' : ` -d ${quoted(body)}`}`
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`
}

// The exchange

async function exchange({ request: { url, ...init }, signal, status, answer }) {
  const startedAt = performance.now()
  try {
    // no-store: the browser's own cache would answer, or turn a 304 into a 200
    const response = await fetch(url, { ...init, signal, cache: 'no-store' })
    const tookMs = Math.round(performance.now() - startedAt)
    setText(status, `${response.status} ${response.statusText} in ${tookMs} ms`)
    status.dataset.kind = response.ok || response.status === 304 ? 'good' : 'bad'
    answer.append(headersOf(response))
    if (/^text\/event-stream/.test(response.headers.get('Content-Type') ?? '')) await follow(response, { status, answer })
    else await showBody(response, answer)
  } catch (error) {
    if (error === AGAIN) return
    status.dataset.kind = error.name === 'AbortError' ? '' : 'bad'
    setText(status, error.name === 'AbortError' ? 'Stopped.' : `No answer: ${error.message}`)
  }
}

function headersOf(response) {
  const present = SHOWN_HEADERS.filter((name) => response.headers.has(name))
  return el('dl', { class: 'headers' }, present.flatMap((name) => [el('dt', {}, name), el('dd', {}, response.headers.get(name))]))
}

async function showBody(response, answer) {
  const text = await response.text()
  if (text === '') return answer.append(el('p', {}, 'No body.'))
  const isJson = /json/.test(response.headers.get('Content-Type') ?? '')
  const pretty = isJson ? prettyJson(text) : text
  answer.append(codeBlock(pretty.slice(0, MOST_CHARACTERS), { language: isJson ? 'json' : '', label: 'Copy the body' }))
  if (pretty.length > MOST_CHARACTERS) answer.append(el('p', {}, `… and ${pretty.length - MOST_CHARACTERS} characters more.`))
}

async function follow(response, { status, answer }) {
  const list = el('ol', { class: 'events', tabindex: '0', 'aria-label': 'Events' })
  const counter = el('p', {}, 'No events yet.') // not the status: a screen reader should not hear every event counted
  let count = 0
  answer.append(counter, list)
  await readEvents(response.body, (event) => {
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40 // do not pull a reader away
    count += 1
    list.append(showEvent(event))
    if (list.children.length > MOST_EVENTS) list.firstElementChild.remove()
    if (atEnd) list.scrollTop = list.scrollHeight
    setText(counter, `${count} ${count === 1 ? 'event' : 'events'} so far`)
  })
  setText(status, `The server ended the stream after ${count} events.`)
}

function showEvent({ event, id, retry, data, comment }) {
  const facts = [event || (data === undefined ? '' : 'message'), id && `id ${id}`, retry && `retry ${retry}`, comment !== undefined && `: ${comment}`]
  return el('li', {},
    el('p', {}, el('time', {}, new Date().toLocaleTimeString()), ' ', facts.filter(Boolean).join(' · ')),
    data === undefined ? null : el('pre', {}, el('code', {}, colourJson(data.slice(0, MOST_CHARACTERS)))))
}

function prettyJson(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2)
  } catch {
    return text // cut short, or not JSON after all: show what came
  }
}
