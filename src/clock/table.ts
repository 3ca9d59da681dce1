/** A watched table in SQL: its name, the columns that a channel publishes and the key, as they are read for a state. */
import { RangeLost, type ChannelDefinition, type TableDefinition } from '../contract/change.ts'
import { sqlState } from '../database/pool.ts'

/** The columns that a channel publishes, of `t`, each in the form in which row_to_json keeps every digit. */
export function publishedColumns({ columns }: ChannelDefinition): string {
  return columns.map(({ name, isText }) => `t.${quoteIdentifier(name)}${isText ? `::text as ${quoteIdentifier(name)}` : ''}`).join(', ')
}

/** The key of a row of `published`, as row_to_json would write it, between two texts. */
export function keyOf({ table }: ChannelDefinition, before = '', after = ''): string {
  const members = table.keyColumns.map((name, index) =>
    `${literal(`${index === 0 ? `${before}{` : ','}${JSON.stringify(name)}:`)} || ${jsonOf(table, name)}`)
  return `${members.join(' || ')} || ${literal(`}${after}`)}`
}

/** As to_json writes it; integers need none of what that costs, which for small rows is an eighth of all. */
function jsonOf({ columns }: TableDefinition, name: string): string {
  const value = `published.${quoteIdentifier(name)}`
  const { type, isText } = columns.find((column) => column.name === name) ?? {}
  if (type === 'integer' || type === 'smallint') return `${value}::text`
  return type === 'bigint' && isText === true ? `'"' || ${value} || '"'` : `to_json(${value})::text`
}

function literal(text: string): string {
  return `'${text.replaceAll(`'`, `''`)}'`
}

/** The table, without those that inherit from it. */
export function tableOf({ table }: ChannelDefinition): string {
  return `${table.isPartitioned ? '' : 'only '}${table.name}`
}

/** Rejects. A column that is not there any more is the reader's to ask anew about. */
export function toRangeLost(error: unknown): never {
  if (sqlState(error) === '42703') throw new RangeLost('a column is not there any more', { cause: error })
  throw error
}

export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}
