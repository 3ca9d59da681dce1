/**
 * What a client holds: the rows of its channels as of one version. Pure: no connection, no clock.
 * Promise: rows change only when an answer is whole, so they are always a state that existed; parts of an answer whose
 * connection ended are forgotten. Follow the same steps in another language and you have a correct client.
 *
 *             a part (more: true)                 the last part (more: false)
 *   settled ──────────────────────▶ collecting ──────────────────────────────▶ settled, at the new version
 *      ▲                                │
 *      └────── disconnect(): the parts are dropped, the rows stay ──────────┘
 */
import type { Change, Delta, Key, Row, VersionText } from '../contract/names.ts'

/** A change as it met the rows: `before` is the row that had this key, if any was held. */
export interface AppliedChange {
  readonly channel: string
  readonly change: Change
  readonly before: Row | undefined
}

/** What one whole answer did. */
export interface Applied {
  readonly version: VersionText
  /** Channels that began anew: their old rows were dropped before the changes. */
  readonly resets: readonly string[]
  readonly changes: readonly AppliedChange[]
}

type State =
  | { readonly kind: 'settled' }
  | { readonly kind: 'collecting'; readonly parts: Delta[] }

const NO_ROWS: ReadonlyMap<string, Row> = new Map()

export class Replica {
  readonly #rows = new Map<string, Map<string, Row>>()
  readonly #whole = new Set<string>()
  #version: VersionText | null = null
  #state: State = { kind: 'settled' }

  /** The version that the rows are of; null before the first whole answer. Pass it on as `since`. */
  get version(): VersionText | null {
    return this.#version
  }

  /** The rows of a channel by key (see `keyText`), in no particular order. */
  rows(channel: string): ReadonlyMap<string, Row> {
    return this.#rows.get(channel) ?? NO_ROWS
  }

  /** Whether the channel began with a whole state. After starting at a cursor only what has changed since is held. */
  isWhole(channel: string): boolean {
    return this.#whole.has(channel)
  }

  /** Takes one Delta, of a stream or a poll. Null: it was a part, and the rows are as they were. */
  apply(delta: Delta): Applied | null {
    const parts = this.#state.kind === 'collecting' ? this.#state.parts : []
    // A part of another answer: the node that had the pages is gone, and another has begun anew.
    if (parts.at(-1)?.version !== delta.version) parts.length = 0
    parts.push(delta)
    if (delta.more) {
      this.#state = { kind: 'collecting', parts }
      return null
    }
    this.#state = { kind: 'settled' }
    this.#version = delta.version
    const resets = [...new Set(parts.filter(({ reset }) => reset).map(({ channel }) => channel))]
    for (const channel of resets) this.#begin(channel)
    return { version: delta.version, resets, changes: parts.flatMap(({ channel, changes }) => changes.map((change) => this.#change(channel, change))) }
  }

  /** The connection ended: an answer that is not whole by now never will be. */
  disconnect(): void {
    this.#state = { kind: 'settled' }
  }

  #begin(channel: string): void {
    this.#rows.set(channel, new Map())
    this.#whole.add(channel)
  }

  #change(channel: string, change: Change): AppliedChange {
    const rows = this.#rows.get(channel) ?? new Map<string, Row>()
    this.#rows.set(channel, rows)
    const key = keyText(change.key)
    const before = rows.get(key)
    switch (change.op) {
      case 'upsert': rows.set(key, change.row); break
      case 'delete': rows.delete(key); break
      default: change satisfies never
    }
    return { channel, change, before }
  }
}

/** A key as text, equal for equal keys: the server writes its columns always in the same order. */
export function keyText(key: Key): string {
  return JSON.stringify(key)
}
