/**
 * Deltas as bytes: events of a stream, bodies of a poll. What is the same for many readers is framed once, as an event and as the chunk
 * of HTTP/1.1 that carries it.
 */
import { createEventBuffer } from 'better-sse'
import type { Delta, HeldDelta, Part } from '../hub/answer.ts'
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

/** Some events, ready to be written. */
export interface Frame {
  readonly event: Buffer
  /** The same bytes as one chunk [rfc9112 §7.1], of which `event` is a part. */
  readonly chunk: Buffer
}

const CHUNK_TAIL = Buffer.from('\r\n')

function frameBytes(pieces: readonly Buffer[]): Frame {
  const bytes = pieces.reduce((sum, { length }) => sum + length, 0)
  const head = Buffer.from(`${bytes.toString(16)}\r\n`)
  const chunk = Buffer.concat([head, ...pieces, CHUNK_TAIL])
  return { chunk, event: chunk.subarray(head.length, head.length + bytes) }
}

function frameText(text: string): Frame {
  return frameBytes([Buffer.from(text)])
}

const EVENT_TAIL = Buffer.from(']}\n\n')

/** One part as one event; the id, and with it the cursor, only where the delta is complete. */
function eventPieces(part: Part, envelope: Envelope, more: boolean): readonly Buffer[] {
  const id = more ? '' : `id: ${formatVersion({ epoch: envelope.epoch, number: envelope.version })}\n`
  return [Buffer.from(`${id}data: ${deltaHead(part.channel, envelope, more)}`), part.changes, EVENT_TAIL]
}

interface Framed {
  readonly envelope: Envelope
  readonly frame: Frame
}

/** A rendering that many readers share is framed for the first of them. */
const framed = new WeakMap<readonly Part[], Framed>()

/** All parts of a delta as the bytes of its events. */
export function frameDelta(parts: readonly Part[], envelope: Envelope): Frame {
  const known = framed.get(parts)
  if (known?.envelope.version === envelope.version && known.envelope.since === envelope.since && known.envelope.epoch === envelope.epoch) return known.frame
  const frame = frameBytes(parts.flatMap((part, index) => eventPieces(part, envelope, index < parts.length - 1)))
  framed.set(parts, { envelope, frame })
  return frame
}

interface FramedTogether {
  readonly epoch: string
  readonly frame: Frame
}

/** Deltas that many readers are given together, framed for the first of them. */
const framedTogether = new WeakMap<readonly HeldDelta[], FramedTogether>()

/** Deltas one after another as the bytes of their events. */
export function frameDeltas(deltas: readonly HeldDelta[], epoch: string): Frame {
  const known = framedTogether.get(deltas)
  if (known?.epoch === epoch) return known.frame
  const frames = deltas.map(({ parts, since, version }) => frameDelta(parts, { epoch, since, version }))
  const frame = frames.length === 1 && frames[0] !== undefined ? frames[0] : frameBytes(frames.map(({ event }) => event))
  framedTogether.set(deltas, { epoch, frame })
  return frame
}

/** The events of a delta that is still being read, each as soon as it is known whether another follows. */
export async function *frameParts(delta: Delta, epoch: string): AsyncGenerator<Frame> {
  const envelope = { epoch, since: delta.since, version: delta.version }
  let previous: Part | undefined
  for await (const part of delta.parts) {
    if (previous !== undefined) yield frameBytes(eventPieces(previous, envelope, true))
    previous = part
  }
  if (previous !== undefined) yield frameBytes(eventPieces(previous, envelope, false))
}

/** `event: status`: since when what is shown may be out of date (ISO 8601), or null when it no longer is. */
export function frameStatus(staleSinceMs: number | null): Frame {
  const staleSince = staleSinceMs === null ? null : new Date(staleSinceMs).toISOString()
  return frameText(createEventBuffer().event('status').data({ stale_since: staleSince }).dispatch().read())
}

/** How long a client is to wait before it reconnects, ms. */
export function frameRetry(ms: number): Frame {
  return frameText(createEventBuffer().retry(Math.round(ms)).dispatch().read())
}

const HEARTBEAT = frameText(createEventBuffer().comment().dispatch().read())

/** A comment for proxies; with a cursor, moves the client's Last-Event-ID without an event [html §9.2.6]. */
export function frameHeartbeat(cursor?: string): Frame {
  return cursor === undefined ? HEARTBEAT : frameText(createEventBuffer().comment().id(cursor).dispatch().read())
}
