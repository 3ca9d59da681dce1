import { describe, expect, it } from 'vitest'
import { crowd, type Crowd } from '../../bench/pace/crowd.ts'
import { createRandom } from '../../bench/pace/traces.ts'
import { MAX_POLL_MS, MIN_POLL_MS } from '../../src/contract/names.ts'
import { Advisor } from '../../src/pace/advisor.ts'

/** Polls in each second of [from, until). */
function rates({ polls }: Crowd, from: number, until: number): number[] {
  const counts = Array.from({ length: until - from }, () => 0)
  for (const { second } of polls) if (second >= from && second < until) counts[second - from] = (counts[second - from] ?? 0) + 1
  return counts
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

const BUSY = { name: 'busy', clients: 1_500, gap: () => 2 } as const
const CALM = { name: 'calm', clients: 500, gap: () => 60 } as const

describe('the price', () => {
  it('keeps the polls of all channels within the budget, and the busier channel the shorter interval', () => {
    const seen = crowd({ channels: [BUSY, CALM], seconds: 180, budget: () => 150 })
    expect(mean(rates(seen, 60, 180))).toBeLessThan(150 * 1.1)
    expect(mean(rates(seen, 60, 180))).toBeGreaterThan(150 * 0.7)
    const intervals = (name: string): number => mean(seen.polls.filter((poll) => poll.name === name && poll.second >= 60).map(({ afterMs }) => afterMs))
    expect(intervals('calm')).toBeGreaterThan(2 * intervals('busy'))
  })

  it('meets a budget cut to a quarter within 40 seconds, and does not swing', () => {
    const seen = crowd({ channels: [BUSY, CALM], seconds: 300, budget: (second) => (second < 120 ? 400 : 100) })
    expect(mean(rates(seen, 60, 120))).toBeGreaterThan(280)
    const after = rates(seen, 160, 300)
    // A minute is longer than an interval is: whatever swings would show.
    for (let from = 0; from + 20 <= after.length; from += 10) expect(mean(after.slice(from, from + 20))).toBeLessThan(100 * 1.25)
    expect(mean(after)).toBeGreaterThan(60)
    expect(seen.polls.at(-1)?.reason).toBe('load')
  })

  it('is the usual one again when there is enough', () => {
    const advisor = new Advisor({ budget: 1 })
    expect(advisor.scarcity).toBe(1)
    const seen = crowd({ channels: [BUSY], seconds: 240, budget: (second) => (second < 60 ? 50 : 5_000) })
    expect(seen.polls.filter(({ second }) => second > 40 && second < 60).every(({ reason }) => reason === 'load')).toBe(true)
    expect(seen.polls.filter(({ second }) => second > 200).some(({ reason }) => reason === 'load')).toBe(false)
  })
})

describe('a crowd', () => {
  it.each([['without cursors', false], ['with cursors', true]])('of 5,000 that comes back at once %s is even after five seconds', (_how, hasCursor) => {
    let commits = 30
    const seen = crowd({ channels: [{ name: 'shared', clients: 5_000, gap: () => (commits-- > 0 ? 60 : Infinity) }], seconds: 120, hasCursor, arrival: (chance) => 0.5 * chance, history: 3_000 })
    // Nothing is committed any more: the advice is the same for all, or nearly.
    const ideal = 5_000_000 / mean(seen.polls.filter(({ second }) => second >= 5).map(({ afterMs }) => afterMs))
    expect(Math.max(...rates(seen, 5, 120))).toBeLessThan(1.5 * ideal)
  })

  it('of 3,000 after a tick is spread over no more than the budget needs', () => {
    const seen = crowd({ channels: [{ name: 'job', clients: 3_000, gap: () => 60, isTick: true }], seconds: 1_500, budget: () => 600, history: 7_200 })
    const late = rates(seen, 1_200, 1_500)
    expect(Math.max(...late)).toBeLessThan(600 * 1.3)
    // Five ticks, five seconds of the whole budget for each: most of the polls are in those.
    const busiest = late.toSorted((a, b) => b - a)
    expect(mean(busiest.slice(0, 40)) * 40).toBeGreaterThan(0.6 * mean(late) * late.length)
  })
})

describe('an advice', () => {
  it('is a whole number of milliseconds within its bounds, whatever the clock, the budget and the commits do', () => {
    const random = createRandom(3)
    const odd = [0, -1, NaN, Infinity, -Infinity, 1e-9, 1e15]
    let nowMs = 0
    const advisor = new Advisor({ now: () => nowMs, defer: (work) => work() })
    for (let i = 0; i < 500; i++) {
      nowMs += random.u() < 0.02 ? random.int(1e9) : random.int(3_000)
      if (random.u() < 0.05) advisor.budget = odd[random.int(odd.length)] ?? 0
      if (random.u() < 0.4) advisor.observe('c', random.u() < 0.1 ? odd[random.int(odd.length)] : 0)
      for (let crowd = random.int(60); crowd >= 0; crowd--) {
        const { afterMs } = advisor.advise('c', { isFirst: random.u() < 0.3, isHolding: random.u() < 0.2 })
        expect(Number.isInteger(afterMs) && afterMs >= MIN_POLL_MS && afterMs <= MAX_POLL_MS, String(afterMs)).toBe(true)
      }
      expect(advisor.commitsPerMinute('c')).toBeGreaterThanOrEqual(0)
    }
  })

  it.each([['the shortest', 200, 0, MIN_POLL_MS], ['the longest', 60_000, 30 * 86_400_000, MAX_POLL_MS]])('of %s interval stays within the bounds in the thickest crowd', (_which, gapMs, silenceMs, afterMs) => {
    let nowMs = 0
    const advisor = new Advisor({ now: () => nowMs, defer: (work) => work(), price: silenceMs > 0 ? 1e6 : 1e-3 })
    for (let i = 0; i < 500; i++) {
      nowMs += gapMs * (1 + (i % 3) / 10)
      advisor.observe('c')
    }
    nowMs += silenceMs
    expect(advisor.advise('c', { isHolding: true }).afterMs).toBe(afterMs)
    const advised = Array.from({ length: 3_000 }, () => advisor.advise('c').afterMs)
    expect(Math.min(...advised)).toBeGreaterThanOrEqual(MIN_POLL_MS)
    expect(Math.max(...advised)).toBeLessThanOrEqual(MAX_POLL_MS)
    expect(new Set(advised).size, 'they are spread all the same').toBeGreaterThan(2)
  })

  it('is worked out once for all who ask at the same time', () => {
    let nowMs = 1e6
    const advisor = new Advisor({ now: () => nowMs, defer: (work) => work() })
    for (let i = 0; i < 50; i++) { nowMs += 7_000 + (i % 7) * 500; advisor.observe('c') }
    nowMs += 3_000
    const first = advisor.advise('c', { isHolding: true })
    nowMs += 100
    expect(advisor.advise('c', { isHolding: true })).toBe(first)
    advisor.observe('c')
    expect(advisor.advise('c', { isHolding: true })).not.toBe(first)
  })

  it('to one client alone is exactly that of the channel, also the first', () => {
    let nowMs = 1e6
    const advisor = new Advisor({ now: () => nowMs, defer: (work) => work() })
    const held = new Advisor({ now: () => nowMs, defer: (work) => work() })
    for (let i = 0; i < 300; i++) {
      if (i % 4 === 0) for (const one of [advisor, held]) one.observe('c')
      const advice = advisor.advise('c', { isFirst: i === 0 })
      expect(advice).toEqual(held.advise('c', { isHolding: true }))
      nowMs += advice.afterMs
    }
  })

  it('does not wait for commits to be taken note of, nor they for it', () => {
    const later: (() => void)[] = []
    const advisor = new Advisor({ now: () => 5_000, defer: (work) => later.push(work) })
    for (let i = 0; i < 100; i++) advisor.observe('c')
    expect(later).toHaveLength(1)
    later[0]?.()
    expect(advisor.commitsPerMinute('c')).toBeGreaterThan(0)
  })
})

describe('hard overload', () => {
  it('admits what the budget allows, and spreads the rest over a window', () => {
    let nowMs = 0
    const advisor = new Advisor({ now: () => nowMs, budget: 10 })
    const asked = Array.from({ length: 2_000 }, () => advisor.admit())
    const refused = asked.filter((seconds) => seconds > 0)
    expect(asked.length - refused.length).toBe(200)
    expect(refused.every((seconds) => Number.isInteger(seconds) && seconds >= 1 && seconds <= 301)).toBe(true)
    expect(refused.some((seconds, i) => seconds === refused[i + 1])).toBe(false)
    // 1,800 at 10 a second: the last of them are spread over about three minutes, evenly.
    const last = refused.slice(-600)
    expect(Math.max(...last)).toBeGreaterThan(120)
    expect(mean(last)).toBeGreaterThan(60)
    expect(new Set(last).size).toBeGreaterThan(100)
    nowMs += 60_000
    expect(advisor.admit()).toBe(0)
  })

  it('is unknown without a budget', () => {
    const advisor = new Advisor()
    expect(Array.from({ length: 10_000 }, () => advisor.admit()).every((seconds) => seconds === 0)).toBe(true)
  })
})
