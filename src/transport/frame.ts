/**
 * Deltas as bytes: events of a stream, bodies of a poll. What is the same for many readers is framed once.
 */
import { createEventBuffer } from 'better-sse'
import type { Delta, Part } from '../hub/answer.ts'
import { formatVersion } from '../contract/version.ts'

/** Everything of a delta that all its parts repeat. */
export interface Envelope {
  readonly epoch: string
  readonly since: number | null
  readonly version: number
}

/** The beginning of a Delta's JSON, up to and with the bracket that opens `changes`. */
export function deltaHead(channel: string, { epoch, since, version }: Envelope, more: boolean): string {
  const from = since === null ? 'null' : `"${formatVersion({ epoch, number: since })}"`
  const to = formatVersion({ epoch, number: version })
  return `{"channel":"${channel}","since":${from},"version":"${to}","reset":${since === null},"more":${more},"changes":[`
}

const EVENT_TAIL = Buffer.from(']}\n\n')

/** One part as one event; the id, and with it the cursor, only where the delta is complete. */
export function frameEvent(part: Part, envelope: Envelope, more: boolean): Buffer {
  const id = more ? '' : `id: ${formatVersion({ epoch: envelope.epoch, number: envelope.version })}\n`
  return Buffer.concat([Buffer.from(`${id}data: ${deltaHead(part.channel, envelope, more)}`), part.changes, EVENT_TAIL])
}

interface Framed {
  readonly envelope: Envelope
  readonly frame: Buffer
}

/** A rendering that many readers share is framed for the first of them. */
const framed = new WeakMap<readonly Part[], Framed>()

/** All parts of a delta as the bytes of its events. */
export function frameDelta(parts: readonly Part[], envelope: Envelope): Buffer {
  const known = framed.get(parts)
  if (known?.envelope.version === envelope.version && known.envelope.since === envelope.since && known.envelope.epoch === envelope.epoch) return known.frame
  const frame = Buffer.concat(parts.map((part, index) => frameEvent(part, envelope, index < parts.length - 1)))
  framed.set(parts, { envelope, frame })
  return frame
}

/** The events of a delta that is still being read, each as soon as it is known whether another follows. */
export async function *frameParts(delta: Delta, epoch: string): AsyncGenerator<Buffer> {
  const envelope = { epoch, since: delta.since, version: delta.version }
  let previous: Part | undefined
  for await (const part of delta.parts) {
    if (previous !== undefined) yield frameEvent(previous, envelope, true)
    previous = part
  }
  if (previous !== undefined) yield frameEvent(previous, envelope, false)
}

/** `event: status`: since when what is shown may be out of date (ISO 8601), or null when it no longer is. */
export function frameStatus(staleSinceMs: number | null): string {
  const staleSince = staleSinceMs === null ? null : new Date(staleSinceMs).toISOString()
  return createEventBuffer().event('status').data({ stale_since: staleSince }).dispatch().read()
}

/** How long a client is to wait before it reconnects, ms. */
export function frameRetry(ms: number): string {
  return createEventBuffer().retry(Math.round(ms)).dispatch().read()
}

/** A comment for proxies; with a cursor, moves the client's Last-Event-ID without an event [html §9.2.6]. */
export function frameHeartbeat(cursor?: string): string {
  const buffer = createEventBuffer()
  return (cursor === undefined ? buffer.comment() : buffer.comment().id(cursor)).dispatch().read()
}
