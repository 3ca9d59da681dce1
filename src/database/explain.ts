/** Why the database cannot be used, in one sentence with its cure. Whatever already is such a sentence passes unchanged. */
import { StartupError } from '../errors.ts'

/** Any Error as a StartupError; `otherwise` is the cure where the error names none of its own. */
export function explainDatabase(error: unknown, otherwise = 'run "freshet check" for what is wrong'): unknown {
  if (error instanceof StartupError || !(error instanceof Error)) return error
  const code = 'code' in error ? String(error.code) : ''
  const because = (reason: string, cure: string): StartupError => new StartupError(reason, cure, { cause: error })
  switch (code) {
    case 'ECONNREFUSED': return because('nothing listens at the address in DATABASE_URL', 'start PostgreSQL there or correct DATABASE_URL')
    case 'ENOTFOUND': case 'EAI_AGAIN': return because('the host in DATABASE_URL cannot be found', 'correct DATABASE_URL')
    case '28P01': case '28000': return because(`PostgreSQL refuses the login (${error.message})`, 'correct user and password in DATABASE_URL')
    case '3D000': return because(error.message, 'create it or correct DATABASE_URL')
    case '42501': return because(`this role lacks a privilege (${error.message})`, 'run "freshet check" for the grants it needs')
    case '3F000': case '42P01': return because('the schema freshet is not in this database', 'start with MIGRATE=1, or run "freshet migrate"')
    case '53300': return because(`PostgreSQL has no connection left (${error.message})`, 'raise max_connections, or end some of its clients')
    case '57P03': return because(`PostgreSQL is not ready (${error.message})`, 'try again when it has started')
    default: return because(`the database cannot be used (${error.message})`, otherwise)
  }
}
