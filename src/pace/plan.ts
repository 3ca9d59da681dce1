/**
 * The cheapest plan of polls for a forecast, by dynamic programming; the advice is its first step.
 * A poll costs a price, a commit costs its delay until the next poll. Times are seconds from now.
 */

/** Shortest and longest interval, seconds. */
export const MIN_STEP = 1
export const MAX_STEP = 300

const POINTS_PER_DECADE = 10
/** Seconds ahead that are planned. */
export const HORIZON = 900

/** Where forecasts are evaluated: 0, then evenly on a logarithmic scale up to a quarter of an hour. */
export const GRID: Float64Array = Float64Array.from([0, 0.25, 0.5, ...logarithmic(1, HORIZON)])
export const CELLS = GRID.length - 1

function logarithmic(from: number, to: number): number[] {
  const steps = Math.ceil(POINTS_PER_DECADE * Math.log10(to / from))
  return Array.from({ length: steps + 1 }, (_, i) => from * (to / from) ** (i / steps))
}

/** Commits expected close to one moment: a tick, or a part of its spread. */
export interface Spike {
  readonly at: number
  readonly mass: number
}

export interface Forecast {
  /** Commits expected in each cell of GRID. */
  readonly masses: Float64Array
  /** The same for what later polls will cost: they will know more than we do now, and spend where commits are. */
  readonly eased: Float64Array
}

export function createForecast(): Forecast {
  return { masses: new Float64Array(CELLS), eased: new Float64Array(CELLS) }
}

/** Turns a forecast into a mixture with another one, of which `share` is taken. */
export function mix(forecast: Forecast, other: Forecast, share: number): void {
  for (let i = 0; i < CELLS; i++) {
    forecast.masses[i] = (forecast.masses[i] ?? 0) * (1 - share) + (other.masses[i] ?? 0) * share
    forecast.eased[i] = (forecast.eased[i] ?? 0) * (1 - share) + (other.eased[i] ?? 0) * share
  }
}

export interface Price {
  /** Commit-seconds of delay that one request is worth. */
  readonly request: number
  /** Delay from which a second of it counts twice: the cost of a delay x is x + x² / (2 × patience). Infinity: plain delay. */
  readonly patience: number
}

const LARGEST = 120
const times = new Float64Array(LARGEST)
/** Expected commits before a point, and the first two moments of their times. */
interface Moments {
  readonly zeroth: Float64Array
  readonly first: Float64Array
  readonly second: Float64Array
}
const moments = (): Moments => ({ zeroth: new Float64Array(LARGEST), first: new Float64Array(LARGEST), second: new Float64Array(LARGEST) })
const all = moments()
const eased = moments()
const rest = new Float64Array(LARGEST)
const isSpike = new Uint8Array(LARGEST)

/** Seconds to the first poll of the cheapest plan. Spikes ascend. */
export function firstStep(forecast: Forecast, spikes: readonly Spike[], price: Price): number {
  layOut(forecast.masses, spikes, all)
  const last = layOut(forecast.eased, spikes, eased)
  const { request, patience } = price
  const half = 0.5 / patience
  rest[last] = 0
  for (let i = last - 1; i > 0; i--) {
    let best = Infinity
    for (let j = i + 1; j <= last; j++) {
      const delay = delayBetween(eased, i, j, half)
      if (delay >= best) break
      // Where the forecast is smooth, the polls of a long stretch halve, third, ... its delay: n requests leave delay / n.
      const cost = (delay > request ? 2 * Math.sqrt(request * delay) : request + delay) + (rest[j] ?? 0)
      if (cost < best) best = cost
    }
    rest[i] = best
  }
  return cheapest(last, half)
}

function cheapest(last: number, half: number): number {
  let best = Infinity
  let at = 1
  for (let j = 1; j <= last; j++) {
    const time = times[j] ?? 0
    if (time < MIN_STEP) continue
    if (time > MAX_STEP) break
    const cost = delayBetween(all, 0, j, half) + (rest[j] ?? 0)
    if (cost <= best) {
      best = cost
      at = j
    }
  }
  return Math.min(MAX_STEP, Math.max(MIN_STEP, between(at, last, half)))
}

/** The lowest point of the parabola through a point and its neighbours: the grid is coarser than the advice. */
function between(at: number, last: number, half: number): number {
  const time = times[at] ?? 0
  if (at < 2 || at >= last || isSpike[at] === 1) return time
  const before = (times[at - 1] ?? 0) - time
  const after = (times[at + 1] ?? 0) - time
  const cost = delayBetween(all, 0, at, half) + (rest[at] ?? 0)
  const left = (delayBetween(all, 0, at - 1, half) + (rest[at - 1] ?? 0) - cost) / before
  const right = (delayBetween(all, 0, at + 1, half) + (rest[at + 1] ?? 0) - cost) / after
  const curve = (right - left) / (after - before)
  if (!(curve > 0)) return time
  return time + Math.min(after / 2, Math.max(before / 2, (left * after - right * before) / (after - before) / (-2 * curve)))
}

/** Cost of the delay of all commits between two points, seen at the second. */
function delayBetween({ zeroth, first, second }: Moments, i: number, j: number, half: number): number {
  const end = times[j] ?? 0
  const n = (zeroth[j] ?? 0) - (zeroth[i] ?? 0)
  const sum = (first[j] ?? 0) - (first[i] ?? 0)
  const linear = end * n - sum
  return half === 0 ? linear : linear + half * Math.max(0, end * (linear - sum) + (second[j] ?? 0) - (second[i] ?? 0))
}

/** Merges grid and spikes into points with the moments of everything before them; returns the last point. */
function layOut(masses: Float64Array, spikes: readonly Spike[], { zeroth, first, second }: Moments): number {
  let point = 0
  let n = 0
  let sum = 0
  let squares = 0
  let next = 0
  const add = (from: number, to: number, mass: number): void => {
    n += mass
    sum += mass * 0.5 * (from + to)
    squares += (mass * (from * from + from * to + to * to)) / 3
  }
  const mark = (time: number, spiked: 0 | 1): void => {
    point++
    isSpike[point] = spiked
    times[point] = time
    zeroth[point] = n
    first[point] = sum
    second[point] = squares
  }
  for (let cell = 0; cell < CELLS; cell++) {
    let from = GRID[cell] ?? 0
    const to = GRID[cell + 1] ?? 0
    const density = (masses[cell] ?? 0) / (to - from)
    for (let spike = spikes[next]; spike !== undefined && spike.at < to; spike = spikes[++next]) {
      const at = Math.max(from, spike.at)
      add(from, at, density * (at - from))
      from = at
      add(at, at, spike.mass)
      if (point < LARGEST - CELLS - 2) mark(at, 1)
    }
    add(from, to, density * (to - from))
    mark(to, 0)
  }
  return point
}

/**
 * The steady rate that costs as much as an uncertain one. Polling a rate r costs sqrt(r): if no commit comes (`quiet`, the chance)
 * the rate will be `quietRate`, and `rate` is the mean of all cases.
 */
export function easedRate(rate: number, quiet: number, quietRate: number): number {
  const root = quiet * Math.sqrt(quietRate) + Math.sqrt((1 - quiet) * Math.max(0, rate - quiet * quietRate))
  return Math.min(rate, root * root)
}
