/** Changes and rows become the parts of an answer: as one window publishes them, in order, a bounded piece at a time. */
import type { ChangeSource, FoldedChange, Window } from '../contract/change.ts'
import { MAX_PART_BYTES, PartBuilder, WindowRenderer } from './fold.ts'
import { oneLine, splitChanges } from './render.ts'

/** A run of rendered changes of one channel: the inside of a `changes` array. */
export interface Part {
  readonly channel: string
  readonly changes: Buffer
}

/** Folded changes, as one window's reader must apply them. */
export function *renderChanges(window: Window, changes: readonly FoldedChange[]): Generator<Part> {
  const rendering = new ChangeRendering(window)
  yield* rendering.add(changes)
  yield* rendering.end()
}

/** The same of many. */
export async function *renderBatches(window: Window, batches: AsyncIterable<readonly FoldedChange[]>): AsyncGenerator<Part> {
  const rendering = new ChangeRendering(window)
  for await (const changes of batches) yield* rendering.add(changes)
  yield* rendering.end()
}

/** Changes on their way to being parts. */
class ChangeRendering {
  readonly #renderer: WindowRenderer
  readonly #channel: string
  readonly #builder = new PartBuilder()

  constructor(window: Window) {
    this.#renderer = new WindowRenderer(window)
    this.#channel = window.channel.name
  }

  /** The parts that have become full. */
  *add(changes: readonly FoldedChange[]): Generator<Part> {
    for (const change of changes) {
      const text = this.#renderer.change(change)
      const finished = text === null ? null : this.#builder.add(text)
      if (finished !== null) yield { channel: this.#channel, changes: finished }
    }
  }

  *end(): Generator<Part> {
    if (!this.#builder.isEmpty) yield { channel: this.#channel, changes: this.#builder.take() }
  }
}

/** The rows of each window, but for keys that changed between the rows and the version: those as they are then. */
export async function *renderState(windows: readonly Window[], reading: Awaited<ReturnType<ChangeSource['openState']>>): AsyncGenerator<Part> {
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
          yield* cutRun(channel, oneLine(run))
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
export function *cutRun(channel: string, run: string): Generator<Part> {
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
