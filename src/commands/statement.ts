/** PostgreSQL's own words for why a statement of a command failed. */
import { sqlState } from '../database/pool.ts'
import { StartupError } from '../errors.ts'

/** The error and its hint as a StartupError; an error that PostgreSQL did not raise as it is. */
export function explainStatement(error: unknown): unknown {
  const code = sqlState(error)
  if (code === undefined || !(error instanceof Error)) return error
  const hint = 'hint' in error && typeof error.hint === 'string' ? error.hint : null
  return new StartupError(clause(error.message), clause(hint ?? cureOf(code)), { cause: error })
}

function cureOf(code: string): string {
  switch (code) {
    // Schema or function missing.
    case '3F000': case '42883': return 'run "freshet migrate" first'
    case '42P01': return 'write the table as schema.table, in double quotes where it has capitals'
    case '42501': return 'call it as the owner of the table'
    default: return 'run "freshet check" for what is wrong'
  }
}

/** A sentence as part of a longer one. */
function clause(sentence: string): string {
  return sentence.charAt(0).toLowerCase() + sentence.slice(1).replace(/\.$/, '')
}
