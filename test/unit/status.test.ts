import { describe, expect, it } from 'vitest'
import { Tally } from '../../src/status.ts'

describe('the tally of a minute', () => {
  it('counts polls a second and the worst lag since it was last taken', () => {
    const tally = new Tally(0)
    for (let poll = 0; poll < 90; poll += 1) tally.poll()
    tally.version(3.4)
    tally.version(12.6)
    tally.version(1)
    expect(tally.take(60_000)).toEqual({ pollsPerSecond: 1.5, worstLagMs: 13 })
    expect(tally.take(120_000)).toEqual({ pollsPerSecond: 0, worstLagMs: 0 })
  })

  it('never tells of a lag below zero, whatever the clocks of two machines say', () => {
    const tally = new Tally(0)
    tally.version(-250)
    expect(tally.take(1_000).worstLagMs).toBe(0)
  })
})
