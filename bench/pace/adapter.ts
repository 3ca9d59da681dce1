/** A policy for benchmarks in seconds: told of every commit, asked at every poll. */
import { Pace } from '../../src/pace/pace.ts'

export interface Policy {
  change(atSeconds: number): void
  /** Seconds until the next poll. */
  poll(atSeconds: number, newCommits: number): number
}

export function create(price: number): Policy {
  const pace = new Pace({ price })
  return {
    change: (atSeconds) => pace.observe(atSeconds * 1_000),
    poll: (atSeconds) => pace.advise(atSeconds * 1_000).afterMs / 1_000,
  }
}
