import { describe, expect, it } from 'vitest'
import { create } from '../../bench/pace/adapter.ts'
import { compare } from '../../bench/pace/simulate.ts'
import { createRandom, createTrace, families } from '../../bench/pace/traces.ts'
import { MAX_POLL_MS, MIN_POLL_MS } from '../../src/contract/names.ts'
import { Pace, type Advice } from '../../src/pace/pace.ts'

const START = Date.UTC(2025, 0, 1)
const END = START + 4 * 3_600_000
const REASONS = ['tick', 'burst', 'idle', 'load']

/** Commits in order, and a poller that follows the advice between them. Returns its polls. */
function follow(pace: Pace, commits: readonly number[], untilMs: number): { atMs: number; advice: Advice }[] {
  const polls: { atMs: number; advice: Advice }[] = []
  let next = 0
  for (let atMs = START; atMs <= untilMs;) {
    for (let commit = commits[next]; commit !== undefined && commit <= atMs; commit = commits[++next]) pace.observe(commit)
    const advice = pace.advise(atMs)
    polls.push({ atMs, advice })
    atMs += advice.afterMs
  }
  return polls
}

function every(periodMs: number, count: number, from = START): number[] {
  return Array.from({ length: count }, (_, k) => from + (k + 1) * periodMs)
}

describe('the interval', () => {
  it('stays within its bounds whatever the clock and the scarcity do', () => {
    const random = createRandom(7)
    const pace = new Pace()
    const odd = [0, -1, NaN, Infinity, -Infinity, START, START + 1, START - 86_400_000, START + 365 * 86_400_000, 1e15, -1e15]
    for (let i = 0; i < 100; i++) {
      const atMs = random.u() < 0.3 ? odd[random.int(odd.length)] ?? 0 : START + random.int(1e7)
      if (random.u() < 0.6) pace.observe(atMs)
      const { afterMs, reason } = pace.advise(atMs, random.u() < 0.5 ? 1 : [NaN, -1, 0, 0.8, 50, 1e9, Infinity][random.int(7)])
      expect(Number.isInteger(afterMs) && afterMs >= MIN_POLL_MS && afterMs <= MAX_POLL_MS).toBe(true)
      expect(REASONS).toContain(reason)
      expect(pace.commitsPerMinute(atMs)).toBeGreaterThanOrEqual(0)
    }
  })

  it('asks soon about a channel nobody knows yet', () => {
    expect(new Pace().advise(START).afterMs).toBeLessThanOrEqual(5_000)
  })

  it('asks right after the ticks of a job that runs every minute, and says so', () => {
    const commits = every(60_000, 120)
    const polls = follow(new Pace({ price: 10 }), commits, START + 120 * 60_000)
    const late = polls.slice(-20)
    expect(late.filter(({ advice }) => advice.reason === 'tick').length).toBeGreaterThan(5)
    const lags = commits.slice(-20, -1).map((commit) => (polls.find(({ atMs }) => atMs >= commit)?.atMs ?? Infinity) - commit)
    expect(lags.toSorted((a, b) => a - b)[10]).toBeLessThan(3_000)
  })

  it('is short in a burst and longer in the silence after it, but not for ever', () => {
    const pace = new Pace()
    const before = follow(pace, every(120_000, 30), START + 3_600_000).at(-1)?.advice.afterMs ?? 0
    for (const atMs of every(500, 60, START + 3_600_000)) pace.observe(atMs)
    const burst = pace.advise(START + 3_630_500)
    expect(burst.reason).toBe('burst')
    expect(burst.afterMs).toBeLessThan(before / 2)
    const silences = [60, 600, 7_200, 86_400, 30 * 86_400].map((seconds) => pace.advise(START + 3_630_500 + seconds * 1_000))
    expect(silences[2]?.afterMs).toBeGreaterThan(2 * burst.afterMs)
    expect(silences.map(({ reason }) => reason).at(-1)).toBe('idle')
    for (const { afterMs } of silences) expect(afterMs).toBeLessThanOrEqual(MAX_POLL_MS)
    expect(pace.advise(START + 31 * 86_400_000).afterMs).toBeLessThanOrEqual(MAX_POLL_MS)
    for (const atMs of every(1_000, 60, START + 32 * 86_400_000)) pace.observe(atMs)
    expect(pace.advise(START + 32 * 86_400_000 + 60_000).afterMs).toBeLessThan(10_000)
  })

  it('grows with the price of a request', () => {
    const random = createRandom(3)
    const commits: number[] = []
    for (let atMs = START; atMs < START + 3_600_000; atMs += random.exp(20_000)) commits.push(atMs)
    const means = [1, 10, 100].map((price) => 3_600_000 / follow(new Pace({ price }), commits, START + 3_600_000).length)
    expect(means).toEqual(means.toSorted((a, b) => a - b))
    expect(means.at(-1)).toBeGreaterThan(4 * (means[0] ?? Infinity))
  })

  it('grows with the root of the scarcity, and says so', () => {
    const pace = new Pace()
    const random = createRandom(5)
    let at = START
    for (let i = 0; i < 400; i++) pace.observe(at += random.exp(5_000))
    const calm = pace.advise(at)
    const dear = pace.advise(at, 16)
    expect(calm.reason).not.toBe('load')
    expect(dear.reason).toBe('load')
    expect(dear.afterMs / calm.afterMs).toBeGreaterThan(3)
    expect(dear.afterMs / calm.afterMs).toBeLessThan(5.5)
  })
})

describe('the state', () => {
  const trained = (): Pace => {
    const random = createRandom(11)
    const pace = new Pace()
    for (let atMs = START; atMs < END; atMs += random.u() < 0.5 ? random.exp(3_000) : 60_000) pace.observe(atMs)
    return pace
  }

  it('takes less than 4 kB', () => {
    expect(JSON.stringify(trained()).length).toBeLessThan(4_096)
    const ticking = new Pace()
    for (const atMs of every(60_000, 200)) ticking.observe(atMs)
    expect(JSON.stringify(ticking).length).toBeLessThan(4_096)
  })

  it('survives a restart: the restored one advises and saves the same', () => {
    const saved: unknown = JSON.parse(JSON.stringify(trained()))
    const [one, other] = [Pace.fromJSON(saved), Pace.fromJSON(saved)]
    expect(JSON.parse(JSON.stringify(one))).toEqual(saved)
    for (let i = 1; i < 50; i++) {
      const atMs = END + i * 20_000
      if (i % 3 === 0) for (const pace of [one, other]) pace.observe(atMs)
      expect(one.advise(atMs)).toEqual(other.advise(atMs))
    }
    const original = trained()
    expect(Math.abs(Math.log(original.advise(END + 60_000).afterMs / Pace.fromJSON(saved).advise(END + 60_000).afterMs))).toBeLessThan(0.2)
  })

  it.each([null, 3, 'x', {}, { format: 1 }, { format: 1, clock: [NaN], rate: [], background: [], gaps: [], ticks: [], shadows: [[], [], []] }])(
    'of %j gives a new one', (state) => {
      expect(JSON.stringify(Pace.fromJSON(state))).toBe(JSON.stringify(new Pace()))
    })
})

describe('the gain', () => {
  it.each([['cron every minute', 0.5], ['sessions', 0.7], ['steady, slow', 1.15]])('on %s is a lag below %d of that of a fixed interval with as many requests', (name, limit) => {
    const family = families[name]
    if (family === undefined) throw new Error(`No family "${name}".`)
    expect(compare(createTrace({ ...family, T: 4 * 3_600 }, 1), 30, create, 7).lag).toBeLessThan(limit)
  })
})
