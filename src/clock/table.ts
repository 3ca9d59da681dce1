/** A watched table in SQL: its name, the columns that a channel publishes and the key, as they are read for a state. */
import { RangeLost, type ChannelDefinition, type TableDefinition } from '../contract/change.ts'
import { sqlState, type PoolClient } from '../database/pool.ts'

/** The columns that a channel publishes, of `t`, each in the form in which row_to_json keeps every digit and calls nothing of the host's. */
export function publishedColumns({ columns }: ChannelDefinition): string {
  return columns.map(({ name, isText, rendering }) => {
    const quoted = quoteIdentifier(name)
    return isText ? `t.${quoted}::text as ${quoted}` : rendering === null ? `t.${quoted}` : `${rendering} as ${quoted}`
  }).join(', ')
}

/**
 * In a transaction that holds a lock on the table: rejects with RangeLost where a column has not the type that is known of it. What is written in
 * one way because its type is PostgreSQL's own must not be read after it has become one of the host's.
 */
export async function assertTypes(client: PoolClient, { table: { name, columns } }: ChannelDefinition): Promise<void> {
  const { rowCount } = await client.query(`
    select from unnest($2::text[], $3::oid[]) known (name, type)
    left join pg_attribute on attrelid = $1::regclass and attname = name and attnum > 0 and not attisdropped
    where atttypid is distinct from type limit 1`, [name, columns.map((column) => column.name), columns.map(({ typeId }) => typeId)])
  if (rowCount !== 0) throw new RangeLost('a column has another type by now')
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
  const { type, isText, keyed } = columns.find((column) => column.name === name) ?? {}
  if (type === 'integer' || type === 'smallint') return `${value}::text`
  return type === 'bigint' && isText === true ? `'"' || ${value} || '"'` : keyed ?? `to_json(${value})::text`
}

function literal(text: string): string {
  return `'${text.replaceAll(`'`, `''`)}'`
}

/** The table, without those that inherit from it. */
export function tableOf({ table }: ChannelDefinition): string {
  return `${table.isPartitioned ? '' : 'only '}${table.name}`
}

/** Rejects. A column that is not there any more, and a composite that has other attributes, are the reader's to ask anew about. */
export function toRangeLost(error: unknown): never {
  const state = sqlState(error)
  if (state === '42703') throw new RangeLost('a column is not there any more', { cause: error })
  if (state === '42704' || state === '22P02' || state === '42725') throw new RangeLost('a type has changed', { cause: error })
  throw error
}

export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}
