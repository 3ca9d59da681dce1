import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { LoggedChange } from '../../src/contract/change.ts'
import { canonicalValue, foldChanges, PartBuilder, WindowRenderer } from '../../src/hub/fold.ts'
import { channel, column, Model, table, windowOf, type ModelRow, type Write } from '../support/model.ts'

const T = table(1)
const CHANNEL = channel('t', T)

function change(order: number, id: number, newRow: object | null, ...old: readonly object[]): LoggedChange {
  return { order: BigInt(order), tableId: 1, key: JSON.stringify({ id }), newRow: newRow && JSON.stringify(newRow), oldFilters: old.map((values) => JSON.stringify(values)) }
}

const WRITE: fc.Arbitrary<Write> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ tableId: fc.constant(1), row: fc.record({ id: fc.integer({ min: 1, max: 6 }), g: fc.constantFrom('a', 'b', 'c'), v: fc.nat(9) }) }) },
  { weight: 1, arbitrary: fc.record({ tableId: fc.constant(1), id: fc.integer({ min: 1, max: 6 }) }) },
)
const COMMITS = fc.array(fc.array(WRITE, { minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 8 })

/**
 * The same commits as versions, numbered in another order where they may be: two that share no key took their ids before
 * they committed, and the later id may have been numbered first.
 */
function reordered(versions: readonly (readonly LoggedChange[])[], swaps: readonly number[]): LoggedChange[][] {
  const order = versions.map((changes) => [...changes])
  for (const swap of swaps) {
    const [first, second] = [order[swap], order[swap + 1]]
    if (first === undefined || second === undefined) continue
    const keys = new Set(first.map(({ key }) => key))
    if (!second.some(({ key }) => keys.has(key))) [order[swap], order[swap + 1]] = [second, first]
  }
  return order
}

function renderedAll(changes: readonly LoggedChange[], filters: Readonly<Record<string, string>> = {}): string {
  const renderer = new WindowRenderer(windowOf(CHANNEL, filters))
  return foldChanges(changes).map((folded) => renderer.change(folded)).filter((text) => text !== null).join(',')
}

/** What a client holds after it has applied rendered changes. */
function applied(before: readonly ModelRow[], text: string): readonly ModelRow[] {
  const rows = new Map(before.map((row) => [row.id, row]))
  for (const { op, key, row } of JSON.parse(`[${text}]`) as { op: string; key: { id: number }; row: ModelRow }[]) {
    if (op === 'upsert') rows.set(key.id, row)
    else rows.delete(key.id)
  }
  return [...rows.values()].sort((a, b) => a.id - b.id)
}

describe('folding', () => {
  it('keeps the last state of each key, in the order of the last states', () => {
    const folded = foldChanges([change(1, 1, { id: 1, v: 1 }), change(2, 2, { id: 2, v: 1 }), change(3, 1, { id: 1, v: 2 })])
    expect(folded.map(({ newRow }) => newRow)).toEqual(['{"id":2,"v":1}', '{"id":1,"v":2}'])
  })

  it('keeps the filter values from before every change', () => {
    const folded = foldChanges([change(1, 1, { id: 1, g: 'b' }, { g: 'a' }), change(2, 1, { id: 1, g: 'c' }, { g: 'b' })])
    expect(folded).toEqual([change(2, 1, { id: 1, g: 'c' }, { g: 'a' }, { g: 'b' })])
  })

  it('tells a reader of the value before also where the change of a nested trigger was logged first', () => {
    // A to B, and in a trigger of that B to C.
    const logged = [change(1, 1, { id: 1, g: 'c', v: 0 }, { g: 'b', v: 0 }), change(2, 1, { id: 1, g: 'c', v: 0 }, { g: 'a', v: 0 })]
    expect(renderedAll(logged, { g: '"a"' })).toBe('{"op":"delete","key":{"id":1}}')
  })

  it('makes a delete of an insert followed by a delete', () => {
    expect(foldChanges([change(1, 1, { id: 1 }), change(2, 1, null, { g: 'a' })])).toEqual([change(2, 1, null, { g: 'a' })])
  })

  it('has no place for a line about a whole table', () => {
    expect(foldChanges([{ order: 1n, tableId: 1, key: null, newRow: 'truncate', oldFilters: [] }])).toEqual([])
  })

  it('of folds is the fold of all', () => {
    fc.assert(fc.property(COMMITS, fc.nat(8), (commits, cut) => {
      const model = new Model([CHANNEL])
      const versions = commits.map((writes) => model.commit(writes).changes ?? [])
      const [before, after] = [versions.slice(0, cut).flat(), versions.slice(cut).flat()]
      expect(foldChanges([...foldChanges(before), ...after])).toEqual(foldChanges([...before, ...after]))
      expect(foldChanges([...foldChanges(before), ...foldChanges(after)])).toEqual(foldChanges([...before, ...after]))
    }), { seed: 1, numRuns: 500 })
  })

  it('gives the same bytes as the log, however the changes were spread over versions', () => {
    fc.assert(fc.property(COMMITS, fc.array(fc.nat(7), { maxLength: 6 }), fc.constantFrom({}, { g: '"a"' }, { g: '"b"' }), (commits, swaps, filters) => {
      const model = new Model([CHANNEL])
      const versions = commits.map((writes) => model.commit(writes).changes ?? [])
      const fromMemory = renderedAll(reordered(versions, swaps).flat(), filters)
      const renderer = new WindowRenderer(windowOf(CHANNEL, filters))
      const fromLog = model.folded(1, 1_000, model.head).map((folded) => renderer.change(folded)).filter((text) => text !== null).join(',')
      expect(fromMemory).toBe(fromLog)
    }), { seed: 2, numRuns: 500 })
  })

  it('Whole: moves a reader of any filter from the rows of one version to the rows of another', () => {
    fc.assert(fc.property(COMMITS, fc.nat(8), fc.constantFrom({}, { g: '"a"' }, { g: '"b"', v: '3' }), (commits, cut, filters) => {
      const model = new Model([CHANNEL])
      const window = windowOf(CHANNEL, filters)
      const numbers = [model.head, ...commits.map((writes) => model.commit(writes).number)]
      const from = numbers[Math.min(cut, numbers.length - 1)] ?? 0
      const changes = model.versions.filter(({ number }) => number > from).flatMap((version) => version.changes ?? [])
      expect(applied(model.rowsAt(from, window), renderedAll(changes, filters))).toEqual([...model.rowsAt(model.head, window)].sort((a, b) => a.id - b.id))
    }), { seed: 3, numRuns: 500 })
  })
})

describe('a window', () => {
  const inGroup = (g: string): WindowRenderer => new WindowRenderer(windowOf(CHANNEL, { g: JSON.stringify(g) }))
  const moved = change(1, 7, { id: 7, g: 'c', v: 5 }, { g: 'a' })

  it('tells a row that leaves the filter as a delete without its new values', () => {
    expect(inGroup('a').change(moved)).toBe('{"op":"delete","key":{"id":7}}')
  })

  it('tells a row that enters the filter as an upsert', () => {
    expect(inGroup('c').change(moved)).toBe('{"op":"upsert","key":{"id":7},"row":{"id":7,"g":"c","v":5}}')
  })

  it('is silent about a row that was never in the filter', () => {
    expect(inGroup('b').change(moved)).toBeNull()
    expect(inGroup('b').change(change(1, 7, null))).toBeNull()
  })

  it('tells of every delete where nothing is filtered, whatever is known of the old row', () => {
    expect(new WindowRenderer(windowOf(CHANNEL)).change(change(1, 7, null))).toBe('{"op":"delete","key":{"id":7}}')
  })

  it('never takes SQL NULL for the text null', () => {
    expect(inGroup('null').change(change(1, 7, { id: 7, g: null, v: 5 }))).toBeNull()
    expect(inGroup('null').change(change(1, 7, { id: 7, g: 'null', v: 5 }))).toContain('"op":"upsert"')
  })
})

describe('a filter value', () => {
  it('of a numeric column is compared without the zeros that say nothing', () => {
    const numeric = column('n', 'numeric')
    expect(['1.50', '2.00', '100', '0.0', '-3.10'].map((value) => canonicalValue(value, numeric))).toEqual(['1.5', '2', '100', '0', '-3.1'])
  })

  it('of any other column is left alone', () => {
    expect(canonicalValue('"1.50"', column('t', 'text'))).toBe('"1.50"')
    expect(canonicalValue('1.50', undefined)).toBe('1.50')
  })
})

describe('the parts of a delta', () => {
  function parts(texts: readonly string[]): readonly Buffer[] {
    const builder = new PartBuilder()
    const finished = texts.flatMap((text) => builder.add(text) ?? [])
    return builder.isEmpty ? finished : [...finished, builder.take()]
  }

  it('hold at most a thousand changes each', () => {
    expect(parts(Array<string>(2_001).fill('x')).map((part) => part.toString().split(',').length)).toEqual([1_000, 1_000, 1])
  })

  it('hold 128,000 bytes at most, and a larger change alone', () => {
    const [small, large] = ['s'.repeat(60_000), 'l'.repeat(3_000_000)]
    expect(parts([small, small, small, large, small]).map(({ length }) => length)).toEqual([120_001, 60_000, 3_000_000, 60_000])
  })

  it('count bytes, not characters', () => {
    const text = '€'.repeat(20_000)
    expect(parts([text, text, text]).map(({ length }) => length)).toEqual([120_001, 60_000])
  })

  it('joined are all changes in their order', () => {
    fc.assert(fc.property(fc.array(fc.stringMatching(/^[a-z]{1,5}$/), { maxLength: 3_000 }), (texts) => {
      expect(parts(texts).map(String).join(',')).toBe(texts.join(','))
    }), { seed: 4, numRuns: 50 })
  })
})
