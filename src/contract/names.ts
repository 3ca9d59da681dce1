/**
 * Short names for the generated types, and the constants of the wire: limits and reserved words.
 * The contract itself is openapi.yaml; `types.ts` is generated from it and nothing is written twice.
 */
import type { components } from './types.ts'

type Schemas = components['schemas']

/** What changed in a channel between two versions: the one message, on every transport. */
export type Delta = Schemas['Delta']
export type Change = Schemas['Change']
export type Upsert = Schemas['Upsert']
export type Delete = Schemas['Delete']
export type Key = Schemas['Key']
export type Row = Schemas['Row']
/** A version as clients see it, `k3f9.1042`; the parsed one is `Version` of version.ts. */
export type VersionText = Schemas['Version']
export type PollReason = Schemas['PollReason']
export type Channel = Schemas['Channel']
export type Column = Schemas['Column']
export type ChannelList = Schemas['ChannelList']
/** The data of `event: status`. */
export type Status = Schemas['Status']
export type Health = Schemas['Health']
export type Readiness = Schemas['Readiness']
export type Check = Schemas['Check']
export type Vote = Schemas['Vote']
export type Problem = Schemas['Problem']
export type ProblemCode = Schemas['ProblemCode']

/** Longest cursor accepted, in bytes. */
export const MAX_CURSOR_BYTES = 64

/** Largest `limit` of a poll, in changes. */
export const MAX_LIMIT = 10_000

/** Longest hold of a long-poll, in seconds; a longer `wait` is clamped to it. */
export const MAX_WAIT_SECONDS = 25

/** Most channels one `/v1/stream` carries. */
export const MAX_CHANNELS_PER_STREAM = 20

/** Bounds of `poll_after_ms`, in milliseconds. */
export const MIN_POLL_MS = 1_000
export const MAX_POLL_MS = 300_000

/** Most parameters a query string may hold. */
export const MAX_PARAMETERS = 100

/** Longest If-None-Match or Prefer that is read, in bytes; a longer one counts as absent. */
export const MAX_HEADER_BYTES = 4_096

/** What a channel may be called: 1 to 63 characters. */
export const CHANNEL_NAME_PATTERN = /^[a-z0-9][a-z0-9_.-]{0,62}$/
