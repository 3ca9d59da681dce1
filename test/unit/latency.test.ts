/** The page's measure of its own votes: a Delta and the answer to the vote travel apart, and either may be first. */
import { describe, expect, it } from 'vitest'

interface Meter {
  readonly lastMs: number | null
  arrived(id: number, at: number): void
  committed(id: number, committedAt: number, tookMs?: number): void
}

const { LatencyMeter } = await import(new URL('../../src/pages/latency.js', import.meta.url).href) as { readonly LatencyMeter: new () => Meter }

describe('commit to screen', () => {
  it('is the time from the commit to the count, whichever is heard of first', () => {
    const [deltaFirst, answerFirst] = [new LatencyMeter(), new LatencyMeter()]
    deltaFirst.arrived(1, 1_007)
    deltaFirst.committed(1, 1_000)
    answerFirst.committed(1, 1_000)
    answerFirst.arrived(1, 1_007)
    expect([deltaFirst.lastMs, answerFirst.lastMs]).toEqual([7, 7])
  })

  it('is nothing where the Delta was on the screen before a busy server saw the end of the commit', () => {
    const meter = new LatencyMeter()
    meter.arrived(1, 990)
    meter.committed(1, 1_000, 15)
    expect(meter.lastMs).toBe(0)
  })

  it('is not measured by what was on the screen before the commit began', () => {
    const meter = new LatencyMeter()
    meter.arrived(1, 980)
    meter.committed(1, 1_000, 15)
    expect(meter.lastMs).toBeNull()
  })
})
