import { describe, expect, it } from 'vitest'
import { Trust } from '../../src/clock/trust.ts'

/** Rings without end for `ms`, each read taking none: how many reads there are, of which those at `foundAt` find something. */
function ringFor(trust: Trust, ms: number, foundAt: readonly number[] = []): number {
  let reads = 0
  for (let nowMs = 0; nowMs < ms; nowMs += Math.max(0.5, trust.restMs(nowMs))) {
    reads += 1
    trust.afterRing({ found: foundAt.includes(reads), nowMs })
  }
  return reads
}

describe('the trust in rings', () => {
  it('believes the first at once, and the ones after it', () => {
    const trust = new Trust()
    expect(trust.restMs(0)).toBe(0)
    for (const nowMs of [0, 1]) trust.afterRing({ found: false, nowMs })
    expect(trust.restMs(1)).toBe(0)
  })

  it('lets a flood of false ones cause some forty reads a second, however many they are', () => {
    const reads = ringFor(new Trust(), 10_000)
    expect(reads).toBeGreaterThan(380)
    expect(reads).toBeLessThan(420)
  })

  it('rests no longer than 25 ms, so that a true one among them is late by no more', () => {
    const trust = new Trust()
    for (let nowMs = 0; nowMs < 100; nowMs += 1) trust.afterRing({ found: false, nowMs })
    expect(trust.restMs(99)).toBe(25)
    expect(trust.restMs(110)).toBe(14)
    expect(trust.restMs(200)).toBe(0)
  })

  it('forgets all false ones at a true one', () => {
    const trust = new Trust()
    ringFor(trust, 100)
    trust.afterRing({ found: true, nowMs: 200 })
    expect(trust.restMs(200)).toBe(0)
  })

  it('forgets them after a quarter of a second without any', () => {
    const trust = new Trust()
    for (let nowMs = 0; nowMs < 20; nowMs += 1) trust.afterRing({ found: false, nowMs })
    trust.afterRing({ found: false, nowMs: 1_000 })
    expect(trust.restMs(1_000)).toBe(0)
  })
})
