// The reference page: loads the contract from /openapi.json and shows all of it. Navigation, search and deep links
// work on sections that register themselves, so that nothing shown can be missing from them.
import { codeBlock, el, setText } from './dom.js'
import { operationsOf, showOperation, wordsOf } from './docs-operation.js'
import { showSchema } from './docs-schema.js'
import { inline, markdown } from './markdown.js'

const byId = (id) => document.getElementById(id)
const reference = byId('reference')
const contents = byId('contents')
const search = byId('search')
const entries = [] // { element, link, words, group }

function main() {
  for (const sample of document.querySelectorAll('pre[data-language]')) {
    sample.replaceWith(codeBlock(sample.textContent.replaceAll('ORIGIN', location.origin), { language: sample.dataset.language }))
  }
  for (const section of document.querySelectorAll('[data-title]')) register(section, section.dataset.title, byId('contents-start'))
  listenToKeys()
  addEventListener('hashchange', goToHash)
  load()
}

async function load() {
  try {
    const response = await fetch('/openapi.json')
    if (!response.ok) throw new Error(`the server answered ${response.status}`)
    show(await response.json())
  } catch (error) {
    const again = el('button', { class: 'button', type: 'button', onclick: load }, 'Try again')
    reference.replaceChildren(el('p', { role: 'alert' }, `The contract could not be loaded: ${error.message}. `), again)
  }
}

function show(spec) {
  setText(byId('edition'), `API ${spec.info?.version ?? ''}`)
  reference.replaceChildren()
  showGuide(spec)
  for (const [tag, operations] of byTag(operationsOf(spec))) {
    const described = spec.tags?.find(({ name }) => name === tag)
    const section = chapter(tag, `tag-${tag}`, described?.description)
    const group = navigation(tag)
    for (const operation of operations) {
      const element = showOperation(spec, operation)
      section.append(element)
      register(element, operation.minor ? null : operation.summary, group, wordsOf(operation), operation.method)
    }
  }
  showProblems(spec)
  showSchemas(spec)
  watchScrolling()
  offerChannels()
  goToHash()
}

function byTag(operations) {
  const groups = new Map()
  for (const operation of operations) groups.set(operation.tag, [...(groups.get(operation.tag) ?? []), operation])
  return groups
}

function showGuide({ info }) {
  if (!info?.description) return
  const section = chapter('The contract', 'guide', null)
  section.append(el('div', { class: 'prose' }, markdown(info.description, 3)))
  register(section, 'The contract', byId('contents-start'))
}

// The `type` of every problem points here: /docs#unknown_channel.
function showProblems(spec) {
  const problems = problemsOf(spec)
  if (problems.length === 0) return
  const section = chapter('Problems', 'problems', 'Every error is `application/problem+json`. Its `type` leads to its line here; its `code` never changes.')
  const rows = problems.map(({ code, status, title, hint }) => el('tr', { id: code, tabindex: '-1' },
    el('td', {}, el('a', { class: 'anchor', href: `#${code}` }, el('code', {}, code))),
    el('td', {}, String(status ?? '')), el('td', {}, inline(title ?? '')), el('td', {}, inline(hint ?? ''))))
  section.append(el('div', { class: 'wide', tabindex: '0' }, el('table', {},
    el('thead', {}, el('tr', {}, ['Code', 'Status', 'What it is', 'What to do'].map((head) => el('th', { scope: 'col' }, head)))),
    el('tbody', {}, rows))))
  register(section, 'Problems', navigation('Reference'), problems.map((problem) => Object.values(problem).join(' ')).join(' ').toLowerCase())
}

// A contract without the table still has its codes, and examples of most of them.
function problemsOf(spec) {
  if (spec.info?.['x-problems']) return spec.info['x-problems']
  const examples = Object.values(spec.components?.responses ?? {})
    .flatMap(({ content }) => Object.values(content?.['application/problem+json']?.examples ?? {}))
  const codes = spec.components?.schemas?.ProblemCode?.enum ?? []
  return codes.map((code) => ({ code, ...examples.find(({ value }) => value?.code === code)?.value }))
}

function showSchemas(spec) {
  const section = chapter('Schemas', 'schemas', null)
  const group = navigation('Schemas')
  for (const [name, schema] of Object.entries(spec.components?.schemas ?? {})) {
    const id = `schema-${name}`
    const element = el('article', { class: 'schema', id, tabindex: '-1' }, el('h3', {}, el('a', { class: 'anchor', href: `#${id}` }, name)), showSchema(schema))
    section.append(element)
    register(element, name, group, `${name} ${schema.description ?? ''} ${Object.keys(schema.properties ?? {}).join(' ')}`.toLowerCase())
  }
}

function chapter(title, id, description) {
  const section = el('section', { class: 'chapter', id, tabindex: '-1' }, el('h2', {}, title), description ? markdown(description) : null)
  reference.append(section)
  return section
}

// Navigation and search

function navigation(title) {
  const list = el('ul')
  contents.append(el('div', { class: 'group' }, el('h2', {}, title), list))
  return list
}

function register(element, title, list, words = '', method = null) {
  const badge = method && el('span', { class: `method ${method}` }, method.toUpperCase())
  const link = title === null ? null : el('a', { href: `#${element.id}` }, badge, el('span', {}, title))
  if (link !== null) list.append(el('li', {}, link))
  entries.push({ element, link, list, words: words || element.textContent.toLowerCase() })
}

function filter() {
  const wanted = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean)
  let found = 0
  for (const { element, link, words } of entries) {
    const fits = wanted.every((word) => words.includes(word))
    found += Number(fits)
    element.hidden = !fits
    if (link !== null) link.parentElement.hidden = !fits
  }
  for (const holder of document.querySelectorAll('.chapter, .group')) {
    const parts = holder.querySelectorAll(holder.matches('.chapter') ? ':scope > article, :scope > details' : 'li')
    if (parts.length > 0) holder.hidden = [...parts].every((part) => part.hidden)
  }
  setText(byId('found'), wanted.length === 0 ? '' : found === 0 ? 'Nothing found.' : `${found} found`)
}

function listenToKeys() {
  search.addEventListener('input', filter)
  addEventListener('keydown', (event) => {
    const typing = event.target.closest?.('input, textarea, select')
    if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault()
      search.focus()
    }
    if (event.target !== search) return
    if (event.key === 'Escape') clearSearch()
    if (event.key === 'Enter') entries.find(({ element, link }) => link !== null && !element.hidden)?.link.click()
  })
}

function clearSearch() {
  search.value = ''
  filter()
}

function goToHash() {
  const target = byId(decodeURIComponent(location.hash.slice(1)))
  document.querySelector('.aimed')?.classList.remove('aimed')
  if (target === null || target === byId('main')) return
  if (target.closest('[hidden]')) clearSearch()
  const closed = target.closest('details')
  if (closed !== null) closed.open = true
  target.classList.add('aimed')
  target.focus({ preventScroll: true })
  target.scrollIntoView()
}

function watchScrolling() {
  const linked = new Map(entries.filter(({ link }) => link !== null).map(({ element, link }) => [element, link]))
  const observer = new IntersectionObserver((changes) => {
    const top = changes.filter(({ isIntersecting }) => isIntersecting)[0]
    if (top === undefined) return
    contents.querySelector('[aria-current]')?.removeAttribute('aria-current')
    const link = linked.get(top.target)
    link.setAttribute('aria-current', 'location')
    // Not scrollIntoView: it would move the page as well.
    const box = contents.closest('nav')
    if (link.offsetTop < box.scrollTop || link.offsetTop > box.scrollTop + box.clientHeight - 60) box.scrollTop = link.offsetTop - box.clientHeight / 2
  }, { rootMargin: '-15% 0px -78% 0px' })
  for (const element of linked.keys()) observer.observe(element)
}

// The forms know the names of the channels, if there are any to know.
async function offerChannels() {
  const response = await fetch('/v1/channels').catch(() => null)
  const { channels = [] } = response?.ok ? await response.json() : {}
  byId('channel-names').replaceChildren(...channels.map(({ name }) => el('option', { value: name })))
}

main()
