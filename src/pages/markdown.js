// The part of Markdown that API descriptions use, as DOM nodes: headings, paragraphs, lists, tables, code (fenced
// and indented), `code`, **strong**, *emphasis* and links. HTML in the text stays text.
import { codeBlock, el } from './dom.js'

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\(([^)\s]+)\)/g
const SAFE_URL = /^(https?:\/\/|\/|#)/
const ITEM = /^(?:[-*]|\d+\.)\s+/

/** Nodes for `text`; its `#` headings begin at `level`. */
export function markdown(text, level = 3) {
  const lines = (text ?? '').replaceAll('\r\n', '\n').split('\n')
  const nodes = []
  while (lines.length > 0) {
    if (lines[0].trim() === '') lines.shift()
    else nodes.push(takeBlock(lines, level))
  }
  return nodes
}

/** Nodes for text within a line. */
export function inline(text) {
  const nodes = []
  let end = 0
  for (const match of text.matchAll(INLINE)) {
    const [, code, strong, emphasis, label, url] = match
    nodes.push(text.slice(end, match.index))
    if (code !== undefined) nodes.push(el('code', {}, code))
    else if (strong !== undefined) nodes.push(el('strong', {}, inline(strong)))
    else if (emphasis !== undefined) nodes.push(el('em', {}, inline(emphasis)))
    else nodes.push(SAFE_URL.test(url) ? el('a', { href: url }, label) : label)
    end = match.index + match[0].length
  }
  nodes.push(text.slice(end))
  return nodes
}

function takeBlock(lines, level) {
  const [line] = lines
  const heading = /^(#{1,4})\s+(.*)$/.exec(line)
  if (heading !== null) {
    lines.shift()
    return el(`h${Math.min(6, level + Math.max(0, heading[1].length - 2))}`, {}, inline(heading[2]))
  }
  if (line.startsWith('```')) return takeFence(lines)
  if (line.startsWith('    ')) return codeOf(takeWhile(lines, (next) => next.startsWith('    ') || next.trim() === '').map((next) => next.slice(4)))
  if (line.startsWith('|')) return tableOf(takeWhile(lines, (next) => next.startsWith('|')))
  if (ITEM.test(line)) return listOf(takeWhile(lines, (next) => ITEM.test(next) || /^\s+\S/.test(next)))
  return el('p', {}, inline(takeWhile(lines, (next) => next.trim() !== '' && !ITEM.test(next) && !next.startsWith('```')).join(' ')))
}

function takeWhile(lines, belongs) {
  let count = 1
  while (count < lines.length && belongs(lines[count])) count += 1
  return lines.splice(0, count)
}

function takeFence(lines) {
  lines.shift()
  const end = lines.findIndex((next) => next.startsWith('```'))
  const code = lines.splice(0, end < 0 ? lines.length : end)
  lines.shift()
  return codeOf(code)
}

function codeOf(lines) {
  const code = lines.join('\n').trimEnd()
  return codeBlock(code, { language: code.startsWith('curl ') ? 'shell' : '' })
}

function listOf(lines) {
  const items = []
  for (const line of lines) {
    if (ITEM.test(line)) items.push(line.replace(ITEM, ''))
    else items[items.length - 1] += ` ${line.trim()}`
  }
  return el(/^\d/.test(lines[0]) ? 'ol' : 'ul', {}, items.map((item) => el('li', {}, inline(item))))
}

function tableOf(lines) {
  const rows = lines.map((line) => line.replace(/^\||\|\s*$/g, '').split('|').map((cell) => cell.trim()))
  const [head, , ...body] = rows
  return el('div', { class: 'wide', tabindex: '0' }, el('table', {},
    el('thead', {}, el('tr', {}, head.map((cell) => el('th', { scope: 'col' }, inline(cell))))),
    el('tbody', {}, body.map((row) => el('tr', {}, row.map((cell) => el('td', {}, inline(cell))))))))
}
