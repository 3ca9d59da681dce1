/**
 * The advice of one node: a Pace for each channel, a price that keeps all polls within a budget, and moments for them that do not
 * coincide. Promise: advice costs next to nothing (a channel's is worked out once for all who ask within a quarter of a second)
 * and commits cost nothing here: they are taken note of when whoever brought them is done.
 */
import { MAX_POLL_MS, MIN_POLL_MS } from '../contract/names.ts'
import { Admission } from './admission.ts'
import { Appointments, SLOT_MS } from './appointments.ts'
import { nextScarcity, type Demand } from './budget.ts'
import { Pace, type Advice } from './pace.ts'
import { Spread } from './spread.ts'

export interface AdvisorOptions {
  /** Milliseconds that never run backwards. Default: the process's own. */
  readonly now?: () => number
  /** Polls a second. Default: no limit. */
  readonly budget?: number
  /** Commit-seconds of delay that one request is worth while there is no scarcity. Default 1. */
  readonly price?: number
  /** Runs work a little later. Default: when the events at hand are dealt with. */
  readonly defer?: (work: () => void) => void
  /** Most channels known at a time; beyond them, the one known longest is forgotten. Default: no limit. */
  readonly maxChannels?: number
}

/** Who asks. */
export interface Asking {
  /** Its first answer, which nobody else gets: it takes a phase of its own. */
  readonly isFirst?: boolean
  /** It will be held, and ask again at once: it keeps no appointment. */
  readonly isHolding?: boolean
}

/** How long an advice is good for all who ask. */
const SHARED_MS = 250
/** Commits this close reach clients as one. */
const TOGETHER_MS = 40
const PRICED_EVERY_MS = 1_000
/** Clients come 2 to 5 % later than they were told. */
const CLIENT_LATENESS = 1.035
/** A channel's moments are filled up to this many times what would be even; some polls a slot are always allowed. */
const UNEVENNESS = 1.05
const FEW_A_SLOT = 2
/** What is spent on a tick where there is no budget, polls a second. */
const TICK_POLLS = 1_000
/** How much of an interval an appointment may be moved, earlier or later; one for a tick only later, and so far. */
const MOVABLE = 0.5
const TICK_MOVABLE_MS = 60_000
const SECOND_SLOTS = 1_000 / SLOT_MS

interface Known {
  readonly pace: Pace
  readonly clients: Appointments
  /** Where first clients begin, and where those go who find no free moment. */
  readonly phases: Spread
  readonly moments: Spread
  lastCommitMs: number
  advice: Advice
  advisedMs: number
  /** Of the time of the advice. */
  scarcity: number
  /** Seconds between polls that were advised lately, on average, less what scarcity has added. */
  meanInterval: number
}

export class Advisor {
  readonly #options: AdvisorOptions
  readonly #now: () => number
  readonly #defer: (work: () => void) => void
  readonly #known = new Map<string, Known>()
  readonly #appointments = new Appointments()
  readonly #admission = new Admission()
  #commits: { readonly name: string; readonly atMs: number }[] = []
  #budget: number
  #scarcity = 1
  #pricedMs = -Infinity

  constructor(options: AdvisorOptions = {}) {
    this.#options = options
    this.#now = options.now ?? (() => performance.now())
    this.#defer = options.defer ?? ((work) => { setImmediate(work) })
    this.#budget = options.budget ?? Infinity
  }

  /** Polls a second. */
  get budget(): number {
    return this.#budget
  }

  set budget(pollsPerSecond: number) {
    this.#budget = pollsPerSecond > 0 ? pollsPerSecond : Infinity
  }

  /** How many times as dear as usual a request is. */
  get scarcity(): number {
    return this.#scarcity
  }

  /** Clients that are expected again. */
  get clients(): number {
    return this.#appointments.open(this.#now())
  }

  /** A commit touched the channel, now or `ageMs` ago. Older ones are to come first. */
  observe(name: string, ageMs = 0): void {
    this.#commits.push({ name, atMs: this.#now() - Math.max(0, ageMs) })
    if (this.#commits.length === 1) this.#defer(() => this.#learn())
  }

  /** Commits in the last minute, roughly. */
  commitsPerMinute(name: string): number {
    this.#learn()
    return this.#known.get(name)?.pace.commitsPerMinute(this.#now()) ?? 0
  }

  /** 0: this poll may be answered; else the seconds after which to come back. */
  admit(): number {
    return this.#admission.ask(this.#now(), this.#budget)
  }

  /** When to ask again. Counts the client that is told. */
  advise(name: string, { isFirst = false, isHolding = false }: Asking = {}): Advice {
    this.#learn()
    const nowMs = this.#now()
    const known = this.#of(name)
    if (nowMs - this.#pricedMs >= PRICED_EVERY_MS) this.#setPrice(nowMs)
    const advice = this.#shared(known, nowMs)
    if (isHolding) return advice
    const isTick = known.pace.followsTicks
    const wantedMs = isFirst && !isTick ? MIN_POLL_MS + Math.round((advice.afterMs - MIN_POLL_MS) * known.phases.next()) : advice.afterMs
    const afterMs = this.#moment(wantedMs, nowMs, known)
    const dueMs = nowMs + afterMs * CLIENT_LATENESS
    this.#appointments.add(nowMs, dueMs)
    known.clients.add(nowMs, dueMs)
    known.meanInterval += (withoutScarcity(known) - known.meanInterval) / Math.max(1, known.clients.open(nowMs))
    return afterMs === advice.afterMs ? advice : { afterMs, reason: advice.reason }
  }

  #of(name: string): Known {
    const known = this.#known.get(name)
    if (known !== undefined) return known
    const { price, maxChannels = Infinity } = this.#options
    const created: Known = {
      pace: new Pace(price === undefined ? {} : { price }), clients: new Appointments(), phases: new Spread(), moments: new Spread(), lastCommitMs: -Infinity,
      advice: { afterMs: MIN_POLL_MS, reason: 'idle' }, advisedMs: -Infinity, scarcity: 1, meanInterval: 0,
    }
    const [oldest] = this.#known.keys()
    if (this.#known.size >= maxChannels && oldest !== undefined) this.#known.delete(oldest)
    this.#known.set(name, created)
    return created
  }

  /** Takes note of the commits that have come. */
  #learn(): void {
    if (this.#commits.length === 0) return
    const commits = this.#commits
    this.#commits = []
    for (const { name, atMs } of commits) {
      const known = this.#of(name)
      if (atMs - known.lastCommitMs < TOGETHER_MS) continue
      known.lastCommitMs = atMs
      known.advisedMs = -Infinity
      known.pace.observe(atMs)
    }
  }

  /** What everybody is told. A tick is a moment, not a distance: it comes closer while the advice is shared. */
  #shared(known: Known, nowMs: number): Advice {
    const ageMs = nowMs - known.advisedMs
    if (ageMs >= SHARED_MS) {
      known.advice = known.pace.advise(nowMs, this.#scarcity)
      known.advisedMs = nowMs
      known.scarcity = this.#scarcity
      return known.advice
    }
    if (!known.pace.followsTicks) return known.advice
    return { ...known.advice, afterMs: Math.max(MIN_POLL_MS, Math.round(known.advice.afterMs - ageMs)) }
  }

  #setPrice(nowMs: number): void {
    this.#pricedMs = nowMs
    const demands = [...this.#known.values()].map((known) => demandOf(known, nowMs)).filter(({ clients }) => clients > 0)
    const scarcity = nextScarcity(demands, this.#scarcity, this.#budget)
    if (scarcity === this.#scarcity) return
    this.#scarcity = scarcity
    for (const known of this.#known.values()) known.advisedMs = -Infinity
  }

  /** The free moment closest to the one wanted: what all channels may spend is not spent there yet, nor what this one may. */
  #moment(wantedMs: number, nowMs: number, { pace, clients, advice, moments }: Known): number {
    const isTick = pace.followsTicks
    const room = roomFor(isTick ? Math.min(this.#budget, TICK_POLLS) : this.#budget)
    const ownRoom = isTick ? Infinity : roomFor((UNEVENNESS * clients.open(nowMs) * 1_000) / advice.afterMs)
    const isFree = (ms: number): boolean => {
      if (ms < MIN_POLL_MS || ms > MAX_POLL_MS) return false
      const dueMs = nowMs + ms * CLIENT_LATENESS
      return this.#appointments.at(nowMs, dueMs) < room && clients.at(nowMs, dueMs) < ownRoom
    }
    const reachMs = isTick ? TICK_MOVABLE_MS : MOVABLE * advice.afterMs
    for (let moved = 0; moved <= reachMs; moved += SLOT_MS) {
      if (isFree(wantedMs + moved)) return wantedMs + moved
      if (!isTick && isFree(wantedMs - moved)) return wantedMs - moved
    }
    const share = moments.next()
    return Math.min(MAX_POLL_MS, Math.max(MIN_POLL_MS, Math.round(wantedMs + reachMs * (isTick ? share : 2 * share - 1))))
  }
}

/** Polls a slot. Where few come, nobody is moved. */
function roomFor(pollsPerSecond: number): number {
  return Math.max(FEW_A_SLOT, pollsPerSecond / SECOND_SLOTS)
}

/** Between ticks intervals are long and short by turns: their mean counts. Otherwise all will soon have the present one. */
function demandOf(known: Known, nowMs: number): Demand {
  return { clients: known.clients.open(nowMs), interval: known.pace.followsTicks ? known.meanInterval : withoutScarcity(known) }
}

function withoutScarcity({ advice, scarcity }: Known): number {
  return advice.afterMs / 1_000 / Math.sqrt(scarcity)
}
