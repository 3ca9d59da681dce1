/** A whole answer as lines for a person: time, version, what happened to which row. Pure. */
import type { Applied, AppliedChange, Replica } from '../client/replica.ts'
import type { Key, Row } from '../contract/names.ts'
import { printable, type Style, type Terminal } from './terminal.ts'

export interface LineOptions {
  readonly atMs: number
  readonly paint: Terminal['paint']
}

type Rows = Pick<Replica, 'rows' | 'isWhole'>

export function describeApplied({ version, resets, changes }: Applied, rows: Rows, { atMs, paint }: LineOptions): readonly string[] {
  const prefix = paint('dim', `${new Date(atMs).toTimeString().slice(0, 8)}  ${version}`)
  return [
    ...resets.map((channel) => `${prefix}  ${paint('bold', `reset: ${count(rows.rows(channel).size)}`)}`),
    ...changes.filter(({ channel }) => !resets.includes(channel)).map((applied) => `${prefix}  ${describeChange(applied, rows, paint)}`),
  ]
}

function count(rows: number): string {
  return rows === 1 ? '1 row' : `${rows} rows`
}

const SIGNS = { '+': 'green', '~': 'yellow', '-': 'red' } as const satisfies Record<string, Style>

function describeChange(applied: AppliedChange, rows: Rows, paint: Terminal['paint']): string {
  const { change } = applied
  const sign = signOf(applied, rows)
  const key = describeKey(change.key)
  return printable(change.op === 'delete' ? `${sign} ${key}` : `${sign} ${key}  ${describeRow(change.row, change.key)}`)
    .replace(/^./, (character) => paint(SIGNS[sign], character))
}

/** Without the whole state nobody can tell a new row from one that was there before. */
function signOf({ channel, change, before }: AppliedChange, rows: Rows): keyof typeof SIGNS {
  if (change.op === 'delete') return '-'
  return before === undefined && rows.isWhole(channel) ? '+' : '~'
}

/** `7`, or `order=3 line=1` where the key has several columns. */
function describeKey(key: Key): string {
  const parts = Object.entries(key)
  return parts.map(([name, value]) => parts.length === 1 ? JSON.stringify(value) : `${name}=${JSON.stringify(value)}`).join(' ')
}

/** The row without its key. */
function describeRow(row: Row, key: Key): string {
  return JSON.stringify(Object.fromEntries(Object.entries(row).filter(([name]) => !Object.hasOwn(key, name))))
}
