// Any channel as a live table. It shows 200 rows at most, however many there are: in the order of the key while
// all of them fit, else those that changed last. A row that changes flashes once.
import { el, setText } from './dom.js'

const MOST_ROWS = 200
const NUMBERS = /^(smallint|integer|bigint|numeric|real|double|money|int|float)/

export class TableView {
  #columns
  #key
  #body = el('tbody')
  #note = el('p', { class: 'rows-note', 'data-testid': 'rows-note' })
  #lines = new Map() // key text → { line, cells, row }

  constructor({ name, columns, key }) {
    this.#columns = columns.map((column) => ({ ...column, numeric: NUMBERS.test(column.type) }))
    this.#key = key
    const heads = this.#columns.map(({ name, type, numeric }) =>
      el('th', { scope: 'col', class: numeric ? 'numeric' : null }, name, el('small', {}, type)))
    const table = el('table', {}, el('caption', { class: 'visually-hidden' }, `Rows of ${name}`), el('thead', {}, el('tr', {}, heads)), this.#body)
    const scroller = el('div', { class: 'rows', tabindex: '0', role: 'region', 'aria-label': `Rows of ${name}` }, table)
    this.element = el('div', {}, scroller, this.#note)
  }

  draw(rows, { reset, changed }) {
    const shown = rows.size <= MOST_ROWS ? this.#byKey([...rows]) : [...rows].slice(-MOST_ROWS).reverse()
    const keys = new Set(shown.map(([key]) => key))
    for (const [key, { line }] of this.#lines) if (!keys.has(key)) this.#drop(key, line)
    shown.forEach(([key, row], index) => this.#drawRow(key, row, { index, flash: !reset && changed.has(key) }))
    setText(this.#note, noteOf(rows.size))
    return { name: 'Rows', value: String(rows.size), spoken: `${rows.size} rows, ${changed.size} just changed.` }
  }

  #drawRow(key, row, { index, flash }) {
    const held = this.#lines.get(key) ?? this.#create(key)
    if (held.row !== row) this.#columns.forEach((column, at) => fillCell(held.cells[at], row[column.name]))
    held.row = row
    if (this.#body.children[index] !== held.line) this.#body.insertBefore(held.line, this.#body.children[index] ?? null)
    if (flash) flashOnce(held.line)
  }

  #create(key) {
    const cells = this.#columns.map(({ numeric }) => el('td', { class: numeric ? 'numeric' : null }))
    const held = { line: el('tr', {}, cells), cells, row: null }
    this.#lines.set(key, held)
    return held
  }

  #drop(key, line) {
    line.remove()
    this.#lines.delete(key)
  }

  #byKey(entries) {
    const compare = (a, b) => {
      for (const column of this.#key) {
        const order = compareValues(a[1][column], b[1][column])
        if (order !== 0) return order
      }
      return 0
    }
    return entries.sort(compare)
  }
}

// Exact numbers travel as strings: "10" must still come after "9".
function compareValues(a, b) {
  const difference = Number(a) - Number(b)
  if (!Number.isNaN(difference)) return difference
  return String(a) < String(b) ? -1 : Number(String(a) > String(b))
}

function fillCell(cell, value) {
  const text = value === null || value === undefined ? 'null' : typeof value === 'object' ? JSON.stringify(value) : String(value)
  cell.classList.toggle('null', value === null)
  if (cell.textContent === text) return
  cell.textContent = text
  cell.title = text.length > 40 ? text : ''
}

function flashOnce(line) {
  line.classList.remove('flash')
  void line.offsetWidth // restarts the animation; without it a second change in a row goes unseen
  line.classList.add('flash')
}

function noteOf(size) {
  if (size === 0) return 'No rows yet.'
  return size <= MOST_ROWS ? '' : `The ${MOST_ROWS} rows that changed last, and ${size - MOST_ROWS} more.`
}
