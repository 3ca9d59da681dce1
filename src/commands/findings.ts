/** What `freshet check` finds: one fact of a database, how grave it is, and what to do about it. */
import type { Config } from '../config.ts'
import { explainDatabase } from '../database/explain.ts'
import type { Pool } from '../database/pool.ts'
import { StartupError } from '../errors.ts'
import { printable, type Terminal } from './terminal.ts'

/** A warning works, but not well or not always; a problem does not work. */
export type Finding =
  | { readonly level: 'ok'; readonly text: string }
  | { readonly level: 'warning' | 'problem'; readonly text: string; readonly cure: string }

/** What is looked at. */
export interface Subject {
  readonly pool: Pool
  readonly url: string
  readonly config: Config
}

export function ok(text: string): Finding {
  return { level: 'ok', text }
}

export function warning(text: string, cure: string): Finding {
  return { level: 'warning', text, cure }
}

export function problem(text: string, cure: string): Finding {
  return { level: 'problem', text, cure }
}

/** A question that cannot be answered is a finding, and does not keep the others from being asked. */
export async function attempt(what: string, look: () => Promise<readonly Finding[]>): Promise<readonly Finding[]> {
  try {
    return await look()
  } catch (error) {
    if (error instanceof StartupError) return [problem(error.reason, error.cure)]
    if (!(error instanceof Error)) throw error
    const explained = explainDatabase(error, 'see the log of PostgreSQL for the cause')
    return [warning(`${what} could not be looked at (${error.message})`, explained instanceof StartupError ? explained.cure : 'ask again')]
  }
}

const STYLES = { ok: 'green', warning: 'yellow', problem: 'red' } as const

export function describeFinding(finding: Finding, paint: Terminal['paint']): string {
  const line = `${paint(STYLES[finding.level], finding.level.padEnd(7))}  ${printable(finding.text)}`
  return finding.level === 'ok' ? line : `${line}\n         cure: ${printable(finding.cure)}`
}

export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`
}
