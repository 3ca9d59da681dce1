import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { ChannelDefinition, ColumnDefinition, Conversion } from '../../src/contract/change.ts'
import { deletion, dress, pickerOf, planRow, planState, splitChanges, upsert } from '../../src/hub/render.ts'
import { column } from '../support/model.ts'

interface Cell {
  readonly conversion: Conversion
  /** As row_to_json writes it. */
  readonly raw: string
  /** What a client must get out of JSON.parse. */
  readonly value: unknown
}

/** A channel that publishes some of the columns of its table: those of the log. */
function channelOf(published: readonly Defined[], captured = published): ChannelDefinition {
  const definitions = captured.map(({ name, conversion }) => column(name, 'text', conversion))
  return {
    name: 'c', columns: definitions.filter(({ name }) => published.some((column) => column.name === name)), filters: [], isPublic: true,
    table: { id: 1, name: 'public.c', isPartitioned: false, keyColumns: [], parked: null, columns: definitions },
  }
}

type Defined = Pick<ColumnDefinition, 'name' | 'conversion'>

/** A JSON string as PostgreSQL escapes it: the short escapes, \u00XX for other control characters, all else as it is. */
function pgString(text: string): string {
  return `"${text.replace(/["\\]/g, '\\$&').replaceAll('\b', '\\b').replaceAll('\f', '\\f').replaceAll('\n', '\\n').replaceAll('\r', '\\r').replaceAll('\t', '\\t')
    .replace(/[\u0000-\u001f]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)}"`
}

const TEXT = fc.string({ unit: 'binary', maxLength: 12 }).filter((text) => Buffer.from(text).toString() === text)
const TRICKY = fc.constantFrom('"', '\\', '\\"', '},{', '":"', '\n', 'a\\\\"b', '{"op":', '\u0000', '\u2028', '😀', '[1,2]', ',')
const ANY_TEXT = fc.oneof(TEXT, TRICKY, fc.tuple(TRICKY, TEXT, TRICKY).map((parts) => parts.join('')))

const DIGITS = fc.stringMatching(/^-?[1-9][0-9]{0,30}(\.[0-9]{1,10})?$/)

/** A json column keeps its spaces and line breaks as they were written. */
const JSON_COLUMN = fc.tuple(fc.jsonValue({ maxDepth: 3 }), fc.constantFrom('', ' ', '\n  ', '\r\n\t'))
  .map(([value, space]): Cell => {
    const raw = JSON.stringify(value, null, space === '' ? undefined : 2).replaceAll('\n', space === '' ? '\n' : space)
    return { conversion: 'none', raw, value: JSON.parse(raw) as unknown }
  })

const CELL: fc.Arbitrary<Cell> = fc.oneof(
  ANY_TEXT.map((text): Cell => ({ conversion: 'none', raw: pgString(text), value: text })),
  fc.constantFrom<Cell>({ conversion: 'none', raw: 'null', value: null }, { conversion: 'quote-numbers', raw: 'null', value: null }, { conversion: 'base64', raw: 'null', value: null },
    { conversion: 'none', raw: 'true', value: true }, { conversion: 'none', raw: '1e+20', value: 1e20 }, { conversion: 'quote-numbers', raw: '"NaN"', value: 'NaN' }),
  fc.integer().map((number): Cell => ({ conversion: 'none', raw: String(number), value: number })),
  DIGITS.map((digits): Cell => ({ conversion: 'quote-numbers', raw: digits, value: digits })),
  fc.array(fc.oneof(DIGITS, fc.constantFrom('null', '"NaN"', '"Infinity"')), { maxLength: 4 })
    .map((items): Cell => ({ conversion: 'quote-numbers', raw: `[${items.join(',')}]`, value: items.map((item) => item === 'null' ? null : item.replaceAll('"', '')) })),
  fc.uint8Array({ maxLength: 20 }).map((bytes): Cell => ({ conversion: 'base64', raw: `"\\\\x${Buffer.from(bytes).toString('hex')}"`, value: Buffer.from(bytes).toString('base64') })),
  fc.array(fc.uint8Array({ maxLength: 4 }), { maxLength: 3 }).map((items): Cell => ({
    conversion: 'base64', raw: `[${items.map((bytes) => `"\\\\x${Buffer.from(bytes).toString('hex')}"`).join(',')}]`, value: items.map((bytes) => Buffer.from(bytes).toString('base64')),
  })),
  JSON_COLUMN,
)

/** Columns in their order, each perhaps unknown to the channel; the first known one is the key. */
const ROW = fc.uniqueArray(fc.tuple(ANY_TEXT, CELL, fc.integer({ min: 0, max: 4 })), { selector: ([name]) => name, minLength: 1, maxLength: 6 })
  .map((cells) => cells.map(([name, cell, dice], index) => ({ name, ...cell, isKnown: index === 0 || dice > 0 })))

describe('a rendered row', () => {
  it('holds what PostgreSQL holds: numbers exact in quotes, bytes in base64, json as it was, unknown columns left out', () => {
    fc.assert(fc.property(ROW, (cells) => {
      const raw = `{${cells.map(({ name, raw: value }) => `${pgString(name)}:${value}`).join(',')}}`
      const known = cells.filter(({ isKnown }) => isKnown)
      const row = dress(planRow(channelOf(known, cells)), raw)
      // Compared as entries: a column may be called __proto__.
      expect(entriesOf(row)).toEqual(known.map(({ name, value }) => [name, value]))
      expect(row).not.toMatch(/[\r\n]/)
    }), { seed: 11, numRuns: 2_000 })
  })

  it('keeps text byte for byte', () => {
    const plan = planRow(channelOf([{ name: 't', conversion: 'none' }]))
    const raw = String.raw`{"t":"a\"},{\"b\\ \u0001 / é 😀"}`
    expect(dress(plan, raw)).toBe(raw)
  })

  it('is one line, though a json column has many', () => {
    const plan = planRow(channelOf([{ name: 'j', conversion: 'none' }]))
    const raw = '{"j":{\r\n  "a": "x\\ny"\r}}'
    expect([dress(plan, raw), dress(null, raw)]).toEqual(Array(2).fill('{"j":{   "a": "x\\ny" }}'))
  })

  it('is left as it is where PostgreSQL has written all of it as published, and dressed where it could not', () => {
    const [n, b] = [{ name: 'n', conversion: 'none' }, { name: 'b', conversion: 'base64' }] as const
    const raw = String.raw`{"n":"9007199254740993","b":"\\x00ff"}`
    expect([planState(channelOf([n])), planRow(channelOf([n]))]).toEqual([null, null])
    expect([planState(channelOf([n, b])), planRow(channelOf([n, b]))].map((plan) => dress(plan, raw))).toEqual(Array(2).fill('{"n":"9007199254740993","b":"AP8="}'))
    // A state holds what is published, the log also what another channel of the table does.
    expect([planState(channelOf([n], [n, b])), dress(planRow(channelOf([n], [n, b])), raw)]).toEqual([null, '{"n":"9007199254740993"}'])
    const { table, ...channel } = channelOf([n], [n, b])
    expect(planRow({ ...channel, table: { ...table, columns: table.columns.map((column) => ({ ...column, isCaptured: column.name === 'n' })) } })).toBeNull()
  })

  it('quotes the numbers of a key, in the order of the key', () => {
    const plan = planRow(channelOf([{ name: 'a', conversion: 'none' }, { name: 'b', conversion: 'quote-numbers' }]))
    expect(dress(plan, '{"b":9007199254740993,"a":1}')).toBe('{"b":"9007199254740993","a":1}')
  })

  it('is found by the names of its columns as they are written', () => {
    const raw = `{${pgString('a"b')}:1,${pgString('é')}:"x"}`
    expect(pickerOf(['é', 'a"b', 'missing'])(raw)).toEqual(['"x"', '1', undefined])
  })
})

describe('changes written one after another', () => {
  it('can be told apart again, whatever their text contains', () => {
    fc.assert(fc.property(fc.array(fc.tuple(ANY_TEXT, fc.jsonValue({ maxDepth: 3 }), fc.boolean()), { maxLength: 8 }), (items) => {
      const changes = items.map(([text, value, isDelete]) => {
        const key = `{"id":${pgString(text)}}`
        return isDelete ? deletion(key) : upsert(key, `{"id":${pgString(text)},"j":${JSON.stringify(value)}}`)
      })
      expect(splitChanges(changes.join(','))).toEqual(changes)
    }), { seed: 12, numRuns: 1_000 })
  })
})

function entriesOf(json: string): readonly (readonly [string, unknown])[] {
  return Object.entries(JSON.parse(json) as Record<string, unknown>)
}
