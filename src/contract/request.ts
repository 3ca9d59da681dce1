/**
 * Requests parsed once, from the raw strings of the wire into typed values. Pure functions.
 * Promise: each throws nothing but an ApiError that names the parameter at fault; a stream's malformed
 * cursor is a value, since EventSource gives up for ever on any status but 200.
 */
import { ApiError, quoted } from '../errors.ts'
import {
  CHANNEL_NAME_PATTERN,
  MAX_CHANNELS_PER_STREAM,
  MAX_HEADER_BYTES,
  MAX_LIMIT,
  MAX_PARAMETERS,
  MAX_WAIT_SECONDS,
} from './names.ts'
import { parseCursor, parseVersion, type Cursor, type Version } from './version.ts'

/** `column=value` conditions, all of which must hold; sorted by column, so that equal sets are equal texts. */
export type Filters = ReadonlyMap<string, string>

/** `GET /v1/channels/{channel}/changes`. */
export interface PollRequest {
  /** What `since` spells; null without one. */
  readonly cursor: Cursor | null
  /** `since` as it was given, decoded; null without one. Only answers to a URL with it may be shared. */
  readonly since: string | null
  /** The versions named by If-None-Match, in its order; null when it is absent or names none. */
  readonly etags: readonly Version[] | 'any' | null
  /** Most changes in one answer; null: all of them. */
  readonly limit: number | null
  /** How long to hold an unchanged poll, 0 to 25 seconds; null: answer at once. */
  readonly waitSeconds: number | null
  /** `waitSeconds` came by Prefer, so that Preference-Applied is due. */
  readonly waitPreferred: boolean
  readonly filters: Filters
}

/** Where a stream begins: after a version, with a reset because the cursor was unreadable, or afresh. */
export type StreamCursor = Version | 'malformed' | null

/** `GET /v1/channels/{channel}/stream`. */
export interface StreamRequest {
  readonly cursor: StreamCursor
  readonly filters: Filters
}

/** `GET /v1/stream`. */
export interface ManyStreamRequest {
  /** 1 to 20 different well-formed names, in the order given. */
  readonly channels: readonly string[]
  readonly cursor: StreamCursor
}

/** The headers a poll reads; a repeated one joined by commas, as Node does. */
export interface PollHeaders {
  readonly ifNoneMatch?: string | undefined
  readonly prefer?: string | undefined
}

/** The header a stream reads. */
export interface StreamHeaders {
  readonly lastEventId?: string | undefined
}

const POLL_PARAMETERS = ['since', 'limit', 'wait']

/** In order of precedence, after the Last-Event-ID header. `evs_last_event_id` is a polyfill's. */
const CURSOR_PARAMETERS = ['last_event_id', 'lastEventId', 'evs_last_event_id', 'since']

/** EventSource polyfills send these for browsers of their own; they mean nothing here. */
const IGNORED_STREAM_PARAMETERS = ['padding', 'evs_preamble']

/**
 * A poll from its raw query string (without the `?`) and headers; `filterNames` are the channel's.
 * Throws ApiError 400: malformed_cursor, unknown_parameter, duplicated_parameter, invalid_parameter,
 * invalid_filter. Headers never throw: what is malformed in them is ignored.
 */
export function parsePoll(rawQuery: string, headers: PollHeaders, filterNames: readonly string[]): PollRequest {
  const query = splitQuery(rawQuery)
  refuseUnknown(query, POLL_PARAMETERS, { filterNames })
  const since = take(query, 'since')
  const askedWait = parseWait(take(query, 'wait'))
  const preferredWait = askedWait === null ? parsePreferredWait(headers.prefer) : null
  return {
    cursor: since === null ? null : parseSince(since),
    since,
    etags: parseIfNoneMatch(headers.ifNoneMatch),
    limit: parseLimit(take(query, 'limit')),
    waitSeconds: askedWait ?? preferredWait,
    waitPreferred: preferredWait !== null,
    filters: takeFilters(query, POLL_PARAMETERS, filterNames),
  }
}

/**
 * A stream of one channel from its raw query string (without the `?`) and headers.
 * Throws ApiError 400 for what a programmer got wrong (unknown or duplicated parameters, filters),
 * never for a cursor.
 */
export function parseStream(rawQuery: string, headers: StreamHeaders, filterNames: readonly string[]): StreamRequest {
  const query = splitQuery(rawQuery)
  refuseUnknown(query, CURSOR_PARAMETERS, { filterNames, ignored: IGNORED_STREAM_PARAMETERS })
  // A column may be called like a polyfill's parameter; then the column it is.
  const cursorParameters = CURSOR_PARAMETERS.filter((name) => !filterNames.includes(name))
  return {
    cursor: takeStreamCursor(query, headers, cursorParameters),
    filters: takeFilters(query, cursorParameters, filterNames),
  }
}

/**
 * A stream of several channels from its raw query string (without the `?`) and headers.
 * Throws ApiError 400 unless `channels` names 1 to 20 different channels, 404 unknown_channel for a
 * name no channel can have; never for a cursor.
 */
export function parseManyStream(rawQuery: string, headers: StreamHeaders): ManyStreamRequest {
  const query = splitQuery(rawQuery)
  refuseUnknown(query, ['channels', ...CURSOR_PARAMETERS], { ignored: IGNORED_STREAM_PARAMETERS })
  return {
    channels: parseChannelNames(take(query, 'channels') ?? ''),
    cursor: takeStreamCursor(query, headers, CURSOR_PARAMETERS),
  }
}

/** For addresses without parameters. Throws ApiError 400 unknown_parameter for any. */
export function parseNothing(rawQuery: string): void {
  refuseUnknown(splitQuery(rawQuery), [], {})
}

/**
 * A channel's name from one raw, still encoded segment of the path. Throws ApiError 404
 * unknown_channel for what no channel can be called.
 */
export function parseChannelName(rawSegment: string): string {
  const name = decode(rawSegment)
  if (name === undefined || !CHANNEL_NAME_PATTERN.test(name)) throw unknownChannel(name ?? rawSegment)
  return name
}

function unknownChannel(name: string): ApiError {
  return new ApiError('unknown_channel', `No channel ${quoted(name)}.`, { parameter: 'channel' })
}

/** Parameters by decoded name, their values still encoded. A Map, since `__proto__` is a name like any other. */
type Query = ReadonlyMap<string, string>

function splitQuery(rawQuery: string): Query {
  const pairs = rawQuery.split('&').filter((pair) => pair !== '')
  if (pairs.length > MAX_PARAMETERS) {
    throw new ApiError('invalid_parameter', `More than ${MAX_PARAMETERS} parameters in one query string.`)
  }
  const query = new Map<string, string>()
  for (const pair of pairs) {
    const equals = pair.indexOf('=')
    const name = decodeName(equals === -1 ? pair : pair.slice(0, equals))
    if (query.has(name)) throw duplicatedParameter(name)
    query.set(name, equals === -1 ? '' : pair.slice(equals + 1))
  }
  return query
}

function decodeName(raw: string): string {
  const name = decodeFormText(raw)
  if (name === undefined) throw badEncoding(`The name of parameter ${quoted(raw)}`, undefined)
  return name
}

function duplicatedParameter(name: string): ApiError {
  const detail = `Parameter ${quoted(name)} is given more than once.`
  return new ApiError('duplicated_parameter', detail, { parameter: shown(name) })
}

/** A parameter's name for the `parameter` member of a problem: harmless and short, without quotes. */
function shown(name: string): string {
  return quoted(name).slice(1, -1)
}

function badEncoding(what: string, parameter: string | undefined): ApiError {
  const hint = 'Percent-encode names and values as UTF-8, as encodeURIComponent does.'
  return new ApiError('invalid_parameter', `${what} is not percent-encoded UTF-8.`, { hint, parameter })
}

/** [whatwg url, application/x-www-form-urlencoded] a plus is a space; what is not an escape stands for itself. */
function decodeFormText(raw: string): string | undefined {
  return decode(raw.replaceAll('+', ' '))
}

/** Undefined for a broken escape, for bytes that are not UTF-8, and for characters that should have been escaped. */
function decode(raw: string): string | undefined {
  // Node hands raw bytes on as Latin-1: "é" sent unescaped would silently become "Ã©" and match no row.
  if (/[^\x20-\x7e]/.test(raw)) return undefined
  try {
    return decodeURIComponent(raw)
  } catch {
    return undefined
  }
}

/** The decoded value of a parameter, null if it is absent. */
function take(query: Query, name: string): string | null {
  const raw = query.get(name)
  if (raw === undefined) return null
  const value = decodeFormText(raw)
  if (value === undefined) throw badEncoding(`The value of parameter ${quoted(name)}`, shown(name))
  return value
}

interface AlsoAllowed {
  /** The channel's filters; undefined where filters cannot be given at all. */
  readonly filterNames?: readonly string[]
  /** Accepted, but not worth telling anyone about. */
  readonly ignored?: readonly string[]
}

function refuseUnknown(query: Query, names: readonly string[], also: AlsoAllowed): void {
  const { filterNames, ignored = [] } = also
  const allowed = new Set([...names, ...(filterNames ?? []), ...ignored])
  for (const name of query.keys()) {
    if (allowed.has(name)) continue
    const hint = [describeParameters(names), describeFilters(filterNames)].join('').trim()
    throw new ApiError('unknown_parameter', `Unknown parameter ${quoted(name)}.`, { hint, parameter: shown(name) })
  }
}

function describeParameters(names: readonly string[]): string {
  return names.length === 0 ? 'This address takes no parameters.' : `Parameters here: ${names.join(', ')}.`
}

function describeFilters(filterNames: readonly string[] | undefined): string {
  if (filterNames === undefined) return ''
  return filterNames.length === 0
    ? ' This channel has no filters.'
    : ` Filters of this channel: ${filterNames.join(', ')}.`
}

function takeFilters(query: Query, taken: readonly string[], filterNames: readonly string[]): Filters {
  const filters = new Map<string, string>()
  for (const name of filterNames.filter((each) => !taken.includes(each)).sort()) {
    const value = take(query, name)
    if (value === null) continue
    if (value.includes('\0')) {
      const detail = `The value of filter ${quoted(name)} holds a NUL character, which no PostgreSQL value can.`
      throw new ApiError('invalid_filter', detail, { parameter: shown(name) })
    }
    filters.set(name, value)
  }
  return filters
}

function parseSince(text: string): Cursor {
  const cursor = parseCursor(text)
  if (cursor !== undefined) return cursor
  throw new ApiError('malformed_cursor', `since=${quoted(text)} is not a cursor of this server.`, { parameter: 'since' })
}

/** One spelling for each number, so that equal requests are equal URLs to a cache. */
const WHOLE_NUMBER = /^(?:0|[1-9][0-9]*)$/

function parseLimit(text: string | null): number | null {
  if (text === null) return null
  const limit = WHOLE_NUMBER.test(text) ? Number(text) : 0
  if (limit >= 1 && limit <= MAX_LIMIT) return limit
  const hint = `Give a whole number from 1 to ${MAX_LIMIT}, or leave limit out to get everything in one answer.`
  throw new ApiError('invalid_parameter', `limit=${quoted(text)} is out of range.`, { hint, parameter: 'limit' })
}

function parseWait(text: string | null): number | null {
  if (text === null) return null
  if (WHOLE_NUMBER.test(text)) return clampWait(text)
  const hint = `Give whole seconds, 0 or more; more than ${MAX_WAIT_SECONDS} counts as ${MAX_WAIT_SECONDS}.`
  throw new ApiError('invalid_parameter', `wait=${quoted(text)} is not a time.`, { hint, parameter: 'wait' })
}

function clampWait(digits: string): number {
  return Math.min(Number(digits), MAX_WAIT_SECONDS)
}

/** Commas and quoted strings apart: a comma inside a quoted string separates nothing. */
const PREFERENCES = /(?:[^",]|"(?:\\.|[^"\\])*"?)+/g
const WAIT_PREFERENCE = /^\s*wait\s*=\s*(?:"(?<quoted>[^"]*)"|(?<token>[^\s";]*))\s*(?:;|$)/i

function parsePreferredWait(prefer: string | undefined): number | null {
  if (prefer === undefined || prefer.length > MAX_HEADER_BYTES) return null
  for (const preference of prefer.match(PREFERENCES) ?? []) {
    // [rfc7240 §2] of a repeated preference only the first counts, and an unusable one is as if absent.
    if (!/^\s*wait\s*(?:[=;]|$)/i.test(preference)) continue
    const { quoted: quotedDigits, token } = WAIT_PREFERENCE.exec(preference)?.groups ?? {}
    const digits = quotedDigits ?? token ?? ''
    return /^[0-9]+$/.test(digits) ? clampWait(digits) : null
  }
  return null
}

/** [rfc9110 §8.8.3] `W/` is case-sensitive. Proxies that compress mark a tag with the coding's name. */
const ENTITY_TAG = /^(?:W\/)?"(?<version>[a-z0-9.]+)(?:-(?:gzip|br|zstd|deflate))?"$/

function parseIfNoneMatch(header: string | undefined): readonly Version[] | 'any' | null {
  if (header === undefined || header.length > MAX_HEADER_BYTES) return null
  if (header.trim() === '*') return 'any'
  // No tag of ours holds a comma, so a tag that does may safely fall apart here.
  const versions = header
    .split(',')
    .map((tag) => parseVersion(ENTITY_TAG.exec(tag.trim())?.groups?.['version'] ?? ''))
    .filter((version) => version !== undefined)
  return versions.length === 0 ? null : versions
}

function takeStreamCursor(query: Query, headers: StreamHeaders, names: readonly string[]): StreamCursor {
  const candidates = [headers.lastEventId, ...names.map((name) => decodeFormText(query.get(name) ?? '') ?? 'malformed')]
  // EventSource sends no header, and polyfills an empty parameter, before the first id: that is no cursor.
  const text = candidates.find((candidate) => candidate !== undefined && candidate !== '')
  return text === undefined ? null : (parseVersion(text) ?? 'malformed')
}

function parseChannelNames(list: string): readonly string[] {
  const names = list.split(',')
  if (names.includes('') || names.length > MAX_CHANNELS_PER_STREAM || new Set(names).size < names.length) {
    const detail = `channels=${quoted(list)} does not name 1 to ${MAX_CHANNELS_PER_STREAM} different channels.`
    const hint = 'Separate the names by commas: /v1/stream?channels=options,votes.'
    throw new ApiError('invalid_parameter', detail, { hint, parameter: 'channels' })
  }
  const illegal = names.find((name) => !CHANNEL_NAME_PATTERN.test(name))
  if (illegal !== undefined) throw unknownChannel(illegal)
  return names
}
