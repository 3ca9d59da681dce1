/** One reading of the log for all filters: the same bytes as a reading of one's own, and nothing read twice. */
import fc from 'fast-check'
import { afterEach, describe, expect, it, vi } from 'vitest'
import type { ChannelDefinition, FoldedChange, LoggedVersion, Window } from '../../src/contract/change.ts'
import { Answerer, discard, isHeld, type Delta } from '../../src/hub/answer.ts'
import { PartBuilder, WindowRenderer } from '../../src/hub/fold.ts'
import { Hub } from '../../src/hub/hub.ts'
import { Ring } from '../../src/hub/ring.ts'
import { Split } from '../../src/hub/split.ts'
import { channel, column, Model, ModelSource, table, windowOf, type Write } from '../support/model.ts'

const TABLE = {
  ...table(1),
  columns: [column('id', 'integer'), column('g', 'text'), { ...column('price', 'numeric'), comparedAs: 'numeric' }, column('note', 'text')],
}
const CHANNEL: ChannelDefinition = { ...channel('t', TABLE), columns: TABLE.columns, filters: ['g', 'price'] }
/** Publishes some of the columns only. */
const NARROW: ChannelDefinition = { ...CHANNEL, name: 'narrow', columns: TABLE.columns.filter(({ name }) => name === 'id' || name === 'note') }

const TEXTS = ['"a"', '"b"', '"ä\\u001f\\" "', '""', 'null']
/** As they are written, with whatever scale, and as they are asked for. */
const PRICES = ['"1.5"', '"1.50"', '"2"', '"2.00"', '"0.0"', 'null']
const ASKED_PRICES = ['1.5', '2', '0', '7']

const WINDOW: fc.Arbitrary<Window> = fc.tuple(fc.constantFrom(CHANNEL, NARROW), fc.oneof(
  fc.record({ g: fc.constantFrom(...TEXTS, '"nobody"') }),
  fc.record({ price: fc.constantFrom(...ASKED_PRICES) }),
  fc.record({ g: fc.constantFrom(...TEXTS), price: fc.constantFrom(...ASKED_PRICES) }),
)).map(([definition, filters]) => windowOf(definition, filters as Record<string, string>))

const FILTERS = fc.record({ g: fc.constantFrom(...TEXTS), price: fc.constantFrom(...PRICES) })

const CHANGE: fc.Arbitrary<FoldedChange> = fc.record({
  id: fc.nat(1_000), now: fc.option(FILTERS), before: fc.array(FILTERS, { maxLength: 3 }), note: fc.constantFrom('"short"', JSON.stringify('long ä '.repeat(50))),
}).map(({ id, now, before, note }) => ({
  key: `{"id":${id}}`,
  newRow: now === null ? null : `{"id":${id},"g":${now.g},"price":${now.price},"note":${note}}`,
  oldFilters: before.map(({ g, price }) => `{"g":${g},"price":${price}}`),
}))

/** What a window's own reading gives, part by part. */
function ownParts(window: Window, changes: readonly FoldedChange[]): readonly string[] {
  const renderer = new WindowRenderer(window)
  const builder = new PartBuilder()
  const parts = changes.flatMap((change) => {
    const text = renderer.change(change)
    return (text === null ? null : builder.add(text)) ?? []
  })
  return (builder.isEmpty ? parts : [...parts, builder.take()]).map(String)
}

function inBatches(changes: readonly FoldedChange[], size: number): (readonly FoldedChange[])[] {
  return Array.from({ length: Math.ceil(changes.length / size) }, (_, index) => changes.slice(index * size, (index + 1) * size))
}

// eslint-disable-next-line @typescript-eslint/require-await -- as a source has it
async function* stream<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items
}

async function partsOf(delta: Delta): Promise<readonly string[]> {
  const parts: string[] = []
  for await (const { changes } of delta.parts) parts.push(changes.toString())
  return parts
}

function answererOf(readChanges: () => AsyncIterable<readonly FoldedChange[]>): Answerer {
  const source = Object.assign(new ModelSource(new Model([CHANNEL])), { readChanges })
  return new Answerer({ source, cacheBytes: 1e6, versionAfter: (number) => Promise.resolve(number) })
}

const EMPTY = new Ring(0, new Map())
const question = (window: Window, since = 1) => ({ windows: [window], since, version: 9 })

describe('a reading that is split', () => {
  it('gives every window the bytes that a reading of its own would, from memory or from a file, whether or not it shares a bucket', async () => {
    await fc.assert(fc.asyncProperty(
      fc.array(WINDOW, { minLength: 1, maxLength: 12 }), fc.array(CHANGE, { maxLength: 60 }), fc.integer({ min: 1, max: 20 }), fc.constantFrom(0, 3_000, 1e6), fc.constantFrom(0, 2, 1_000),
      async (windows, changes, batch, maxHeldBytes, maxOwnBuckets) => {
        const split = new Split(stream(inBatches(changes, batch)), { onIdle: () => { split.close() }, maxHeldBytes, maxOwnBuckets })
        const answers = await Promise.all(windows.map(async (window) => {
          const bucket = split.join(window)
          if (bucket === null) throw new Error('too late')
          const read: FoldedChange[] = []
          for await (const some of split.read(bucket)) read.push(...some)
          split.leave()
          return ownParts(window, read)
        }))
        expect(answers).toEqual(windows.map((window) => ownParts(window, changes)))
        expect(split.isIdle).toBe(true)
      },
    ), { seed: 1, numRuns: 300 })
  })

  it('is one for all that ask for the range while it is under way, and for who asks a while after; the log is read once', async () => {
    await fc.assert(fc.asyncProperty(fc.array(WINDOW, { minLength: 2, maxLength: 12 }), fc.array(CHANGE, { maxLength: 40 }), async (windows, changes) => {
      let readings = 0
      const answerer = answererOf(() => {
        readings += 1
        return stream(inBatches(changes, 3))
      })
      const [last, ...first] = windows
      const answers = await Promise.all(first.map(async (window) => partsOf(await answerer.deltaFromLog(question(window), EMPTY))))
      expect(answers).toEqual(first.map((window) => ownParts(window, changes)))
      expect(readings).toBe(1)
      // By columns that nobody had asked by when the reading began it is another one.
      const isSplitForIt = first.some(({ filters }) => last !== undefined && [...filters.keys()].join() === [...last.filters.keys()].join())
      if (last !== undefined) expect(await partsOf(await answerer.deltaFromLog(question(last), EMPTY))).toEqual(ownParts(last, changes))
      expect(readings).toBe(isSplitForIt ? 1 : 2)
      answerer.clear()
    }), { seed: 2, numRuns: 200 })
  })

  const rows = (count: number, groups: number, note = ''): readonly FoldedChange[] => Array.from({ length: count }, (_, id) =>
    ({ key: `{"id":${id}}`, newRow: `{"id":${id},"g":"${id % groups}","price":null,"note":"${note}"}`, oldFilters: [] }))

  it('Bounded: looks at each change a few times, however many filters there are', async () => {
    let looks = 0
    const changes = rows(2_000, 2_000).map((change): FoldedChange => ({ ...change, get newRow() { looks += 1; return change.newRow } }))
    const answerer = answererOf(() => stream(inBatches(changes, 100)))
    const deltas = await Promise.all(changes.map((_, id) => answerer.deltaFromLog(question(windowOf(CHANNEL, { g: `"${id}"` })), EMPTY)))
    expect(deltas.every((delta) => isHeld(delta) && delta.parts.length === 1)).toBe(true)
    expect(looks).toBeLessThan(2_000 * 10)
    answerer.clear()
  })

  it('reads on when a reader leaves in the middle, at the pace of none, and no further when the last one has left', async () => {
    let [batches, isOver] = [0, false]
    async function* endless(): AsyncGenerator<readonly FoldedChange[]> {
      try {
        for (;;) {
          batches += 1
          yield await Promise.resolve(rows(500, 2, 'x'.repeat(500)))
        }
      } finally {
        isOver = true
      }
    }
    const answerer = answererOf(endless)
    const [one, other] = await Promise.all(['0', '1'].map((g) => answerer.deltaFromLog(question(windowOf(CHANNEL, { g: `"${g}"` })), EMPTY)))
    if (one === undefined || other === undefined || isHeld(one) || isHeld(other)) throw new Error('these are large')
    await discard(one)
    const before = batches
    // Nobody takes anything, and it goes on.
    await vi.waitUntil(() => batches > before + 10, { timeout: 20_000 })
    expect(isOver).toBe(false)
    await discard(other)
    await vi.waitUntil(() => isOver, { timeout: 20_000 })
  })

  it('Loud: a reading that fails fails for all, also for who has a part of it; who asks then has another', async () => {
    let readings = 0
    async function* failing(): AsyncGenerator<readonly FoldedChange[]> {
      readings += 1
      yield rows(10, 2)
      yield await Promise.reject(new Error(`failure ${readings}`))
    }
    const answerer = answererOf(failing)
    const ask = (g: string) => answerer.deltaFromLog(question(windowOf(CHANNEL, { g: `"${g}"` })), EMPTY)
    const asked = await Promise.allSettled(['0', '1', 'nobody'].map(ask))
    expect(asked.map((result) => result.status === 'rejected' && String(result.reason))).toEqual(Array(3).fill('Error: failure 1'))
    await expect(ask('0')).rejects.toThrow('failure 2')
  })

  describe('is kept a while', () => {
    afterEach(() => { vi.useRealTimers() })

    it('and forgotten when its time is over, or when nothing rendered so far is true any more', async () => {
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
      let readings = 0
      const answerer = answererOf(() => {
        readings += 1
        return stream([rows(10, 5)])
      })
      const ask = (g: number) => answerer.deltaFromLog(question(windowOf(CHANNEL, { g: `"${g}"` })), EMPTY)
      await ask(0)
      await ask(1)
      expect(readings).toBe(1)
      vi.advanceTimersByTime(60_000)
      await ask(2)
      expect(readings).toBe(2)
      answerer.clear()
      await ask(3)
      expect(readings).toBe(3)
    })
  })
})

describe('a version that is not carried along', () => {
  const T = channel('t', table(1))
  const OTHER = channel('u', table(2))
  const write = (id: number, g: string): Write => ({ tableId: 1, row: { id, g, v: id } })

  async function loaded() {
    const model = new Model([T, OTHER])
    const source = new ModelSource(model)
    const hub = new Hub({ source, nowMs: () => 0, futureWaitMs: 5, onError: (error) => { throw error } })
    await hub.load()
    const commit = (writes: readonly Write[], isCarried = true): LoggedVersion => {
      const version = model.commit(writes, { isCarried })
      hub.accept(version)
      return version
    }
    return { model, source, hub, commit }
  }

  it('is read once for all that follow, though what concerned each of them last is of many ages', async () => {
    const { model, source, hub, commit } = await loaded()
    const groups = Array.from({ length: 20 }, (_, index) => `g${index}`)
    const told: string[][] = groups.map(() => [])
    const windows = groups.map((g) => windowOf(T, { g: `"${g}"` }))
    const answers = windows.map((window, index) => {
      let resolve: (parts: readonly string[]) => void = () => undefined
      const answer = new Promise<readonly string[]>((settle) => { resolve = settle })
      let at = model.head
      const follower = {
        deliver(deltas: readonly { readonly version: number; readonly since: number | null }[]): boolean {
          for (const { since, version } of deltas) {
            expect(since).toBe(at)
            at = version
            told[index]?.push(`${version}`)
          }
          return true
        },
        overtaken(): void {
          void hub.answer([window], { epoch: hub.epoch, number: at }).then(async (given) => {
            if (given.kind === 'unchanged') throw new Error('unchanged')
            expect([given.since, given.version]).toEqual([at, model.head])
            resolve(await partsOf(given))
          })
        },
      }
      expect(hub.follow([window], { epoch: hub.epoch, number: at }, follower)).toBe(true)
      return answer
    })
    for (const [index, g] of groups.entries()) commit([write(index, g)])
    commit([{ tableId: 2, row: { id: 1, g: 'g0', v: 0 } }])
    const since = told.map(([version]) => Number(version))
    expect(new Set(since).size).toBe(20)
    commit(Array.from({ length: 100 }, (_, id) => write(id, groups[(id + 1) % 20] ?? '')), false)
    const given = await Promise.all(answers)
    expect(source.asked.changes).toBe(1)
    expect(given).toEqual(windows.map((window, index) => ownParts(window, model.folded(1, since[index] ?? 0, model.head))))
  })

  it('of memory is folded once, and its changes are looked at a few times, however many follow', async () => {
    const { hub, model } = await loaded()
    const count = 1_000
    let [looks, told] = [0, 0]
    for (let index = 0; index < count; index += 1) {
      hub.follow([windowOf(T, { g: `"g${index}"` })], { epoch: hub.epoch, number: model.head }, {
        deliver: (deltas) => {
          told += deltas.flatMap(({ parts }) => parts).length
          return true
        },
        overtaken: () => { throw new Error('it is in memory') },
      })
    }
    const version = model.commit(Array.from({ length: count }, (_, id) => write(id, `g${id}`)))
    hub.accept({ ...version, changes: version.changes?.map((change) => ({ ...change, get newRow() { looks += 1; return change.newRow } })) ?? null })
    expect(told).toBe(count)
    expect(looks).toBeLessThan(count * 20)
  })
})
