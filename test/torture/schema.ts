/**
 * The tables that are watched, and what must hold of their rows at every version: within a channel, and across the channels of one
 * stream. Each rule is checked from the rows alone, so that any client can be held to it, whatever it has seen before.
 */
import { createHash } from 'node:crypto'

export type Row = Readonly<Record<string, string | number | null>>
export type Rows = Iterable<Row>

export const REGIONS = ['north', 'east', 'south', 'west'] as const
export const ECHOES = 24
export const PAIRS = 40
export const BATCHES = 4

export interface TableModel {
  readonly name: string
  /** Those that writers know of; a column added later is compared at the end only. */
  readonly columns: readonly string[]
  /** Sent as JSON strings. */
  readonly exact: readonly string[]
  readonly filter: { readonly column: string; readonly values: readonly string[] } | null
  /** What the history of transactions calls the thing that this row belongs to. */
  readonly subject: (row: Row) => string
  /** What is wrong with a state; null: nothing. */
  readonly fault: (rows: Rows) => string | null
}

/** Stamps that begin so are never committed. */
export const GHOST = '!'

export const TABLES: readonly TableModel[] = [
  {
    name: 'account', columns: ['id', 'region', 'balance', 'stamp', 'probe'], exact: ['balance'], filter: { column: 'region', values: REGIONS },
    subject: ({ id }) => `account ${id}`,
    fault: (rows) => isZero('the sum of balances', sum(rows, 'balance')),
  },
  {
    name: 'bank', columns: ['region', 'total', 'stamp', 'probe'], exact: ['total'], filter: null,
    subject: ({ region }) => `bank ${region}`,
    fault: (rows) => isZero('the sum of totals', sum(rows, 'total')),
  },
  { name: 'pair', columns: ['pair', 'side', 'stamp', 'probe'], exact: [], filter: null, subject: ({ pair }) => `pair ${pair}`, fault: unequalSides },
  { name: 'mirror', columns: ['pair', 'side', 'stamp', 'probe'], exact: [], filter: null, subject: ({ pair }) => `pair ${pair}`, fault: unequalSides },
  {
    name: 'echo', columns: ['id', 'value', 'echoes', 'checksum', 'stamp', 'probe'], exact: [], filter: null,
    subject: ({ id }) => `echo ${Number(id) & ~1}`, fault: unsettledEcho,
  },
  { name: 'queue', columns: ['position', 'item', 'stamp', 'probe'], exact: [], filter: null, subject: () => 'queue', fault: brokenQueue },
  {
    name: 'bulk', columns: ['id', 'batch', 'size', 'stamp', 'probe'], exact: [], filter: null,
    subject: ({ batch }) => `bulk ${batch}`, fault: brokenBatch,
  },
]

/** What is wrong between channels of one version; null: nothing, or they are not all there. */
export function crossFault(channels: ReadonlyMap<string, Rows>): string | null {
  const [account, bank, pair, mirror] = ['account', 'bank', 'pair', 'mirror'].map((name) => channels.get(name))
  if (account !== undefined && bank !== undefined) {
    const totals = new Map<string, number>()
    for (const { region, balance } of account) totals.set(String(region), (totals.get(String(region)) ?? 0) + Number(balance))
    for (const { region, total } of bank) {
      const held = totals.get(String(region)) ?? 0
      if (held !== Number(total)) return `the bank says ${total} for ${region}, its accounts hold ${held}`
    }
  }
  if (pair === undefined || mirror === undefined) return null
  const stamps = new Map([...mirror].map((row) => [`${row['pair']} ${row['side']}`, row['stamp']]))
  for (const { pair: number, side, stamp } of pair) {
    const other = stamps.get(`${number} ${side}`)
    if (other !== stamp) return `pair ${number} ${side} is stamped ${stamp}, in the mirror ${other ?? 'nothing'}`
    stamps.delete(`${number} ${side}`)
  }
  const [left] = stamps.keys()
  return left === undefined ? null : `pair ${left} is in the mirror alone`
}

function sum(rows: Rows, column: string): number {
  let total = 0
  for (const row of rows) total += Number(row[column])
  return total
}

function isZero(what: string, value: number): string | null {
  return value === 0 ? null : `${what} is ${value}, not 0`
}

/** Both sides of a pair are there and bear the same stamp. */
function unequalSides(rows: Rows): string | null {
  const alone = new Map<number, Row>()
  for (const row of rows) {
    const number = Number(row['pair'])
    const other = alone.get(number)
    if (other === undefined) alone.set(number, row)
    else if (other['stamp'] !== row['stamp']) return `the sides of pair ${number} are stamped ${other['stamp']} and ${row['stamp']}`
    else alone.delete(number)
  }
  const [left] = alone.keys()
  return left === undefined ? null : `pair ${left} has one side`
}

/** Its triggers are done with each row: the echo has come, the checksum fits, the sibling says the same. */
function unsettledEcho(rows: Rows): string | null {
  const byId = new Map([...rows].map((row) => [Number(row['id']), row]))
  for (const [id, { value, echoes, checksum, stamp }] of byId) {
    const sibling = byId.get(id ^ 1)
    if (echoes !== value) return `echo ${id} has value ${value} and echo ${echoes}`
    if (checksum !== createHash('md5').update(`${id}:${value}:${echoes}:${stamp}`).digest('hex')) return `the checksum of echo ${id} does not fit`
    if (sibling === undefined) return `echo ${id} has no sibling`
    if (sibling['value'] !== value || sibling['stamp'] !== stamp) return `echo ${id} says ${value} (${stamp}), its sibling ${sibling['value']} (${sibling['stamp']})`
  }
  return null
}

/** Positions are 1, 2, 3, … without a gap, and every item is there once. */
function brokenQueue(rows: Rows): string | null {
  const items = new Map<number, string>()
  for (const { position, item } of rows) items.set(Number(position), String(item))
  for (let position = 1; position <= items.size; position += 1) if (!items.has(position)) return `nothing is at ${position} of a queue of ${items.size}`
  return new Set(items.values()).size === items.size ? null : 'an item is in the queue twice'
}

/** A batch is whole: as many rows as each of them says, all with one stamp. */
function brokenBatch(rows: Rows): string | null {
  const batches = new Map<number, { count: number; readonly first: Row }>()
  for (const row of rows) {
    const batch = Number(row['batch'])
    const known = batches.get(batch)
    if (known === undefined) batches.set(batch, { count: 1, first: row })
    else if (known.first['stamp'] !== row['stamp']) return `batch ${batch} is stamped ${known.first['stamp']} and ${row['stamp']}`
    else known.count += 1
  }
  for (const [batch, { count, first }] of batches) if (count !== first['size']) return `batch ${batch} has ${count} rows of ${first['size']}`
  return null
}
