/**
 * Answers "what changed in these windows since version v?": from memory, else from the log, else with the whole state.
 * Promise: every answer leads to a state that existed; equal questions share one rendering, also while it is being made.
 */
import { LRUCache } from 'lru-cache'
import { RangeLost, type ChangeSource, type LoggedChange, type Window } from '../contract/change.ts'
import { filterKey, foldChanges, MAX_PART_BYTES, PartBuilder, WindowRenderer } from './fold.ts'
import { oneLine, splitChanges } from './render.ts'
import type { Ring } from './ring.ts'
import { Spool } from './spool.ts'

/** A run of rendered changes of one channel: the inside of a `changes` array. */
export interface Part {
  readonly channel: string
  readonly changes: Buffer
}

export interface Delta {
  /** Null on a reset: everything before is to be forgotten. */
  readonly since: number | null
  readonly version: number
  /** All of it, or, when it is large, to be read from a file: consume it to the end or `discard` it. */
  readonly parts: readonly Part[] | AsyncIterableIterator<Part>
}

/** A delta in memory. */
export type HeldDelta = Delta & { readonly parts: readonly Part[] }

export function isHeld(delta: Delta): delta is HeldDelta {
  return !(Symbol.asyncIterator in delta.parts)
}

/** Lets go of an answer that nobody will read. */
export async function discard({ parts }: Delta): Promise<void> {
  if (Symbol.asyncIterator in parts) await parts.return?.()
}

/** Above this an answer is sent while it is being made. */
const MAX_COLLECTED_BYTES = 1024 * 1024

/** What all who ask the same share. */
interface Rendering {
  readonly since: number | null
  readonly version: number
  readonly content: readonly Part[] | Spool
}

/** An answer on its way: the parts as the database gives them. */
type Opened = Omit<Delta, 'parts'> & { readonly parts: AsyncIterable<Part> }

interface Sharing {
  /** Under which name a small rendering is kept. Default: the key. */
  readonly keyOf?: (delta: Opened) => string
  readonly atLeast?: number
}

export interface AnswererOptions {
  readonly source: ChangeSource
  readonly cacheBytes: number
  readonly versionAfter: (number: number) => Promise<number>
}

export interface Question {
  readonly windows: readonly Window[]
  readonly since: number
  readonly version: number
}

export class Answerer {
  readonly #source: ChangeSource
  readonly #versionAfter: (number: number) => Promise<number>
  readonly #rendered: LRUCache<string, readonly Part[]>
  readonly #flights = new Map<string, Promise<Rendering>>()
  #clearings = 0

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
    this.#clearings += 1
    this.#rendered.clear()
    this.#flights.clear()
  }

  /** The delta from memory, at once; null when memory does not reach back that far. */
  deltaFromMemory({ windows, since, version }: Question, ring: Ring): HeldDelta | null {
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
    return this.#share(key, () => Promise.resolve({ since: question.since, version: question.version, parts: this.#readLog(question) }))
  }

  /**
   * The whole state at `atLeast` or later, or RangeLost when it must be asked anew; `lastTouched` names it by the last version that
   * touched the windows at or below the one read.
   */
  state(windows: readonly Window[], lastTouched: (upTo: number) => number, atLeast: number): Promise<Delta> {
    const key = `state ${windows.map(windowKey).join(' ')}`
    const current = this.#rendered.get(`${key} ${lastTouched(Infinity)}`)
    if (current !== undefined) return Promise.resolve({ since: null, version: lastTouched(Infinity), parts: current })
    return this.#share(key, async () => {
      const clearings = this.#clearings
      const reading = await this.#source.openState(windows, this.#versionAfter)
      try {
        // This node may not have heard of the version yet.
        await this.#versionAfter(reading.version - 1)
        // It would be rendered with the old columns and bear a version that promises the new ones.
        if (clearings !== this.#clearings) throw new RangeLost('its definition changed while it was read')
      } catch (error) {
        await reading.close()
        throw error
      }
      return { since: null, version: lastTouched(reading.version), parts: renderState(windows, reading) }
    }, { keyOf: (delta) => `${key} ${delta.version}`, atLeast })
  }

  /** One reading for all who ask the same at the same time. What turns out small is kept, what is large is shared while it is written. */
  async #share(key: string, open: () => Promise<Opened>, { keyOf = () => key, atLeast = 0 }: Sharing = {}): Promise<Delta> {
    for (let kept = this.#flights.get(key), last; kept !== undefined && kept !== last; last = kept, kept = this.#flights.get(key)) {
      const delta = handOut(await kept)
      if (delta !== null && delta.version >= atLeast) return delta
      // One that was begun too early for this reader (the client's next state must not be older than what it has): somebody else may have begun another.
      if (delta !== null) await discard(delta)
    }
    return this.#begin(key, open, keyOf)
  }

  async #begin(key: string, open: () => Promise<Opened>, keyOf: (delta: Opened) => string): Promise<Delta> {
    const flight = open().then(async (opened): Promise<Rendering> => {
      const content = await collect(opened.parts)
      // Kept under its name, unless another has been begun meanwhile.
      const keep = (parts: readonly Part[] | null): void => {
        if (parts !== null && this.#flights.get(key) === flight) this.#rendered.set(keyOf(opened), parts)
      }
      if (content instanceof Spool) void content.settled().then(() => { keep(content.whole) })
      else keep(content)
      return { since: opened.since, version: opened.version, content }
    })
    this.#flights.set(key, flight)
    const land = (): void => {
      if (this.#flights.get(key) === flight) this.#flights.delete(key)
    }
    try {
      const rendering = await flight
      const delta = handOut(rendering)
      if (delta === null) throw new Error('an answer was gone before anybody read it')
      if (rendering.content instanceof Spool) {
        rendering.content.release()
        void rendering.content.settled().then(land)
      } else {
        land()
      }
      return delta
    } catch (error) {
      land()
      throw error
    }
  }

  async *#readLog({ windows, since, version }: Question): AsyncGenerator<Part> {
    for (const window of windows) {
      const renderer = new WindowRenderer(window)
      const builder = new PartBuilder()
      const channel = window.channel.name
      const range = { since, version, tableId: window.channel.table.id }
      if (renderer.takesLoggedRuns) {
        for await (const run of this.#source.readRuns(range)) yield* cut(channel, oneLine(run))
        continue
      }
      for await (const changes of this.#source.readChanges({ ...range, isFiltered: window.filters.size > 0 })) {
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
      const runs = later.length === 0 && renderer.takesRuns ? await reading.runs(window) : null
      if (runs !== null) {
        let isEmpty = true
        for await (const run of runs) {
          isEmpty = false
          yield* cut(channel, oneLine(run))
        }
        if (isEmpty) yield { channel, changes: builder.take() }
        continue
      }
      const outdated = new Set(later.map(({ key }) => renderer.key(key ?? '{}')))
      for await (const rows of reading.rows(window)) {
        for (const row of rows) {
          const { text, key } = renderer.row(row)
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

/** A run of changes as one part, or as several if it is too large for one. */
function *cut(channel: string, run: string): Generator<Part> {
  const changes = Buffer.from(run)
  if (changes.length <= MAX_PART_BYTES) {
    yield { channel, changes }
    return
  }
  const builder = new PartBuilder()
  for (const change of splitChanges(run)) {
    const finished = builder.add(change)
    if (finished !== null) yield { channel, changes: finished }
  }
  yield { channel, changes: builder.take() }
}

/** A rendering for one reader; null when it has failed or everybody else has left it. */
function handOut({ since, version, content }: Rendering): Delta | null {
  const parts = content instanceof Spool ? content.reader() : content
  return parts === null ? null : { since, version, parts }
}

/** All parts if they are small together; else a spool that they are written to. */
async function collect(parts: AsyncIterable<Part>): Promise<readonly Part[] | Spool> {
  const iterator = parts[Symbol.asyncIterator]()
  const collected: Part[] = []
  let bytes = 0
  for (;;) {
    const next = await iterator.next()
    if (next.done === true) return collected
    collected.push(next.value)
    bytes += next.value.changes.length
    if (bytes <= MAX_COLLECTED_BYTES) continue
    try {
      return await Spool.open(collected, iterator)
    } catch (error) {
      await iterator.return?.()
      throw error
    }
  }
}

function sizeOfParts(parts: readonly Part[]): number {
  return parts.reduce((bytes, part) => bytes + part.changes.length + 100, 200)
}
