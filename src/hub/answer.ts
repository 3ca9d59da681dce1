/**
 * Answers "what changed in these windows since version v?": from memory, else from the log, else with the whole state.
 * Promise: every answer leads to a state that existed; equal questions share one rendering, also while it is being made.
 */
import { LRUCache } from 'lru-cache'
import { RangeLost, type ChangeSource, type Window } from '../contract/change.ts'
import { filterKey, WindowRenderer } from './fold.ts'
import { Folds } from './folds.ts'
import { cutRun, renderBatches, renderChanges, renderState, type Part } from './parts.ts'
import { oneLine } from './render.ts'
import type { Ring } from './ring.ts'
import { Splits } from './splits.ts'
import { Spool } from './spool.ts'

export type { Part } from './parts.ts'

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
/** The same where there may be hundreds of others at the same time, one for each filter. */
const MAX_COLLECTED_OF_MANY_BYTES = 256 * 1024

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
  /** How large an answer is collected before it is sent. */
  readonly maxCollectedBytes?: number
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
  /** A later version than `since`, where it is known that nothing between them concerns the windows. */
  readonly quietUntil?: number
}

/** Windows that nothing concerned for a while. */
interface Quiet {
  readonly since: number
  readonly until: number
}

/** Of so many it is remembered. */
const MAX_QUIET = 20_000

export class Answerer {
  readonly #source: ChangeSource
  readonly #splits: Splits
  readonly #folds = new Folds()
  readonly #quiet = new LRUCache<string, Quiet>({ max: MAX_QUIET })
  readonly #versionAfter: (number: number) => Promise<number>
  readonly #rendered: LRUCache<string, readonly Part[]>
  readonly #flights = new Map<string, Promise<Rendering>>()
  #clearings = 0

  constructor({ source, cacheBytes, versionAfter }: AnswererOptions) {
    this.#source = source
    this.#splits = new Splits(source)
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
    this.#splits.clear()
    this.#folds.clear()
    this.#quiet.clear()
  }

  /** The delta from memory, at once; null when memory does not reach back that far. */
  deltaFromMemory({ windows, since, version, quietUntil = since }: Question, ring: Ring): HeldDelta | null {
    const all: (readonly Part[])[] = []
    for (const window of windows) {
      const key = `${windowKey(window)} ${since} ${version}`
      let rendered = this.#rendered.get(key)
      if (rendered === undefined) {
        const changes = this.#folds.changes(window, { since: quietUntil, version }, ring)
        if (changes === null) return null
        rendered = [...renderChanges(window, changes)]
        this.#rendered.set(key, rendered)
      }
      all.push(rendered)
    }
    // Of one window the very array that is kept, so that what is derived from it can be kept beside it.
    return { since, version, parts: all.length === 1 ? all[0] ?? [] : all.flat() }
  }

  /** The delta from the log. Rejects with RangeLost when the log no longer has it. */
  deltaFromLog(question: Question, ring: Ring): Promise<Delta> {
    const { windows, since, version } = question
    const key = `${windows.map(windowKey).join(' ')} ${since} ${version}`
    const isOneOfMany = windows.some(({ filters }) => filters.size > 0)
    return this.#share(key, () => Promise.resolve({ since, version, parts: this.#readLog(question, ring) }),
      { maxCollectedBytes: isOneOfMany ? MAX_COLLECTED_OF_MANY_BYTES : MAX_COLLECTED_BYTES })
  }

  /** To be known later: no version above `since`, up to `until`, concerns the windows. */
  noteQuiet(windows: readonly Window[], quiet: Quiet): void {
    for (const window of windows) if (window.filters.size > 0) this.#quiet.set(windowKey(window), quiet)
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
  async #share(key: string, open: () => Promise<Opened>, { keyOf = () => key, atLeast = 0, maxCollectedBytes = MAX_COLLECTED_BYTES }: Sharing): Promise<Delta> {
    for (let kept = this.#flights.get(key), last; kept !== undefined && kept !== last; last = kept, kept = this.#flights.get(key)) {
      const delta = handOut(await kept)
      if (delta !== null && delta.version >= atLeast) return delta
      // One that was begun too early for this reader (the client's next state must not be older than what it has): somebody else may have begun another.
      if (delta !== null) await discard(delta)
    }
    return this.#begin(key, async () => {
      const opened = await open()
      return { opened, content: await collect(opened.parts, maxCollectedBytes) }
    }, keyOf)
  }

  async #begin(key: string, read: () => Promise<{ readonly opened: Opened; readonly content: Rendering['content'] }>, keyOf: (delta: Opened) => string): Promise<Delta> {
    const flight = read().then(({ opened, content }): Rendering => {
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

  async *#readLog({ windows, since, version }: Question, ring: Ring): AsyncGenerator<Part> {
    for (const window of windows) {
      const range = { since, version, tableId: window.channel.table.id }
      if (new WindowRenderer(window).takesLoggedRuns) {
        for await (const run of this.#source.readRuns(range)) yield* cutRun(window.channel.name, oneLine(run))
      } else if (window.filters.size === 0) {
        yield* renderBatches(window, this.#source.readChanges({ ...range, isFiltered: false }))
      } else {
        yield* renderBatches(window, this.#splits.read(window, { ...range, since: this.#startOf(window, since, ring) }))
      }
    }
  }

  /**
   * Where a range may begin as well, for one window: all who wait for the same version are to read the same, also those whom nothing has
   * concerned for long, and whose cursors are of many ages.
   */
  #startOf(window: Window, since: number, ring: Ring): number {
    const quiet = this.#quiet.get(windowKey(window))
    const isQuiet = quiet !== undefined && quiet.since <= since && since < quiet.until
    return ring.startOf(window.channel.table.id, isQuiet ? quiet.until : since)
  }
}

export function windowKey({ channel, filters }: Window): string {
  return `${channel.name}${filterKey(filters)}`
}

/** A rendering for one reader; null when it has failed or everybody else has left it. */
function handOut({ since, version, content }: Rendering): Delta | null {
  const parts = content instanceof Spool ? content.reader() : content
  return parts === null ? null : { since, version, parts }
}

/** All parts if they are small together; else a spool that they are written to. */
async function collect(parts: AsyncIterable<Part>, maxBytes: number): Promise<readonly Part[] | Spool> {
  const iterator = parts[Symbol.asyncIterator]()
  const collected: Part[] = []
  let bytes = 0
  for (;;) {
    const next = await iterator.next()
    if (next.done === true) return collected
    collected.push(next.value)
    bytes += next.value.changes.length
    if (bytes <= maxBytes) continue
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
