/**
 * Rows as PostgreSQL rendered them become rows as the contract promises them. Pure text work: values are never parsed into
 * JavaScript, so every digit and byte survives. Unknown columns are left out until the catalog is read again.
 */
import type { ChannelDefinition, Conversion } from '../contract/change.ts'

/** What to do with each member of a rendered row, by its name as JSON. */
export interface RowPlan {
  readonly members: ReadonlyMap<string, Conversion>
  /** Names of the key columns as JSON, in the order of the key. */
  readonly key: readonly string[]
}

export function planRow({ columns, table }: ChannelDefinition): RowPlan {
  return {
    members: new Map(columns.map(({ name, conversion }) => [JSON.stringify(name), conversion])),
    key: table.keyColumns.map((name) => JSON.stringify(name)),
  }
}

export interface DressedRow {
  readonly row: string
  readonly key: string
}

/** A row of the table (`{"id":7,…}`, from row_to_json) as published: visible columns, exact values, its key beside it. */
export function dressRow(plan: RowPlan, raw: string): DressedRow {
  const key = new Map<string, string>()
  let row = ''
  forEachMember(oneLine(raw), (name, value) => {
    const conversion = plan.members.get(name)
    if (conversion === undefined) return
    const member = `${name}:${convert(value, conversion)}`
    row += row === '' ? member : `,${member}`
    if (plan.key.includes(name)) key.set(name, member)
  })
  return { row: `{${row}}`, key: `{${plan.key.map((name) => key.get(name) ?? `${name}:null`).join(',')}}` }
}

/** A key as logged, as published. */
export function dressKey(plan: RowPlan, raw: string): string {
  return dressRow(plan, raw).row
}

export function upsert({ row, key }: DressedRow): string {
  return `{"op":"upsert","key":${key},"row":${row}}`
}

export function deletion(key: string): string {
  return `{"op":"delete","key":${key}}`
}

/** The raw JSON values of some columns of a rendered row, in the order asked; undefined where there is none. */
export function pickValues(raw: string, names: readonly string[]): readonly (string | undefined)[] {
  const wanted = new Map(names.map((name, index) => [JSON.stringify(name), index]))
  const values: (string | undefined)[] = names.map(() => undefined)
  forEachMember(raw, (name, value) => {
    const index = wanted.get(name)
    if (index !== undefined) values[index] = value
  })
  return values
}

/** The changes inside a `changes` array, one by one. */
export function splitChanges(text: string): string[] {
  const changes: string[] = []
  for (let at = 0; at < text.length;) {
    const end = endOfValue(text, at)
    changes.push(text.slice(at, end))
    at = end + 1
  }
  return changes
}

/** A json column keeps its line breaks, which end a line of an event stream; outside strings they mean nothing. */
function oneLine(raw: string): string {
  return raw.includes('\n') || raw.includes('\r') ? raw.replace(/[\r\n]+/g, ' ') : raw
}

/** Walks the members of one JSON object; names and values as they are written. */
function forEachMember(text: string, visit: (name: string, value: string) => void): void {
  let at = 1
  while (text[at] === '"') {
    const nameEnd = endOfString(text, at)
    const valueEnd = endOfValue(text, nameEnd + 1)
    visit(text.slice(at, nameEnd), text.slice(nameEnd + 1, valueEnd))
    at = valueEnd + 1
  }
}

/** The index after the closing quote of the string that opens at `start`. */
function endOfString(text: string, start: number): number {
  let at = start + 1
  for (;;) {
    const quote = text.indexOf('"', at)
    if (quote < 0) return text.length
    let backslashes = 0
    while (text.charCodeAt(quote - 1 - backslashes) === BACKSLASH) backslashes += 1
    at = quote + 1
    if (backslashes % 2 === 0) return at
  }
}

const QUOTE = 0x22
const COMMA = 0x2c
const OPEN_BRACKET = 0x5b
const BACKSLASH = 0x5c
const CLOSE_BRACKET = 0x5d
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d

/** The index of the comma or brace that ends the value beginning at `start`. */
function endOfValue(text: string, start: number): number {
  let depth = 0
  for (let at = start; at < text.length; at += 1) {
    switch (text.charCodeAt(at)) {
      case QUOTE: at = endOfString(text, at) - 1; break
      case OPEN_BRACE: case OPEN_BRACKET: depth += 1; break
      case CLOSE_BRACKET: depth -= 1; break
      case CLOSE_BRACE:
        if (depth === 0) return at
        depth -= 1
        break
      case COMMA:
        if (depth === 0) return at
    }
  }
  return text.length
}

const STRING_OR_NUMBER = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g

function convert(value: string, conversion: Conversion): string {
  switch (conversion) {
    case 'none': return value
    case 'quote-numbers': return value.replace(STRING_OR_NUMBER, (token) => token.startsWith('"') ? token : `"${token}"`)
    case 'base64': return value.replace(/"\\\\x([0-9a-f]*)"/g, (_, hex: string) => `"${Buffer.from(hex, 'hex').toString('base64')}"`)
    default: return conversion satisfies never
  }
}
