/**
 * How large a row may be. Beyond that it is never sent to this process: its text would hold up everything else here, and one of more than
 * 512 MB is none that JavaScript can hold. PostgreSQL is asked for the size first.
 */
import { ApiError, quoted } from '../errors.ts'
import { sqlState } from '../database/pool.ts'
import type { ChannelDefinition } from '../contract/change.ts'
import { quoteIdentifier } from './table.ts'

/** The default, as JSON. */
export const MAX_ROW_BYTES = 64_000_000
/** A larger row of a state comes by itself: a batch of rows is as large as those before it were. */
export const LARGE_ROW_BYTES = 256_000

/** A row of a state is beyond the limit, or beyond what PostgreSQL itself can write. */
export class RowTooLarge extends Error {
  override readonly name = 'RowTooLarge'
}

/** Types whose size is known without reading the value, and is not less as JSON. */
const MEASURED = /^(?:text|character varying(?:\(\d+\))?|bytea)$/

/** An expression for a size that the row (`t`) does not stay below as JSON: so that PostgreSQL need not write down what nobody will read. */
export function leastBytes({ columns }: ChannelDefinition): string {
  return ['0::bigint', ...columns.filter(({ type }) => MEASURED.test(type)).map(({ name }) => `coalesce(octet_length(t.${quoteIdentifier(name)}), 0)`)].join(' + ')
}

/** Whether PostgreSQL could not write something down because no value may be as long: a gigabyte. */
export function isBeyondPostgres(error: unknown): boolean {
  return sqlState(error) === '54000' || (error instanceof Error && error.message.startsWith('invalid memory alloc request size'))
}

/** What readers of a channel are told whose rows cannot be read. */
export function parkedFor({ name, table }: ChannelDefinition, maxBytes: number, cause: unknown): ApiError {
  const limit = isBeyondPostgres(cause) ? 'PostgreSQL can write down' : `${maxBytes / 1e6} MB`
  return new ApiError('channel_parked', `Channel ${quoted(name)} cannot be served: a row of ${table.name} is larger as JSON than ${limit}.`, {
    hint: 'Make that row smaller, or watch the table again without the column that makes it large; the channel is looked at again after Retry-After.', cause,
  })
}
