/**
 * The truth machine for some seconds with fixed seeds: writers, clients of every kind, faults. Each promise is checked at every version
 * that any client reaches. For longer runs: `npm run torture -- --minutes 30 --seed 7 --faults all`.
 */
import { describe, expect, it } from 'vitest'
import { renderReport, type Report } from '../torture/report.ts'
import { torture, type TortureOptions } from '../torture/torture.ts'

async function run(options: Pick<TortureOptions, 'seed' | 'minutes' | 'faults' | 'leastFaults'>): Promise<Report> {
  const lines: string[] = []
  const report = await torture({ ...options, nodes: 2, log: (line) => lines.push(line) })
  expect(report.violations, `${lines.join('\n')}\n${renderReport(report)}`).toEqual([])
  // A run in which nothing happened would prove nothing.
  expect(report.transactions.committed).toBeGreaterThan(20)
  expect(report.compared).toBeGreaterThan(50)
  expect(report.clients.filter(({ answers }) => answers === 0)).toEqual([])
  console.log(`seed ${options.seed}: ${report.transactions.committed} transactions, ${report.known} states, compared ${report.compared} times; faults: ${report.faults.map(({ name }) => name).join(', ')}`)
  return report
}

describe('the truth machine', () => {
  it('No loss, No ghost, Whole, Ordered, Poll = stream: whatever the writers do, every client holds a state that existed, and the last one', { timeout: 120_000 }, async () => {
    await run({ seed: 1, minutes: 0.07, faults: ['none'] })
  })

  it('Resumable, Loud, Up: also when a node is killed, connections are terminated and PostgreSQL crashes in mid-write', { timeout: 180_000 }, async () => {
    const { faults } = await run({ seed: 2, minutes: 0, leastFaults: 3, faults: ['kill', 'terminate', 'crash'] })
    expect(faults.map(({ name }) => name).sort()).toEqual(['crash', 'kill', 'terminate'])
  })
})
