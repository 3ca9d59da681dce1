/** What a fault came to, and how it is printed. */
import { Place } from './place.ts'

/** What a scenario says of itself; the rest is counted by its clients. */
export interface Account {
  readonly fault: string
  readonly how: string
  /** From the end of the fault until each client had a commit made after it, ms. */
  readonly recoveries: readonly number[]
  readonly note?: string
  /** What must hold beside the promises, and did not. */
  readonly complaint?: string
}

export interface Outcome extends Account {
  readonly lost: number
  readonly duplicated: number
  readonly torn: number
  readonly refusals: number
  readonly peakBytes: number
}

/** Runs a scenario in a place of its own, and counts what its clients have seen. */
export async function withPlace(environment: Readonly<Record<string, string>>, scenario: (place: Place) => Promise<Account>): Promise<Outcome> {
  const place = await Place.start(environment)
  try {
    const account = await scenario(place)
    const different = await place.different()
    const total = (pick: (client: Place['clients'][number]) => number): number => place.clients.reduce((sum, client) => sum + pick(client), 0)
    return {
      ...account, lost: different + total(({ lost }) => lost), duplicated: total(({ duplicated }) => duplicated), torn: total(({ torn }) => torn),
      refusals: total(({ refusals }) => refusals), peakBytes: await place.peakBytes(),
    }
  } finally {
    await place.close()
  }
}

/** Whether everything was as promised. */
export function isGood({ lost, duplicated, torn, refusals, complaint }: Outcome): boolean {
  return lost + duplicated + torn + refusals === 0 && complaint === undefined
}

export const HEADINGS = ['fault', 'how injected', 'lost', 'dup.', 'torn', 'recovery p50', 'worst', 'peak memory', '']

export function describe(outcome: Outcome): readonly string[] {
  const { fault, how, lost, duplicated, torn, refusals, recoveries, peakBytes, note, complaint } = outcome
  const sorted = recoveries.toSorted((a, b) => a - b)
  const remarks = [note, refusals === 0 ? undefined : `${refusals} refused`, complaint].filter((remark) => remark !== undefined)
  return [
    fault, how, String(lost), String(duplicated), String(torn), duration(sorted[Math.floor(sorted.length / 2)]), duration(sorted.at(-1)),
    `${Math.round(peakBytes / 1e6)} MB`, remarks.join('; '),
  ]
}

function duration(ms: number | undefined): string {
  return ms === undefined ? '-' : ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(1)} s`
}

/** Lines of equal columns. */
export function align(lines: readonly (readonly string[])[]): string {
  const widths = (lines[0] ?? []).map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)))
  return lines.map((line) => line.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd()).join('\n')
}
