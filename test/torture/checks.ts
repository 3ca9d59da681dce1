/**
 * The judge: everything that any client holds at any version comes by here. Promise: two states for one version, a broken rule, a step
 * back or a row that was never committed is reported with what is known of it, and nothing else is.
 */
import type { FaultRecord, History } from './history.ts'
import type { Replica } from './replica.ts'
import { crossFault, GHOST, type Row } from './schema.ts'

export type ViolationKind = 'lost' | 'ghost' | 'torn' | 'backwards' | 'duplicated' | 'stuck' | 'answer' | 'harm' | 'died'

export interface Violation {
  readonly kind: ViolationKind
  readonly atMs: number
  readonly who: string
  readonly what: string
  /** The fault that is the likeliest cause. */
  readonly fault: string
  /** Its surroundings, line by line. */
  readonly story: readonly string[]
}

interface Sight {
  readonly hash: number
  readonly who: string
  readonly replica: Replica
}

const MAX_SIGHTS = 100_000
/** One cause may break thousands of versions: the first tell it all. */
const MAX_VIOLATIONS = 50

export class Judge {
  readonly #history: History
  readonly violations: Violation[] = []
  /** Versions compared: how often a state was seen that somebody had already seen at the same version. */
  compared = 0
  readonly #sights = new Map<string, Sight>()

  constructor(history: History) {
    this.#history = history
  }

  /** Number of channels and versions of which a state is known. */
  get known(): number {
    return this.#sights.size
  }

  report(kind: ViolationKind, who: string, what: string, rows: readonly Row[] = [], replica?: Replica, more: readonly string[] = []): void {
    if (this.violations.length >= MAX_VIOLATIONS) return
    const atMs = Date.now()
    const near = this.#history.nearFaults(atMs)
    this.violations.push({ kind, atMs, who, what, fault: (near.at(-1) ?? (kind === 'stuck' ? this.#history.faults.at(-1) : undefined))?.name ?? 'none', story: [...more, ...this.#story(rows, replica, near)] })
  }

  /** One client's channels, all of one version. */
  see(who: string, version: string, replicas: readonly Replica[]): void {
    for (const replica of replicas) {
      this.#seeRows(who, version, replica)
      this.#compare(replica.filter === null ? replica.table.name : `${replica.table.name}?${replica.filter}`, { hash: replica.hash(), who, replica }, version)
      if (replica.filter !== null) continue
      for (const value of replica.table.filter?.values ?? []) this.#compare(`${replica.table.name}?${value}`, { hash: replica.hash(value), who, replica }, version)
    }
    const fault = replicas.length > 1 ? crossFault(new Map(replicas.map(({ table, rows }) => [table.name, rows.values()]))) : null
    if (fault !== null) this.report('torn', who, `${fault}, at ${version}`, replicas.flatMap((replica) => suspects(replica, fault)), replicas[0])
  }

  #seeRows(who: string, version: string, replica: Replica): void {
    const { table, filter, rows } = replica
    for (const row of rows.values()) {
      if (String(row['stamp']).startsWith(GHOST)) return this.report('ghost', who, `${table.name} shows what was rolled back, at ${version}`, [row], replica)
      if (filter !== null && table.filter !== null && row[table.filter.column] !== filter) return this.report('torn', who, `a row of ${table.name} is outside the filter ${filter}, at ${version}`, [row], replica)
    }
    // Half of the accounts need not add up.
    const fault = filter === null ? table.fault(rows.values()) : null
    if (fault !== null) this.report('torn', who, `${table.name}: ${fault}, at ${version}`, suspects(replica, fault), replica)
  }

  #compare(window: string, sight: Sight, version: string): void {
    const name = `${window} ${version}`
    const known = this.#sights.get(name)
    if (known === undefined) {
      this.#sights.set(name, sight)
      const [oldest] = this.#sights.keys()
      if (this.#sights.size > MAX_SIGHTS && oldest !== undefined) this.#sights.delete(oldest)
      return
    }
    this.compared += 1
    if (known.hash === sight.hash) return
    const [ours, theirs] = [sight.replica.at(version), known.replica.at(version)]
    const rows = ours === null || theirs === null ? [] : differing(ours, theirs, sight.replica.filter ?? known.replica.filter)
    this.report('torn', sight.who, `${window} at ${version} is not what ${known.who} held`, rows.flatMap(([a, b]) => [a ?? [], b ?? []]).flat(), sight.replica,
      rows.slice(0, 5).map(([a, b]) => `  ${sight.who} has ${a === undefined ? 'nothing' : JSON.stringify(a)}, ${known.who} ${b === undefined ? 'nothing' : JSON.stringify(b)}`))
  }

  #story(rows: readonly Row[], replica: Replica | undefined, near: readonly FaultRecord[]): readonly string[] {
    const history = this.#history
    const suspects = rows.slice(0, 6)
    const stamps = new Set(suspects.map((row) => String(row['stamp'])))
    const subjects = new Set(replica === undefined ? [] : suspects.map((row) => replica.table.subject(row)))
    return [
      ...suspects.map((row) => `  row ${JSON.stringify(row)}`),
      ...replica?.describe(6).map((line) => `  version ${line}`) ?? [],
      ...history.involved(stamps, subjects).map(({ stamp, isolation, notes, startedMs, endedMs, outcome, reason }) =>
        `  transaction ${stamp} (${isolation}) ${history.since(startedMs)} to ${endedMs === null ? 'now' : history.since(endedMs)}, ${outcome}${reason === '' ? '' : `: ${reason}`}: ${notes.join('; ')}`),
      ...near.map(({ name, detail, startedMs, endedMs }) => `  fault ${name} (${detail}) ${history.since(startedMs)} to ${endedMs === null ? 'now' : history.since(endedMs)}`),
    ]
  }
}

/** The rows in which two states differ, as pairs; `filter`: only what has it is compared. */
export function differing(ours: ReadonlyMap<string, Row>, theirs: ReadonlyMap<string, Row>, filter: string | null): readonly [Row | undefined, Row | undefined][] {
  const inWindow = (row: Row | undefined): Row | undefined => filter === null || row === undefined || Object.values(row).includes(filter) ? row : undefined
  return [...new Set([...ours.keys(), ...theirs.keys()])].map((key): [Row | undefined, Row | undefined] => [inWindow(ours.get(key)), inWindow(theirs.get(key))])
    .filter(([a, b]) => JSON.stringify(a) !== JSON.stringify(b))
}

/** The rows that a fault names by their number. */
function suspects({ table, rows }: Replica, fault: string): readonly Row[] {
  const named = new Set(fault.match(/\w+ -?\d+/g) ?? [])
  return [...rows.values()].filter((row) => named.has(table.subject(row)) || named.has(`batch ${row['batch'] ?? ''}`)).slice(0, 6)
}
