/** The result of a run, as an object and as text. */
import type { Violation, ViolationKind } from './checks.ts'
import type { FaultRecord, Outcome } from './history.ts'

export interface Report {
  readonly seed: number
  readonly minutes: number
  readonly nodes: number
  readonly faults: readonly FaultRecord[]
  readonly violations: readonly Violation[]
  readonly transactions: Readonly<Record<Outcome, number>>
  /** Why transactions failed, and how often. */
  readonly failures: Readonly<Record<string, number>>
  /** Channels and versions of which a state is known, and how often one was compared with another client's. */
  readonly known: number
  readonly compared: number
  /** Of the largest node. */
  readonly peakBytes: number
  readonly clients: readonly { readonly name: string; readonly answers: number; readonly resets: number; readonly sessions: number; readonly errors: number }[]
  /** How each fault is done, by name. */
  readonly hows: Readonly<Record<string, string>>
}

const LOST: readonly ViolationKind[] = ['lost', 'stuck']
const DUPLICATED: readonly ViolationKind[] = ['duplicated', 'backwards']

export function renderReport(report: Report): string {
  const { violations, transactions, clients } = report
  return [
    ...violations.slice(0, 10).map((violation, index) => renderViolation(violation, index + 1, report.seed)),
    '',
    ...renderTable([['fault', 'how injected', 'times', 'lost', 'duplicated', 'torn, ghost or else', 'recovery p50', 'worst'], ...faultRows(report)]),
    '',
    ...renderTable([['client', 'sessions', 'answers', 'resets', 'errors'], ...clients.map(({ name, sessions, answers, resets, errors }) => [name, sessions, answers, resets, errors].map(String))]),
    '',
    ...renderTable([['transactions failed', 'times'], ...Object.entries(report.failures).sort(([, a], [, b]) => b - a).slice(0, 12).map(([reason, times]) => [reason.slice(0, 100), String(times)])]),
    '',
    `seed ${report.seed}, ${report.minutes} minutes, ${report.nodes} nodes: ${transactions.committed} transactions committed, ${transactions['rolled back']} rolled back, ${transactions.failed} failed, ${transactions.unknown} unknown; `
      + `${report.known} states known, compared ${report.compared} times; peak memory of a node ${Math.round(report.peakBytes / 1e6)} MB`,
    violations.length === 0 ? 'no violation' : `${violations.length} VIOLATIONS: ${[...new Set(violations.map(({ kind }) => kind))].join(', ')}`,
  ].join('\n')
}

function faultRows({ faults, violations, hows }: Report): readonly string[][] {
  const names = [...new Set([...faults.map(({ name }) => name), ...violations.map(({ fault }) => fault)])].sort()
  return names.map((name) => {
    const own = violations.filter(({ fault }) => fault === name)
    const count = (fits: (kind: ViolationKind) => boolean): string => String(own.filter(({ kind }) => fits(kind)).length)
    const done = faults.filter((fault) => fault.name === name)
    const recoveries = done.flatMap(({ recoveryMs }) => recoveryMs ?? []).sort((a, b) => a - b)
    return [
      name, hows[name] ?? '', String(done.length),
      count((kind) => LOST.includes(kind)), count((kind) => DUPLICATED.includes(kind)), count((kind) => !LOST.includes(kind) && !DUPLICATED.includes(kind)),
      seconds(recoveries[Math.floor((recoveries.length - 1) / 2)]), seconds(recoveries.at(-1)),
    ]
  })
}

function renderViolation({ kind, who, what, fault, story }: Violation, number: number, seed: number): string {
  return [`violation ${number} (seed ${seed}, fault ${fault}): ${kind.toUpperCase()}: "${who}": ${what}`, ...story.map((line) => line.slice(0, 1_000))].join('\n')
}

function seconds(ms: number | undefined): string {
  return ms === undefined ? '-' : `${(ms / 1_000).toFixed(1)} s`
}

function renderTable(rows: readonly (readonly string[])[]): readonly string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  return rows.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd())
}
