/** The log: JSON lines on stderr. An error is its name, message, code and stack: PostgreSQL's details hold row data, the driver's its whole client. */
import pino, { type Logger } from 'pino'

export function createLog(level: string): Logger {
  return pino({
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { err: describeError },
  }, pino.destination(2))
}

/** What may be said of an error, and of what caused it. */
export function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error === undefined ? undefined : { message: typeof error === 'string' ? error : JSON.stringify(error) }
  const code = 'code' in error && typeof error.code === 'string' ? error.code : undefined
  return { type: error.name, message: error.message, code, stack: error.stack, cause: error.cause === undefined ? undefined : describeError(error.cause) }
}
