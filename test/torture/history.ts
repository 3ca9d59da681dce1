/**
 * What was done and when: the last transactions of all writers and every fault, so that a violation can be told with what was near it.
 * Bounded: old transactions are forgotten.
 */
export type Outcome = 'open' | 'committed' | 'rolled back' | 'failed' | 'unknown'

export interface TransactionRecord {
  readonly stamp: string
  readonly isolation: string
  /** `account 17: …`: the subject of the rows that it touched, and how. */
  readonly notes: string[]
  readonly startedMs: number
  endedMs: number | null
  outcome: Outcome
  /** Why it failed. */
  reason: string
}

export interface FaultRecord {
  readonly name: string
  detail: string
  readonly startedMs: number
  endedMs: number | null
  /** From its end until every client had seen a commit made after it; null: they never did. */
  recoveryMs: number | null
  /** Who saw it last. */
  lastToRecover: string
}

const MAX_TRANSACTIONS = 5_000
/** A fault that ended so long ago may still be the cause of what is seen now. */
const NEAR_MS = 15_000

export class History {
  readonly startedMs = Date.now()
  readonly faults: FaultRecord[] = []
  readonly counts: Record<Outcome, number> = { open: 0, committed: 0, 'rolled back': 0, failed: 0, unknown: 0 }
  /** Why transactions failed, and how often. */
  readonly reasons = new Map<string, number>()
  #transactions: TransactionRecord[] = []

  begin(stamp: string, isolation: string): TransactionRecord {
    const record: TransactionRecord = { stamp, isolation, notes: [], startedMs: Date.now(), endedMs: null, outcome: 'open', reason: '' }
    this.#transactions.push(record)
    if (this.#transactions.length > 2 * MAX_TRANSACTIONS) this.#transactions = this.#transactions.slice(-MAX_TRANSACTIONS)
    return record
  }

  end(record: TransactionRecord, outcome: Outcome, reason = ''): void {
    Object.assign(record, { endedMs: Date.now(), outcome, reason })
    this.counts[outcome] += 1
    if (reason !== '') this.reasons.set(reason, (this.reasons.get(reason) ?? 0) + 1)
  }

  /** The last transactions that bear one of the stamps or touched one of the subjects. */
  involved(stamps: ReadonlySet<string>, subjects: ReadonlySet<string>): readonly TransactionRecord[] {
    return this.#transactions.filter(({ stamp, notes }) => stamps.has(stamp) || notes.some((note) => subjects.has(note.slice(0, note.indexOf(':'))))).slice(-12)
  }

  /** Faults that are on, or ended a moment ago; the newest last. */
  nearFaults(atMs: number): readonly FaultRecord[] {
    return this.faults.filter(({ startedMs, endedMs }) => startedMs <= atMs && (endedMs === null || endedMs > atMs - NEAR_MS))
  }

  /** A moment as seconds since the start. */
  since(ms: number): string {
    return `${((ms - this.startedMs) / 1_000).toFixed(3)} s`
  }
}
