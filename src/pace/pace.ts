/**
 * When to ask again: advice for clients that poll, from what the server alone knows, every commit of the channel.
 * Three predictors say which commits to expect, the plan of least cost for them begins with the advice, and a shadow poller of each
 * predictor keeps the score by which they are believed. Pure: time comes in. One small state a channel, however many its clients.
 */
import { MAX_POLL_MS, MIN_POLL_MS, type PollReason } from '../contract/names.ts'
import { Gaps } from './gaps.ts'
import { createForecast, firstStep, HORIZON, mix, type Price, type Spike } from './plan.ts'
import { Rate } from './rate.ts'
import { Shadow } from './shadow.ts'
import { Ticks } from './ticks.ts'

export interface Advice {
  /** 1,000 to 300,000. */
  readonly afterMs: number
  readonly reason: PollReason
}

/** All a Pace knows; numbers only, under 4 kB as JSON. */
export interface PaceState {
  readonly format: 1
  readonly clock: readonly number[]
  readonly rate: readonly number[]
  readonly background: readonly number[]
  readonly gaps: readonly number[]
  readonly ticks: readonly number[]
  readonly shadows: readonly (readonly number[])[]
}

/** Commit-seconds of delay that one request is worth. */
const REQUEST_PRICE = 1
/** Seconds of delay that hurt twice as much as their length; it keeps the longest delays short. */
const PATIENCE = 60
/** How fast belief moves to the predictor whose shadow pays less. */
const SHARPNESS = 25
/** The gaps must pay this much less to be believed as much as the rate, the ticks may pay this much more. */
const GAPS_HANDICAP = 1.05
const TICKS_HANDICAP = 0.95
/** Hysteresis of the ticks. */
const LOYALTY = 1.02
/** A young channel is asked often, whatever is believed about it: at first every few seconds, then by its age. */
const YOUNG_STEP = 5
const YOUNG_SHARE = 0.25
/** How much longer than without scarcity an interval must be to be put down to it. */
const STRETCHED = 1.1
/** Commits a minute from which a channel counts as busy. */
const BURST_PER_MINUTE = 12
/** A clock set back by more seconds than this starts a new time scale; what was learned stays. */
const REORDERING = 1
const NO_SPIKES: readonly Spike[] = []

const forecast = createForecast()
const gapsForecast = createForecast()

export class Pace {
  readonly #price: Price
  readonly #rate = new Rate()
  /** The rate of the commits that no tick explains. */
  readonly #background = new Rate()
  readonly #gaps = new Gaps()
  readonly #ticks = new Ticks()
  readonly #rateShadow = new Shadow()
  readonly #ticksShadow = new Shadow()
  readonly #gapsShadow = new Shadow()
  #followsTicks = false
  /** Seconds since the first call, and the time of day that was second 0. */
  #now = 0
  #originMs: number | null = null

  constructor({ price = REQUEST_PRICE }: { readonly price?: number } = {}) {
    this.#price = { request: price > 0 ? price : REQUEST_PRICE, patience: PATIENCE }
  }

  /** A commit touched the channel. */
  observe(atMs: number): void {
    const now = this.#advance(atMs)
    for (const shadow of [this.#rateShadow, this.#ticksShadow, this.#gapsShadow]) shadow.observe(now)
    this.#rate.observe(now)
    this.#gaps.observe(now)
    if (!this.#ticks.observe(now)) this.#background.observe(now)
  }

  /** Commits in the last minute, roughly. */
  commitsPerMinute(nowMs: number): number {
    return Math.round(this.#rate.perMinute(this.#tell(nowMs)) * 10) / 10
  }

  /** Whether the commits are believed to come by ticks. */
  get followsTicks(): boolean {
    return this.#followsTicks
  }

  /** `scarcity`: how many times its usual price a request costs, 1 or more. */
  advise(nowMs: number, scarcity = 1): Advice {
    const now = this.#advance(nowMs)
    const spikes = this.#predict(now)
    const seconds = this.#plan(now, spikes, this.#price)
    if (!(scarcity > 1)) return { afterMs: bounded(seconds), reason: this.#reason(now, seconds, spikes) }
    // Patience grows with the interval, so that intervals grow with the root of the price and nothing else.
    const stretch = Math.sqrt(scarcity)
    const patient = Math.min(stretch * youngStep(now), firstStep(forecast, spikes, { request: this.#price.request * scarcity, patience: PATIENCE * stretch }))
    return { afterMs: bounded(patient), reason: patient > STRETCHED * seconds ? 'load' : this.#reason(now, patient, spikes) }
  }

  toJSON(): PaceState {
    return {
      format: 1,
      clock: [this.#now, this.#originMs ?? 0, this.#originMs === null ? 0 : 1, this.#followsTicks ? 1 : 0],
      rate: this.#rate.save().map(rounded),
      background: this.#background.save().map(rounded),
      gaps: this.#gaps.save().map(rounded),
      ticks: this.#ticks.save().map(rounded),
      shadows: [this.#rateShadow, this.#ticksShadow, this.#gapsShadow].map((shadow) => shadow.save().map(rounded)),
    }
  }

  /** A Pace that goes on where another one was saved. What is not such a state gives a new one. */
  static fromJSON(state: unknown, options: { readonly price?: number } = {}): Pace {
    const pace = new Pace(options)
    if (!isState(state)) return pace
    const [now = 0, originMs = 0, hasOrigin = 0, followsTicks = 0] = state.clock
    pace.#now = now
    pace.#originMs = hasOrigin === 1 ? originMs : null
    pace.#followsTicks = followsTicks === 1
    pace.#rate.load(state.rate)
    pace.#background.load(state.background)
    pace.#gaps.load(state.gaps)
    pace.#ticks.load(state.ticks)
    const shadows = [pace.#rateShadow, pace.#ticksShadow, pace.#gapsShadow]
    shadows.forEach((shadow, i) => shadow.load(state.shadows[i] ?? []))
    return pace
  }

  /** Seconds on the scale of this channel; they never run backwards, whatever the clock does. */
  #tell(ms: number): number {
    if (!Number.isFinite(ms)) return this.#now
    this.#originMs ??= ms
    const seconds = (ms - this.#originMs) / 1_000
    if (seconds < this.#now - REORDERING) this.#originMs = ms - this.#now * 1_000
    this.#now = Math.max(this.#now, seconds)
    return this.#now
  }

  /** Moves time on, and the shadows with it. */
  #advance(ms: number): number {
    const now = this.#tell(ms)
    this.#rateShadow.catchUp(now, this.#price, (at) => this.#planRate(at))
    this.#gapsShadow.catchUp(now, this.#price, (at) => this.#planGaps(at))
    const best = Math.min(this.#rateShadow.cost, this.#gapsShadow.cost)
    if (this.#ticks.isTicking) this.#ticksShadow.catchUp(now, this.#price, (at) => this.#planTicks(at))
    else this.#ticksShadow.copy(this.#rateShadow, best)
    const pays = this.#ticksShadow.cost * TICKS_HANDICAP
    this.#followsTicks = this.#ticks.isTicking && pays < best * (this.#followsTicks ? LOYALTY : 1)
    return now
  }

  /** Fills in the forecast that is believed; returns its ticks. */
  #predict(now: number): readonly Spike[] {
    if (this.#followsTicks) {
      this.#background.forecast(now, forecast)
      return this.#ticks.spikes(now, HORIZON)
    }
    this.#rate.forecast(now, forecast)
    this.#gaps.forecast(now, gapsForecast)
    const odds = ((this.#gapsShadow.cost * GAPS_HANDICAP + 1e-9) / (this.#rateShadow.cost + 1e-9)) ** SHARPNESS
    mix(forecast, gapsForecast, 1 / (1 + odds))
    return NO_SPIKES
  }

  #planRate(at: number): number {
    this.#rate.forecast(at, forecast)
    return this.#plan(at, NO_SPIKES, this.#price)
  }

  #planGaps(at: number): number {
    this.#gaps.forecast(at, forecast)
    return this.#plan(at, NO_SPIKES, this.#price)
  }

  #planTicks(at: number): number {
    this.#background.forecast(at, forecast)
    return this.#plan(at, this.#ticks.spikes(at, HORIZON), this.#price)
  }

  #plan(now: number, spikes: readonly Spike[], price: Price): number {
    return Math.min(youngStep(now), firstStep(forecast, spikes, price))
  }

  #reason(now: number, seconds: number, spikes: readonly Spike[]): PollReason {
    if (spikes.some(({ at }) => at <= seconds + 0.01)) return 'tick'
    return this.#rate.perMinute(now) >= BURST_PER_MINUTE ? 'burst' : 'idle'
  }
}

function youngStep(now: number): number {
  return YOUNG_STEP + now * YOUNG_SHARE
}

function bounded(seconds: number): number {
  return Math.min(MAX_POLL_MS, Math.max(MIN_POLL_MS, Math.ceil(seconds * 1_000)))
}

/** Times to a hundredth of a second, small numbers to four digits: enough to go on with. */
function rounded(value: number): number {
  return Math.abs(value) >= 100 ? Math.round(value * 100) / 100 : Number(value.toPrecision(4))
}

function isState(value: unknown): value is PaceState {
  if (typeof value !== 'object' || value === null || !('format' in value) || value.format !== 1) return false
  const { clock, rate, background, gaps, ticks, shadows } = value as Partial<Record<keyof PaceState, unknown>>
  return [clock, rate, background, gaps, ticks].every(isNumbers) && Array.isArray(shadows) && shadows.length === 3 && shadows.every(isNumbers)
}

function isNumbers(value: unknown): value is number[] {
  return Array.isArray(value) && value.every(Number.isFinite)
}
