/**
 * Versions and page cursors as text: the one place that knows their shape. To clients both are opaque.
 * Promise: each value has exactly one spelling, so cursors compare as strings and make good cache keys;
 * parsing never throws, text that is not a cursor is `undefined`.
 */
import { MAX_CURSOR_BYTES } from './names.ts'

/** A numbered snapshot of the database. Numbers (0 to 2^53 - 1) compare only within one epoch. */
export interface Version {
  readonly epoch: string
  readonly number: number
}

/** Where a poll with `limit` goes on: inside the one delta from `since` to `version`. */
export interface PageCursor {
  readonly epoch: string
  /** The number of the version the whole delta leads to. */
  readonly version: number
  /** The number of the version it starts from; null for the pages of a reset. */
  readonly since: number | null
  /** The place in the delta, chosen by who made the page: `[a-z0-9-]{1,24}`. */
  readonly position: string
}

/** What `since` may hold. */
export type Cursor =
  | { readonly kind: 'version'; readonly version: Version }
  | { readonly kind: 'page'; readonly page: PageCursor }

const EPOCH = '[a-z0-9]{4,12}'
const NUMBER = '0|[1-9][0-9]{0,15}'
const VERSION_PATTERN = new RegExp(`^(?<epoch>${EPOCH})\\.(?<number>${NUMBER})$`)
const PAGE_PATTERN = new RegExp(
  `^(?<epoch>${EPOCH})\\.(?<version>${NUMBER})\\.(?<since>r|${NUMBER})\\.(?<position>[a-z0-9-]{1,24})$`,
)

/** A version as text: `k3f9.1042`. */
export function formatVersion(version: Version): string {
  return `${version.epoch}.${version.number}`
}

/** The version that `text` spells, or undefined if it spells none. */
export function parseVersion(text: string): Version | undefined {
  const { epoch, number } = VERSION_PATTERN.exec(text)?.groups ?? {}
  if (epoch === undefined || number === undefined || !isExact(number)) return undefined
  return { epoch, number: Number(number) }
}

/**
 * A page cursor as text: `k3f9.1042.1040.500`, or `k3f9.1042.r.500` for a page of a reset.
 * Throws RangeError on a cursor that would not be accepted back, rather than handing it to a client.
 */
export function formatCursor(page: PageCursor): string {
  const text = `${page.epoch}.${page.version}.${page.since ?? 'r'}.${page.position}`
  if (parsePage(text) === undefined) throw new RangeError(`Not a page cursor: ${text}`)
  return text
}

/** The cursor that `text` spells, or undefined if it spells none or is longer than 64 bytes. */
export function parseCursor(text: string): Cursor | undefined {
  const version = parseVersion(text)
  if (version !== undefined) return { kind: 'version', version }
  const page = parsePage(text)
  return page === undefined ? undefined : { kind: 'page', page }
}

function parsePage(text: string): PageCursor | undefined {
  // What the pattern matches is ASCII, so its length in characters is its length in bytes.
  if (text.length > MAX_CURSOR_BYTES) return undefined
  const { epoch, version, since, position } = PAGE_PATTERN.exec(text)?.groups ?? {}
  if (epoch === undefined || version === undefined || since === undefined || position === undefined) return undefined
  if (!isExact(version) || (since !== 'r' && !isExact(since))) return undefined
  return { epoch, version: Number(version), since: since === 'r' ? null : Number(since), position }
}

/** Beyond 2^53 - 1 two spellings would be one number. */
function isExact(digits: string): boolean {
  return Number.isSafeInteger(Number(digits))
}
