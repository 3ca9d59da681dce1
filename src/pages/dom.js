// Makes elements. Text is always a text node: nothing that came over the wire is ever parsed as HTML.

/** `el('a', { href, class, 'data-testid': … , onclick }, 'text', child, [more])` */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value)
    else element.setAttribute(key, value === true ? '' : value)
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false))
  return element
}

/** Writes only what differs, so that a selection in unchanged text survives. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/** A button that copies `text()` and says so, to the eye and to a screen reader. */
export function copyButton(text, what = 'Copy') {
  const button = el('button', { type: 'button', class: 'copy', 'aria-label': what }, 'Copy')
  const said = el('span', { class: 'visually-hidden', role: 'status' })
  let timer = 0
  button.addEventListener('click', async () => {
    const done = await copy(text())
    button.textContent = done ? 'Copied' : 'Select and copy'
    said.textContent = done ? 'Copied' : 'The browser did not allow copying'
    clearTimeout(timer)
    timer = setTimeout(() => {
      button.textContent = 'Copy'
      said.textContent = ''
    }, 1_800)
  })
  return [button, said]
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    return copyTheOldWay(text) // the clipboard API exists on https and localhost only; a stage laptop may be neither
  }
}

function copyTheOldWay(text) {
  const area = el('textarea', { class: 'visually-hidden', 'aria-hidden': true })
  const focused = document.activeElement
  area.value = text
  document.body.append(area)
  area.select()
  const done = document.execCommand('copy')
  area.remove()
  focused?.focus()
  return done
}

/** A block of code with a copy button. JSON is coloured, shell commands wrap; `setCode` changes the code later. */
export function codeBlock(code, { language = '', label = 'Copy' } = {}) {
  const content = el('code')
  const pre = el('pre', { tabindex: '0' }, content)
  const block = el('div', { class: language === 'shell' ? 'code wraps' : 'code' }, pre, copyButton(() => content.textContent, label))
  block.setCode = (text) => content.replaceChildren(...(language === 'json' ? colourJson(text) : [text]))
  block.setCode(code)
  return block
}

const JSON_TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(true|false|null)\b|(-?\b\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)/g

/** JSON text as nodes, with keys, strings, numbers and words marked. */
export function colourJson(text) {
  const nodes = []
  let end = 0
  for (const match of text.matchAll(JSON_TOKEN)) {
    const [, string, colon, word] = match
    const kind = string ? (colon ? 'key' : 'string') : word ? 'word' : 'number'
    nodes.push(text.slice(end, match.index), el('span', { class: `json-${kind}` }, string ?? match[0]), colon ?? '')
    end = match.index + match[0].length
  }
  nodes.push(text.slice(end))
  return nodes
}
