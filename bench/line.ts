/** What a line of the table is: something to measure, and the figures that it gives. */
import type { Lab } from './lab.ts'

/** How much of a line is measured: all of it, or what a regression guard needs of it. */
export type Scale = 'full' | 'guard'

export interface Line {
  readonly name: string
  measure(lab: Lab, scale: Scale): Promise<readonly Figure[]>
}

export interface Bound {
  /** Whether less is better (`most`) or more. */
  readonly kind: 'most' | 'least'
  readonly required: number
  readonly reach: number
}

export interface Figure {
  /** What was done, and which of its figures this is. */
  readonly work: string
  readonly measured: number
  readonly unit: string
  /** What it is compared with, measured in the same run. */
  readonly against: { readonly name: string; readonly measured: number } | null
  /** The bound is one of the ratio, or of the measured value. */
  readonly judged: 'ratio' | 'measured'
  /** Null: to be known, not to be met. */
  readonly bound: Bound | null
}

/** What became of a line. */
export interface Measured {
  readonly line: string
  /** None: a tool that it needs is not installed. */
  readonly figures: readonly Figure[]
  /** How long measuring took. */
  readonly seconds: number
}

/** A point of the curve: what so many streams cost. */
export interface CurvePoint {
  readonly server: string
  readonly streams: number
  /** Bytes resident more than with none, for each. */
  readonly bytesEach: number
  readonly cpuMicrosecondsADelivery: number
  /** From the commit until all of them held the change, ms. */
  readonly allHoldMs: number
}

export function ratioOf({ measured, against }: Figure): number | null {
  return against === null ? null : measured / against.measured
}

/** Whether the bound is met, with some slack: 1 is none, 1.5 allows half as much again. Null where there is no bound. */
export function isMet(figure: Figure, slack = 1): boolean | null {
  if (figure.bound === null) return null
  const value = figure.judged === 'ratio' ? ratioOf(figure) : figure.measured
  // What could not be measured has not been met.
  if (value === null || Number.isNaN(value)) return false
  return figure.bound.kind === 'most' ? value <= figure.bound.required * slack : value >= figure.bound.required / slack
}

export function atMost(required: number, reach: number): Bound {
  return { kind: 'most', required, reach }
}

export function atLeast(required: number, reach: number): Bound {
  return { kind: 'least', required, reach }
}
