/**
 * Rows as PostgreSQL rendered them become rows as the contract promises them. Pure text work: values are never parsed into
 * JavaScript, so every digit and byte survives, and most rows need nothing done to them.
 */
import type { ChannelDefinition, ColumnDefinition, Conversion } from '../contract/change.ts'

/** What to do with each member of a rendered row, by its name as JSON. Null: every member is as it should be. */
export type RowPlan = ReadonlyMap<string, Conversion> | null

/** For rows of a state, which hold what is published. */
export function planState({ columns }: ChannelDefinition): RowPlan {
  return columns.every(({ conversion }) => conversion === 'none') ? null : planOf(columns)
}

/** For rows of the log, which may hold more than this channel publishes. */
export function planRow(channel: ChannelDefinition): RowPlan {
  const published = new Set(channel.columns.map(({ name }) => name))
  const isWhole = channel.table.columns.every(({ name, isCaptured }) => published.has(name) || !isCaptured)
  return isWhole ? planState(channel) : planOf(channel.columns)
}

function planOf(columns: readonly ColumnDefinition[]): RowPlan {
  return new Map(columns.map(({ name, conversion }) => [JSON.stringify(name), conversion]))
}

/** A row, or a key (`{"id":7,…}`), as published: visible columns, exact values. */
export function dress(plan: RowPlan, raw: string): string {
  const text = oneLine(raw)
  if (plan === null) return text
  let dressed = ''
  // What is as it should be is taken over in one piece with what follows it.
  let kept = 1
  let at = 1
  while (text.charCodeAt(at) === QUOTE) {
    const nameEnd = endOfString(text, at)
    const valueEnd = endOfValue(text, nameEnd + 1)
    const conversion = plan.get(text.slice(at, nameEnd))
    if (conversion !== 'none') {
      dressed += text.slice(kept, at)
      if (conversion !== undefined) dressed += `${text.slice(at, nameEnd + 1)}${convert(text.slice(nameEnd + 1, valueEnd), conversion)},`
      kept = valueEnd + 1
    }
    at = valueEnd + 1
  }
  if (kept === 1) return text
  dressed += text.slice(kept, text.length - 1)
  return `{${dressed.endsWith(',') ? dressed.slice(0, -1) : dressed}}`
}

export function upsert(key: string, row: string): string {
  return `{"op":"upsert","key":${key},"row":${row}}`
}

export function deletion(key: string): string {
  return `{"op":"delete","key":${key}}`
}

/** Finds the raw JSON values of some columns in a rendered row, in the order asked; undefined where there is none. */
export type Picker = (raw: string) => readonly (string | undefined)[]

export function pickerOf(names: readonly string[]): Picker {
  const wanted = names.map((name) => JSON.stringify(name))
  return (raw) => {
    const values: (string | undefined)[] = wanted.map(() => undefined)
    let missing = wanted.length
    for (let at = 1; missing > 0 && raw.charCodeAt(at) === QUOTE;) {
      const nameEnd = endOfString(raw, at)
      const valueEnd = endOfValue(raw, nameEnd + 1)
      const index = indexOfName(wanted, raw, at, nameEnd)
      if (index >= 0) {
        values[index] = raw.slice(nameEnd + 1, valueEnd)
        missing -= 1
      }
      at = valueEnd + 1
    }
    return values
  }
}

function indexOfName(names: readonly string[], raw: string, start: number, end: number): number {
  for (let index = 0; index < names.length; index += 1) {
    const name = names[index] ?? ''
    if (name.length === end - start && raw.startsWith(name, start)) return index
  }
  return -1
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
export function oneLine(raw: string): string {
  return raw.includes('\n') || raw.includes('\r') ? raw.replace(/[\r\n]+/g, ' ') : raw
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
    case 'quote-numbers': return value.startsWith('[') ? value.replace(STRING_OR_NUMBER, (token) => token.startsWith('"') ? token : `"${token}"`) : quoteNumber(value)
    case 'base64': return value.replace(/"\\\\x([0-9a-f]*)"/g, (_, hex: string) => `"${Buffer.from(hex, 'hex').toString('base64')}"`)
    default: return conversion satisfies never
  }
}

function quoteNumber(value: string): string {
  return value.startsWith('"') || value === 'null' ? value : `"${value}"`
}
