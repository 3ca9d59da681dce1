/** A reader of event streams for tests: raw events as they come, and the replica that a correct client keeps. */
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import type { PollBody } from './server.ts'

export type Delta = Omit<PollBody, 'poll_after_ms' | 'poll_reason'>

/** Rows by key, as a client holds them; parts are kept back until their answer is whole. */
export class Replica {
  readonly rows = new Map<string, Readonly<Record<string, unknown>>>()
  version: string | null = null
  resets = 0
  #parts: Delta[] = []

  /** True when the replica has moved to a new version. */
  apply(delta: Delta): boolean {
    this.#parts.push(delta)
    if (delta.more) return false
    const parts = this.#parts
    this.#parts = []
    if (parts.some(({ reset }) => reset)) {
      this.rows.clear()
      this.resets += 1
    }
    for (const { changes } of parts) {
      for (const { op, key, row } of changes) {
        if (op === 'upsert' && row !== undefined) this.rows.set(JSON.stringify(key), row)
        else this.rows.delete(JSON.stringify(key))
      }
    }
    this.version = delta.version
    return true
  }

  /** The connection ended: what is incomplete is dropped. */
  disconnected(): void {
    this.#parts = []
  }
}

export interface StreamReader {
  readonly status: number
  readonly headers: Headers
  readonly events: readonly EventSourceMessage[]
  /** Resolves to the first event, past or coming, that fits. Rejects when the stream ends before. */
  until(fits: (event: EventSourceMessage) => boolean): Promise<EventSourceMessage>
  /** Resolves to the first delta that fits. */
  delta(fits: (delta: Delta) => boolean): Promise<Delta>
  /** Resolves when the server ends the stream. */
  readonly ended: Promise<void>
  close(): void
}

export async function openStream(url: string, headers: Readonly<Record<string, string>> = {}, onDelta?: (delta: Delta) => void): Promise<StreamReader> {
  const abort = new AbortController()
  const response = await fetch(url, { headers: { Accept: 'text/event-stream', ...headers }, signal: abort.signal })
  const events: EventSourceMessage[] = []
  const waiters = new Set<() => void>()
  let isEnded = false
  const parser = createParser({
    onEvent: (event) => {
      events.push(event)
      if (event.event === undefined) onDelta?.(JSON.parse(event.data) as Delta)
      for (const wake of waiters) wake()
    },
  })
  const read = async (): Promise<void> => {
    const decoder = new TextDecoder()
    try {
      for await (const chunk of response.body ?? []) parser.feed(decoder.decode(chunk as Uint8Array, { stream: true }))
    } catch { /* closed by us, or cut: either way the stream has ended */ }
    isEnded = true
    for (const wake of waiters) wake()
  }
  const ended = read()
  const until = (fits: (event: EventSourceMessage) => boolean): Promise<EventSourceMessage> => new Promise((resolve, reject) => {
    let seen = 0
    const look = (): void => {
      for (; seen < events.length; seen += 1) {
        const event = events[seen]
        if (event === undefined || !fits(event)) continue
        waiters.delete(look)
        resolve(event)
        return
      }
      if (!isEnded) return
      waiters.delete(look)
      reject(new Error('the stream ended before such an event came'))
    }
    waiters.add(look)
    look()
  })
  return {
    status: response.status, headers: response.headers, events, until, ended,
    async delta(fits) {
      const event = await until((candidate) => candidate.event === undefined && fits(JSON.parse(candidate.data) as Delta))
      return JSON.parse(event.data) as Delta
    },
    close: () => abort.abort(),
  }
}
