/**
 * Answers "what changed in these windows since version v?": from memory, else from the log, else with the whole state.
 * Promise: every answer leads to a state that existed; equal questions share one rendering, also while it is being made.
 */
import { LRUCache } from 'lru-cache'
import { RangeLost, type ChangeSource, type LoggedChange, type Window } from '../contract/change.ts'
import { filterKey, foldChanges, PartBuilder, WindowRenderer } from './fold.ts'
import type { Ring } from './ring.ts'

/** A run of rendered changes of one channel: the inside of a `changes` array. */
export interface Part {
  readonly channel: string
  readonly changes: Buffer
}

export interface Delta {
  /** Null on a reset: everything before is to be forgotten. */
  readonly since: number | null
  readonly version: number
  /** All of it, or, when it is large, as it is read: consume it to the end or `return()` it. */
  readonly parts: readonly Part[] | AsyncIterable<Part>
}

/** Above this a rendering is not kept but streamed to each reader anew. */
const MAX_SHARED_BYTES = 8 * 1024 * 1024

export interface AnswererOptions {
  readonly source: ChangeSource
  readonly cacheBytes: number
  readonly versionAfter: (number: number) => Promise<number>
}

interface Question {
  readonly windows: readonly Window[]
  readonly since: number
  readonly version: number
}

export class Answerer {
  readonly #source: ChangeSource
  readonly #versionAfter: (number: number) => Promise<number>
  readonly #rendered: LRUCache<string, readonly Part[]>
  readonly #flights = new Map<string, Promise<Delta>>()

  constructor({ source, cacheBytes, versionAfter }: AnswererOptions) {
    this.#source = source
    this.#versionAfter = versionAfter
    this.#rendered = new LRUCache({ maxSize: cacheBytes, sizeCalculation: sizeOfParts })
  }

  get cachedBytes(): number {
    return this.#rendered.calculatedSize
  }

  /** Nothing rendered so far is true any more: another epoch, or other columns under the same name. */
  clear(): void {
    this.#rendered.clear()
    this.#flights.clear()
  }

  /** The delta from memory, at once; null when memory does not reach back that far. */
  deltaFromMemory({ windows, since, version }: Question, ring: Ring): Delta | null {
    const all: (readonly Part[])[] = []
    for (const window of windows) {
      const key = `${windowKey(window)} ${since} ${version}`
      let rendered = this.#rendered.get(key)
      if (rendered === undefined) {
        const changes = ring.changes(window.channel.table.id, since, version)
        if (changes === null) return null
        rendered = [...renderChanges(window, [foldChanges(changes)])]
        this.#rendered.set(key, rendered)
      }
      all.push(rendered)
    }
    // Of one window the very array that is kept, so that what is derived from it can be kept beside it.
    return { since, version, parts: all.length === 1 ? all[0] ?? [] : all.flat() }
  }

  /** The delta from the log. Rejects with RangeLost when the log no longer has it. */
  deltaFromLog(question: Question): Promise<Delta> {
    const key = `${question.windows.map(windowKey).join(' ')} ${question.since} ${question.version}`
    return this.#share(key, async () => ({ since: question.since, version: question.version, parts: this.#readLog(question) }))
  }

  /** The whole state; `lastTouched` names it by the last version that touched the windows at or below the one read. */
  state(windows: readonly Window[], lastTouched: (upTo: number) => number): Promise<Delta> {
    const key = `state ${windows.map(windowKey).join(' ')}`
    const current = this.#rendered.get(`${key} ${lastTouched(Infinity)}`)
    if (current !== undefined) return Promise.resolve({ since: null, version: lastTouched(Infinity), parts: current })
    return this.#share(key, async () => {
      const reading = await this.#source.openState(windows, this.#versionAfter)
      try {
        // This node may not have heard of the version yet.
        await this.#versionAfter(reading.version - 1)
      } catch (error) {
        await reading.close()
        throw error
      }
      return { since: null, version: lastTouched(reading.version), parts: renderState(windows, reading) }
    }, (delta) => `${key} ${delta.version}`)
  }

  /** One reader for all who ask the same at the same time; what turns out small is kept and shared, what is large goes to the first. */
  async #share(key: string, open: () => Promise<Delta>, keyOf: (delta: Delta) => string = () => key): Promise<Delta> {
    const kept = this.#rendered.get(key)
    const flying = this.#flights.get(key)
    if (kept === undefined && flying !== undefined) {
      const delta = await flying
      if (Array.isArray(delta.parts)) return delta
      return open()
    }
    const flight = open().then(async (delta) => {
      const parts = await collect(delta.parts)
      if (Array.isArray(parts)) this.#rendered.set(keyOf(delta), parts)
      return { ...delta, parts }
    })
    this.#flights.set(key, flight)
    try {
      return await flight
    } finally {
      if (this.#flights.get(key) === flight) this.#flights.delete(key)
    }
  }

  async *#readLog({ windows, since, version }: Question): AsyncGenerator<Part> {
    for (const window of windows) {
      const renderer = new WindowRenderer(window)
      const builder = new PartBuilder()
      const channel = window.channel.name
      for await (const changes of this.#source.readChanges({ since, version, tableId: window.channel.table.id })) {
        for (const change of changes) {
          const text = renderer.change(change)
          const finished = text === null ? null : builder.add(text)
          if (finished !== null) yield { channel, changes: finished }
        }
      }
      if (!builder.isEmpty) yield { channel, changes: builder.take() }
    }
  }
}

export function windowKey({ channel, filters }: Window): string {
  return `${channel.name}${filterKey(filters)}`
}

function *renderChanges(window: Window, batches: Iterable<readonly LoggedChange[]>): Generator<Part> {
  const renderer = new WindowRenderer(window)
  const builder = new PartBuilder()
  const channel = window.channel.name
  for (const changes of batches) {
    for (const change of changes) {
      const text = renderer.change(change)
      const finished = text === null ? null : builder.add(text)
      if (finished !== null) yield { channel, changes: finished }
    }
  }
  if (!builder.isEmpty) yield { channel, changes: builder.take() }
}

/** The rows of each window, but for keys that changed between the rows and the version: those as they are then. */
async function *renderState(windows: readonly Window[], reading: Awaited<ReturnType<ChangeSource['openState']>>): AsyncGenerator<Part> {
  try {
    for (const window of windows) {
      const renderer = new WindowRenderer(window)
      const builder = new PartBuilder()
      const channel = window.channel.name
      const later = [...reading.later.get(window.channel.table.id)?.values() ?? []]
      const outdated = new Set(later.map(({ key }) => renderer.key(key ?? '{}')))
      for await (const rows of reading.rows(window)) {
        for (const raw of rows) {
          const { text, key } = renderer.row(raw)
          const finished = outdated.has(key) ? null : builder.add(text)
          if (finished !== null) yield { channel, changes: finished }
        }
      }
      for (const change of later) {
        // A key that is gone was left out above: a reset has nothing to delete.
        const text = change.newRow === null ? null : renderer.change(change)
        const finished = text === null || text.startsWith('{"op":"delete"') ? null : builder.add(text)
        if (finished !== null) yield { channel, changes: finished }
      }
      // Also when it is empty: an empty table is a state.
      yield { channel, changes: builder.take() }
    }
  } finally {
    await reading.close()
  }
}

/** All parts if they are small together; else what was read, followed by the rest as it comes. */
async function collect(parts: readonly Part[] | AsyncIterable<Part>): Promise<readonly Part[] | AsyncIterable<Part>> {
  if (!(Symbol.asyncIterator in parts)) return parts
  const iterator = parts[Symbol.asyncIterator]()
  const collected: Part[] = []
  let bytes = 0
  for (;;) {
    const next = await iterator.next()
    if (next.done === true) return collected
    collected.push(next.value)
    bytes += next.value.changes.length
    if (bytes > MAX_SHARED_BYTES) return followed(collected, iterator)
  }
}

async function *followed(collected: Part[], rest: AsyncIterator<Part>): AsyncGenerator<Part> {
  try {
    for (let part = collected.shift(); part !== undefined; part = collected.shift()) yield part
    for (let next = await rest.next(); next.done !== true; next = await rest.next()) yield next.value
  } finally {
    await rest.return?.()
  }
}

function sizeOfParts(parts: readonly Part[]): number {
  return parts.reduce((bytes, part) => bytes + part.changes.length + 100, 200)
}

export { RangeLost }
