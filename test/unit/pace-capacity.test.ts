import { describe, expect, it } from 'vitest'
import { Capacity } from '../../src/pace/capacity.ts'

describe('the capacity for polls', () => {
  it('is learned within seconds from many of them', () => {
    const capacity = new Capacity()
    // A thousand keep the process busy: a millisecond each.
    for (let second = 0; second < 10; second += 1) capacity.measure({ polls: 1_000, busy: 1 })
    expect(capacity.pollsPerSecond).toBeGreaterThan(650)
    expect(capacity.pollsPerSecond).toBeLessThan(900)
  })

  it('is what a process with much else to do has left', () => {
    const capacity = new Capacity()
    for (let second = 0; second < 20; second += 1) capacity.measure({ polls: 2_000, busy: 0.2 })
    const idle = capacity.pollsPerSecond
    for (let second = 0; second < 20; second += 1) capacity.measure({ polls: 2_000, busy: 0.8 })
    expect(capacity.pollsPerSecond / idle).toBeCloseTo(0.25, 1)
  })

  it('does not take the work of something else for that of a few polls', () => {
    const capacity = new Capacity()
    const before = capacity.pollsPerSecond
    for (let second = 0; second < 5; second += 1) capacity.measure({ polls: 3, busy: 0.9 })
    expect(capacity.pollsPerSecond).toBeGreaterThan(before / 2)
  })

  it('is not moved by what cannot be', () => {
    const capacity = new Capacity()
    const before = capacity.pollsPerSecond
    for (const polls of [0, NaN, -1]) capacity.measure({ polls, busy: 0.5 })
    for (const busy of [0, NaN, -1]) capacity.measure({ polls: 5_000, busy })
    expect(capacity.pollsPerSecond).toBe(before)
  })
})
