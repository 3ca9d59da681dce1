/** What streams and polls have in common: refusals, retries, and telling a Delta from something else. */
import type { Delta, Problem } from '../contract/names.ts'

const MAX_RETRY_MS = 30_000

/** The server refuses, and would refuse again. */
export class FollowError extends Error {
  override readonly name = 'FollowError'
  readonly status: number
  /** What it said, if it was a Freshet server that spoke. */
  readonly problem: Problem | null

  constructor(message: string, { status, problem }: { readonly status: number; readonly problem: Problem | null }) {
    super(message)
    this.status = status
    this.problem = problem
  }
}

/** An Error to come back after; throws one that another attempt would only repeat. `sought`: what a 200 should have been. */
export async function refusalOf(response: Response, sought: string): Promise<FollowError> {
  const { status } = response
  const problem = parseProblem(await response.text().catch(() => ''))
  const refusal = new FollowError(problem?.detail ?? `The server answered ${status}${status === 200 ? `, but not with ${sought}` : ''}.`, { status, problem })
  if (status === 408 || status === 425 || status === 429 || status >= 500) return refusal
  throw refusal
}

/** 0 where the server does not say. */
export function retryAfterMs(response: Response): number {
  return Number(response.headers.get('retry-after')) * 1_000 || 0
}

/** Twice as long after each failure, up to half a minute, and a quarter more or less: a crowd must not come back in step. */
export function backOffMs({ retryMs, failures }: { readonly retryMs: number; readonly failures: number }, chance: number): number {
  const steps = Math.max(0, failures)
  return Math.round(Math.max(retryMs, Math.min(MAX_RETRY_MS, retryMs * 2 ** steps)) * (0.75 + chance / 2))
}

function parseProblem(text: string): Problem | null {
  const value = parse(text)
  return typeof value === 'object' && value !== null && 'code' in value && 'detail' in value && 'hint' in value ? value as Problem : null
}

export function isDelta(value: unknown): value is Delta {
  return typeof value === 'object' && value !== null && 'channel' in value && 'version' in value && typeof value.version === 'string'
    && 'more' in value && typeof value.more === 'boolean' && 'reset' in value && 'changes' in value && Array.isArray(value.changes)
}

/** Undefined for what is not JSON. */
export function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

export function toError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error))
}

/** A function, so that no check is believed beyond the await that follows it. */
export function isAborted(signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true
}
