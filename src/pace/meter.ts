/** Measures what the event loop has left for polls, and tells the advisor: the budget where none is configured. */
import type { Advisor } from './advisor.ts'
import { Capacity } from './capacity.ts'

const EVERY_MS = 1_000

export interface Meter {
  /** A poll was answered. */
  poll(): void
  close(): void
}

export function startMeter(advisor: Advisor): Meter {
  const capacity = new Capacity()
  let polls = 0
  let since = performance.eventLoopUtilization()
  let sinceMs = performance.now()
  const timer = setInterval(() => {
    const until = performance.eventLoopUtilization()
    const untilMs = performance.now()
    capacity.measure({ polls: polls * 1_000 / (untilMs - sinceMs), busy: performance.eventLoopUtilization(until, since).utilization })
    advisor.budget = capacity.pollsPerSecond;
    [polls, since, sinceMs] = [0, until, untilMs]
  }, EVERY_MS)
  return { poll() { polls += 1 }, close: () => clearInterval(timer) }
}
