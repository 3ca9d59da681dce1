import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { LoggedVersion } from '../../src/contract/change.ts'
import { Ring } from '../../src/hub/ring.ts'
import { channel, Model, table, type Write } from '../support/model.ts'

const [BUSY, QUIET] = [table(1), table(2)]

function write(tableId: number, id: number, g = 'x'): Write {
  return { tableId, row: { id, g, v: 0 } }
}

function model(): Model {
  return new Model([channel('busy', BUSY), channel('quiet', QUIET)])
}

/** A version of about a kilobyte. */
function large(of: Model, tableId: number, id: number): LoggedVersion {
  return of.commit([write(tableId, id, 'x'.repeat(1_000))])
}

describe('the ring', () => {
  it('drops its oldest versions when it is full, and keeps the newest however large', () => {
    const of = model()
    const ring = new Ring(5_000, new Map())
    for (let id = 1; id <= 50; id += 1) ring.push(large(of, 1, id))
    expect(ring.bytes).toBeLessThanOrEqual(5_000)
    expect(ring.length).toBe(Math.floor(5_000 / (ring.bytes / ring.length)))
    const huge = of.commit([write(1, 1, 'x'.repeat(100_000))])
    ring.push(huge)
    expect(ring.length).toBe(1)
    expect(ring.changes(1, of.head - 1, of.head)).toEqual(huge.changes)
  })

  it('says so when it no longer has all of a range, and never gives a part of it', () => {
    const of = model()
    const ring = new Ring(5_000, new Map())
    const start = of.head
    for (let id = 1; id <= 50; id += 1) ring.push(large(of, 1, id))
    expect(ring.changes(1, start, of.head)).toBeNull()
    expect(ring.changes(1, of.head - ring.length - 1, of.head)).toBeNull()
    expect(ring.changes(1, of.head - ring.length, of.head)).toHaveLength(ring.length)
  })

  it('is complete for a quiet table however far one looks back', () => {
    const of = model()
    const ring = new Ring(5_000, new Map())
    const start = of.head
    const old = of.commit([write(2, 1)])
    ring.push(old)
    for (let id = 1; id <= 50; id += 1) ring.push(large(of, 1, id))
    // The version that touched it has been dropped: before it nothing is known, after it everything.
    expect(ring.changes(2, start, of.head)).toBeNull()
    expect(ring.changes(2, old.number, of.head)).toEqual([])
    const fresh = of.commit([write(2, 2)])
    ring.push(fresh)
    expect(ring.changes(2, old.number, of.head)).toEqual(fresh.changes)
  })

  it('knows from the catalog what was touched before it began', () => {
    const of = model()
    const ring = new Ring(5_000, new Map([[1, { version: of.head }]]))
    expect(ring.changes(1, of.head - 1, of.head)).toBeNull()
    expect(ring.changes(1, of.head, of.head)).toEqual([])
    expect(ring.changes(2, 1, of.head)).toEqual([])
  })

  it('cannot tell what a version too large to be carried did to its tables, but does for the others', () => {
    const of = model()
    const ring = new Ring(1e6, new Map())
    const start = of.head
    ring.push(of.commit([write(1, 1)], { isCarried: false }))
    const carried = of.commit([write(1, 2), write(2, 2)])
    ring.push(carried)
    expect(ring.changes(1, start, of.head)).toBeNull()
    expect(ring.changes(1, of.head - 1, of.head)).toHaveLength(1)
    expect(ring.changes(2, start, of.head)).toEqual(carried.changes?.filter(({ tableId }) => tableId === 2))
  })

  it('gives everything in a range or null, as a plain list of all versions would', () => {
    const commits = fc.array(fc.record({ tableId: fc.constantFrom(1, 2), bytes: fc.nat(400), isCarried: fc.integer({ min: 0, max: 9 }).map((dice) => dice > 0) }), { minLength: 1, maxLength: 1_500, size: 'max' })
    fc.assert(fc.property(commits, fc.nat(2_000), fc.nat(2_000), fc.integer({ min: 300, max: 20_000 }), (all, back, ahead, maxBytes) => {
      const of = model()
      const ring = new Ring(maxBytes, new Map())
      const start = of.head
      const versions = all.map(({ tableId, bytes, isCarried }) => of.commit([write(tableId, 1, 'x'.repeat(bytes))], { isCarried }))
      for (const version of versions) ring.push(version)
      const since = start + Math.min(back, versions.length)
      const upTo = since + ahead
      for (const tableId of [1, 2]) {
        const wanted = versions.filter(({ number, touched }) => number > since && number <= upTo && touched.includes(tableId))
        const found = ring.changes(tableId, since, upTo)
        const held = versions.slice(-ring.length)
        const isThere = wanted.every((version) => held.includes(version) && version.changes !== null)
        // It may also say null when something older than the range is gone, but only if it touched the table after `since`.
        const lastGone = versions.slice(0, versions.length - ring.length).findLast(({ touched }) => touched.includes(tableId))?.number ?? 0
        if (isThere && since >= lastGone) expect(found).toEqual(wanted.flatMap(({ changes }) => changes ?? []))
        else expect(found).toBeNull()
      }
    }), { seed: 21, numRuns: 60 })
  })
})
