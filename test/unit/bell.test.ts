import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Bell, LEASE_MS, type Next, type Reading } from '../../src/clock/bell.ts'

const SAFETY_MS = 60_000

function reading(nowMs: number, found: boolean, { oldestInProgress = 1_000n, mayBeMore = false } = {}): Reading {
  return { nowMs, found, mayBeMore, tookMs: 1, oldestInProgress }
}

/** A bell that has gone to sleep: nothing found, the lease given back, fence 500 passed. Returns the moment. */
function fallenAsleep(): { bell: Bell; nowMs: number } {
  const bell = new Bell({ safetyMs: SAFETY_MS })
  const nowMs = 10_000
  expect(bell.afterRead(reading(nowMs, false)).lease).toBe('give-back')
  bell.fenceTaken(500n)
  bell.afterRead(reading(nowMs, false))
  expect(bell.mode).toBe('asleep')
  return { bell, nowMs }
}

describe('the bell', () => {
  it('sleeps until the safety poll when nothing is found', () => {
    const { bell, nowMs } = fallenAsleep()
    expect(bell.afterRead(reading(nowMs, false))).toEqual<Next>({ waitMs: SAFETY_MS, lease: null })
  })

  it('stays asleep for single changes, behind which it does not look', () => {
    const { bell, nowMs } = fallenAsleep()
    for (let change = 0; change < 10; change += 1) {
      expect(bell.afterRead(reading(nowMs, true))).toEqual<Next>({ waitMs: SAFETY_MS, lease: null })
    }
    expect(bell.mode).toBe('asleep')
  })

  it('looks behind a change where there may be more, and wakes when there is, three times', () => {
    const { bell, nowMs } = fallenAsleep()
    const more = reading(nowMs, true, { mayBeMore: true })
    for (const end of [reading(nowMs, false, { mayBeMore: true }), reading(nowMs, true)]) {
      expect(bell.afterRead(more)).toEqual<Next>({ waitMs: 0, lease: null })
      expect(bell.afterRead(more)).toEqual<Next>({ waitMs: 0, lease: null })
      expect(bell.afterRead(end)).toEqual<Next>({ waitMs: SAFETY_MS, lease: null })
    }
    bell.afterRead(more)
    bell.afterRead(more)
    expect(bell.afterRead(more)).toEqual<Next>({ waitMs: 0, lease: 'renew' })
    expect(bell.mode).toBe('awake')
  })

  it('takes the lease with its first read while changes come, for a new leader begins awake', () => {
    const bell = new Bell({ safetyMs: SAFETY_MS })
    expect(bell.mode).toBe('awake')
    expect(bell.afterRead(reading(10_000, true)).lease).toBe('renew')
  })

  it('renews the lease before half of it is over, for as long as changes come', () => {
    const bell = new Bell({ safetyMs: SAFETY_MS })
    let renewedMs = -Infinity
    for (let nowMs = 10_000; nowMs < 15_000; nowMs += 20) {
      const { lease, waitMs } = bell.afterRead(reading(nowMs, true))
      if (lease === 'renew') renewedMs = nowMs
      expect(waitMs).toBeLessThanOrEqual(20)
      expect(nowMs - renewedMs).toBeLessThanOrEqual(LEASE_MS / 2)
    }
  })

  it('awake, leaves the database three quarters of the time, but waits no longer than 20 ms; one slow answer proves nothing', () => {
    const bell = new Bell({ safetyMs: SAFETY_MS })
    const waitAfter = (tookMs: number): number => bell.afterRead({ ...reading(10_000, true), tookMs }).waitMs
    expect([0, 0, 1, 1, 4, 4, 100, 100, 1].map(waitAfter)).toEqual([1, 1, 1, 3, 3, 12, 12, 20, 3])
  })

  it('gives the lease back after a tenth of a second without a change, and then reads gently until the fence has passed', () => {
    const bell = new Bell({ safetyMs: SAFETY_MS })
    bell.afterRead(reading(10_000, true))
    expect(bell.afterRead(reading(10_100, false)).lease).toBeNull()
    expect(bell.afterRead(reading(10_101, false, { oldestInProgress: 500n }))).toEqual<Next>({ waitMs: 0, lease: 'give-back' })
    bell.fenceTaken(500n)
    const waits: number[] = []
    for (let read = 0; read < 40; read += 1) waits.push(bell.afterRead(reading(10_101, false, { oldestInProgress: 500n })).waitMs)
    expect(bell.mode).toBe('settling')
    expect(waits[0]).toBe(5)
    expect(waits).toEqual([...waits].sort((a, b) => a - b))
    expect(Math.max(...waits)).toBe(500)
    expect(bell.afterRead(reading(10_101, false, { oldestInProgress: 501n })).waitMs).toBe(SAFETY_MS)
    expect(bell.mode).toBe('asleep')
  })

  it('does not fall asleep on a fence that has not been taken', () => {
    const bell = new Bell({ safetyMs: SAFETY_MS })
    bell.afterRead(reading(10_000, false))
    bell.afterRead(reading(10_000, false, { oldestInProgress: 10n ** 18n }))
    expect(bell.mode).toBe('settling')
  })

  it('wakes again out of settling when changes come densely', () => {
    const bell = new Bell({ safetyMs: SAFETY_MS })
    bell.afterRead(reading(10_000, false))
    bell.fenceTaken(5_000n)
    bell.afterRead(reading(10_000, true))
    bell.afterRead(reading(10_000, true))
    expect(bell.afterRead(reading(10_000, true)).lease).toBe('renew')
    expect(bell.mode).toBe('awake')
  })
})

/** A writer as the trigger makes it: takes its id, inserts, looks at the lease, rings with its commit if it must. */
interface Writer {
  readonly insertMs: number
  readonly endMs: number
  readonly commits: boolean
  id: bigint | null
  /** It saw a lease in the future, and will not ring. */
  relied: boolean
  seenMs: number | null
}

interface Schedule {
  readonly writers: readonly { readonly insertMs: number; readonly openMs: number; readonly commits: boolean }[]
  readonly readMs: readonly number[]
  readonly deliveryMs: readonly number[]
  /** What a leader that died has left behind. */
  readonly leftLeaseMs: number
}

/** One writer every few milliseconds, for long enough that the lease must be renewed. */
const BURST = fc.record({ everyMs: fc.integer({ min: 3, max: 40 }), startMs: fc.integer({ min: 0, max: 3_000 }) }).map(({ everyMs, startMs }) =>
  Array.from({ length: 60 }, (_, index) => ({ insertMs: startMs + index * everyMs, openMs: 1, commits: true })))

const SCHEDULE: fc.Arbitrary<Schedule> = fc.record({
  writers: fc.tuple(fc.oneof(BURST, fc.constant([])), fc.array(fc.record({
    insertMs: fc.oneof(fc.integer({ min: -300, max: 5_000 }), fc.integer({ min: 900, max: 1_300 })),
    openMs: fc.oneof({ weight: 4, arbitrary: fc.integer({ min: 0, max: 30 }) }, { weight: 1, arbitrary: fc.integer({ min: 0, max: 4_000 }) }),
    commits: fc.oneof({ weight: 4, arbitrary: fc.constant(true) }, { weight: 1, arbitrary: fc.constant(false) }),
  }), { maxLength: 60 })).map((both) => both.flat()),
  readMs: fc.array(fc.integer({ min: 0, max: 8 }), { minLength: 1, maxLength: 20 }),
  deliveryMs: fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 20 }),
  leftLeaseMs: fc.integer({ min: 0, max: LEASE_MS }),
})

/**
 * The clock's loop, the writers' triggers and the sequence between them, in simulated time. `onSettled` sees the world whenever the
 * bell sleeps; the result is how long each committed change went unread.
 */
class Simulation {
  readonly #bell: Bell
  readonly #writers: readonly Writer[]
  readonly #schedule: Schedule
  readonly #bells: boolean
  #nowMs = 0
  #awakeUntilMs: number
  #nextId = 1n
  #operations = 0
  #wasRung = false
  #delivered: number[] = []
  slept = 0
  leasesLapsed = 0

  constructor(schedule: Schedule, { bells, safetyMs }: { readonly bells: boolean; readonly safetyMs: number }) {
    this.#schedule = schedule
    this.#bells = bells
    this.#bell = new Bell({ safetyMs })
    this.#awakeUntilMs = schedule.leftLeaseMs
    this.#writers = schedule.writers.map(({ insertMs, openMs, commits }) => ({ insertMs, endMs: insertMs + openMs, commits, id: null, relied: false, seenMs: null }))
      .sort((a, b) => a.insertMs - b.insertMs)
    this.#advance(0)
  }

  /** Runs until every committed change has been read and a long silence has followed. */
  run(): readonly number[] {
    const untilMs = Math.max(0, ...this.#writers.map(({ endMs }) => endMs)) + 3 * SAFETY_MS
    while (this.#nowMs < untilMs) this.#turn()
    return this.#writers.filter(({ commits }) => commits).map(({ seenMs, endMs }) => (seenMs ?? Infinity) - Math.max(0, endMs))
  }

  #turn(): void {
    const startedMs = this.#nowMs
    const { found, oldestInProgress } = this.#read()
    this.#advance(this.#nowMs + this.#pick(this.#schedule.readMs))
    const wasAwake = this.#bell.mode === 'awake'
    const mayBeMore = !this.#wasRung || this.#hasRung(startedMs)
    const next = this.#bell.afterRead({ found, mayBeMore, oldestInProgress, tookMs: this.#nowMs - startedMs, nowMs: this.#nowMs + 10_000 })
    if (this.#bell.mode === 'asleep') this.#expectNobodyRelies()
    if (wasAwake && next.lease === null && this.#awakeUntilMs <= this.#nowMs) this.leasesLapsed += 1
    if (next.lease === 'renew') this.#awakeUntilMs = this.#nowMs + LEASE_MS
    if (next.lease === 'give-back') {
      this.#awakeUntilMs = this.#nowMs - 1
      // Whatever happens between the two statements.
      this.#advance(this.#nowMs + this.#pick(this.#schedule.readMs))
      this.#bell.fenceTaken(this.#takeId())
    }
    this.#sleep(next.waitMs)
  }

  /** One snapshot. */
  #read(): { found: boolean; oldestInProgress: bigint } {
    let found = false
    let oldest = this.#nextId
    for (const writer of this.#writers) {
      if (writer.id === null) continue
      if (writer.endMs > this.#nowMs) {
        if (writer.id < oldest) oldest = writer.id
      } else if (writer.commits && writer.seenMs === null) {
        writer.seenMs = this.#nowMs
        found = true
      }
    }
    return { found, oldestInProgress: oldest }
  }

  #sleep(waitMs: number): void {
    const untilMs = this.#nowMs + waitMs
    const rungMs = this.#bells ? this.#nextRing(untilMs) : null
    this.#wasRung = rungMs !== null
    this.#advance(rungMs ?? untilMs)
    this.#delivered = this.#delivered.filter((ms) => ms > this.#nowMs)
  }

  /** The first ring that arrives before `untilMs`; a ring during the read shortens the wait to nothing. */
  #nextRing(untilMs: number): number | null {
    const rings = this.#writers
      // A ring depends on the lease at the insert, which may still change: only those whose insert is past are known.
      .filter(({ insertMs }) => insertMs <= untilMs)
      .map((writer) => ({ writer, atMs: writer.endMs }))
      .sort((a, b) => a.atMs - b.atMs)
    for (const { writer, atMs } of rings) {
      const relies = writer.id === null ? this.#awakeUntilMs > writer.insertMs : writer.relied
      if (!writer.commits || relies || writer.seenMs !== null || atMs > untilMs) continue
      return Math.max(this.#nowMs, atMs) + this.#pick(this.#schedule.deliveryMs)
    }
    return null
  }

  /** Whether somebody who was not read yet has rung between then and now. */
  #hasRung(fromMs: number): boolean {
    return this.#bells && this.#writers.some(({ id, relied, commits, endMs, seenMs }) => id !== null && !relied && commits && seenMs === null && endMs > fromMs && endMs <= this.#nowMs)
  }

  /** Time passes: whoever inserts takes an id and looks at the lease. */
  #advance(toMs: number): void {
    for (const writer of this.#writers) {
      if (writer.id !== null || writer.insertMs > toMs) continue
      writer.id = this.#takeId()
      writer.relied = this.#awakeUntilMs > writer.insertMs
    }
    this.#nowMs = Math.max(this.#nowMs, toMs)
  }

  #expectNobodyRelies(): void {
    this.slept += 1
    const relying = this.#writers.filter(({ id, relied, seenMs, commits, endMs }) => id !== null && relied && (endMs > this.#nowMs || (commits && seenMs === null)))
    // A writer that began after the snapshot of this read saw no lease.
    expect(relying).toEqual([])
  }

  #takeId(): bigint {
    const id = this.#nextId
    this.#nextId += 1n
    return id
  }

  #pick(values: readonly number[]): number {
    this.#operations += 1
    return values[this.#operations % values.length] ?? 0
  }
}

describe('the protocol of lease, bell and fence', () => {
  it('never sleeps while a writer that relied on the lease is open or unread, and never needs the safety poll when bells work', () => {
    let slept = 0
    fc.assert(fc.property(SCHEDULE, (schedule) => {
      const simulation = new Simulation(schedule, { bells: true, safetyMs: SAFETY_MS })
      const delays = simulation.run()
      slept += simulation.slept
      // Half a second is the gentlest pace of settling, for the few who relied on the lease and then took long.
      expect(Math.max(0, ...delays)).toBeLessThanOrEqual(550)
      expect(simulation.leasesLapsed).toBe(0)
    }), { seed: 20_260_101, numRuns: 500 })
    expect(slept).toBeGreaterThan(500)
  })

  it('leaves no change unread for longer than the safety poll when every bell is lost', () => {
    fc.assert(fc.property(SCHEDULE, (schedule) => {
      const delays = new Simulation(schedule, { bells: false, safetyMs: 2_000 }).run()
      expect(Math.max(0, ...delays)).toBeLessThanOrEqual(2_000 + 8)
    }), { seed: 20_260_102, numRuns: 300 })
  })
})
