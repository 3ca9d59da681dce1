import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Places, type Reading } from '../../src/clock/places.ts'

/** Everybody who could enter has, once the promises are through. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** A reading that says when it has its place. */
function ask(places: Places, tableIds: readonly number[], of: Reading['of'] = 'state'): { isIn: boolean; leave: () => void } {
  const reading = { isIn: false, leave: (): void => undefined }
  void places.take({ tableIds, of }).then((leave) => {
    reading.isIn = true
    reading.leave = leave
  })
  return reading
}

const countIn = (readings: readonly { readonly isIn: boolean }[]): number => readings.filter(({ isIn }) => isIn).length

describe('places', () => {
  it('are at most half one table’s, so that another’s reading begins at once while that one’s are held', async () => {
    const places = new Places(4)
    const [busy, other] = [Array.from({ length: 600 }, () => ask(places, [1])), ask(places, [2])]
    await settled()
    expect([countIn(busy), other.isIn]).toEqual([2, true])
  })

  it('are at most half the log’s, of however many tables: a state begins at once while large versions are read', async () => {
    const places = new Places(6)
    const log = [1, 2, 3, 4, 5].map((id) => ask(places, [id], 'log'))
    const states = [ask(places, [1]), ask(places, [6])]
    await settled()
    expect([countIn(log), countIn(states)]).toEqual([3, 2])
  })

  it('go to the table that has fewest, in turns, and of one table first to who came first', async () => {
    const places = new Places(2)
    const order: string[] = []
    const leaves: (() => void)[] = []
    for (const [name, table] of [['a1', 1], ['b1', 2], ['a2', 1], ['a3', 1], ['b2', 2], ['c1', 3]] as const) {
      void places.take({ tableIds: [table], of: 'state' }).then((leave) => {
        order.push(name)
        leaves.push(leave)
      })
    }
    for (let turn = 0; turn < 6; turn += 1) {
      await settled()
      leaves.shift()?.()
    }
    expect(order).toEqual(['a1', 'b1', 'a2', 'b2', 'c1', 'a3'])
  })

  it('are all given out, to everybody in the end, and never more than there are, nor one back twice', async () => {
    const READING = fc.record({ tableIds: fc.uniqueArray(fc.nat(3), { minLength: 1, maxLength: 3 }), of: fc.constantFrom('log' as const, 'state' as const) })
    await fc.assert(fc.asyncProperty(fc.array(READING, { maxLength: 30 }), fc.integer({ min: 2, max: 6 }), fc.infiniteStream(fc.nat(5)), async (asked, total, choices) => {
      const places = new Places(total)
      const readings = asked.map((reading) => ({ reading, ...{ place: ask(places, reading.tableIds, reading.of) } }))
      let [waiting, inside] = [readings, readings.slice(0, 0)]
      while (waiting.length > 0 || inside.length > 0) {
        await settled()
        inside = [...inside, ...waiting.filter(({ place }) => place.isIn)]
        waiting = waiting.filter(({ place }) => !place.isIn)
        const most = Math.ceil(total / 2)
        const held = (id: number): number => inside.filter(({ reading }) => reading.tableIds.includes(id)).length
        const log = inside.filter(({ reading }) => reading.of === 'log').length
        expect(inside.length).toBeLessThanOrEqual(total)
        expect(Math.max(log, ...[0, 1, 2, 3].map(held))).toBeLessThanOrEqual(most)
        // Nobody waits who could enter.
        const isFree = ({ tableIds, of }: Reading): boolean => inside.length < total && (of === 'state' || log < most) && tableIds.every((id) => held(id) < most)
        expect(waiting.some(({ reading }) => isFree(reading))).toBe(false)
        const [leaver] = inside.splice((choices.next().value ?? 0) % Math.max(1, inside.length), 1)
        leaver?.place.leave()
        leaver?.place.leave()
      }
    }), { seed: 3, numRuns: 100 })
  })
})
