/**
 * One reading of a range of the log, split by filter value for all windows that ask: in memory, and beyond a few megabytes in a file.
 * Promise: each window gets in order all changes that say something to it, also who comes late or reads slowly; the log is read at the speed of
 * the database, and no further when everybody has left. A reading that fails fails for all.
 */
import type { FileHandle } from 'node:fs/promises'
import { setImmediate as eventLoop } from 'node:timers/promises'
import type { FoldedChange, Window } from '../contract/change.ts'
import { Buckets, MAX_OWN_BUCKETS, type Bucket } from './bucket.ts'
import { News } from './news.ts'
import { parsePiece, Pieces, textOf } from './pieces.ts'
import { Shape } from './shape.ts'
import { openTemporary, writeWhole } from './temporary.ts'

const MAX_HELD_BYTES = 16e6
/** Of what nobody reads just now, no more stays in memory. */
const MAX_RESTING_BYTES = 1e6
/** It is written in pieces of so much. */
const WRITE_BYTES = 1024 * 1024
/** Windows that are read at once: each holds what it has rendered. The others wait their turn. */
const MAX_READ_AT_ONCE = 16

export interface SplitOptions {
  /** Nobody reads any more, and nothing is being read. */
  readonly onIdle: () => void
  /** Above this, what was read goes to the file. Default 16 MB. */
  readonly maxHeldBytes?: number
  /** See Buckets. */
  readonly maxOwnBuckets?: number
}

export class Split {
  readonly #shapes = new Map<string, Buckets>()
  readonly #news = new News()
  readonly #options: Required<SplitOptions>
  #file: FileHandle | null = null
  #fileBytes = 0
  #heldBytes = 0
  #readers = 0
  #hasBegun = false
  /** While everything that is held is written to the file. */
  #flushing: Promise<void> | null = null
  #reading = 0
  readonly #queue: (() => void)[] = []
  #life: 'reading' | 'read' | 'failed' = 'reading'
  #failure: unknown

  constructor(changes: AsyncIterable<readonly FoldedChange[]>, options: SplitOptions) {
    this.#options = { maxHeldBytes: MAX_HELD_BYTES, maxOwnBuckets: MAX_OWN_BUCKETS, ...options }
    void this.#readAll(changes)
  }

  get isIdle(): boolean {
    return this.#readers === 0 && this.#life !== 'reading'
  }

  /** Whether another reader may come; not after a failure. */
  get isSound(): boolean {
    return this.#life !== 'failed'
  }

  /** One reader more, for whom `leave` must be called. Null: too late, the changes of before were not split by the window's columns. */
  join(window: Window): Bucket | null {
    const name = Shape.nameOf(window)
    const buckets = this.#shapes.get(name) ?? (this.#hasBegun ? null : new Buckets(window, this.#options.maxOwnBuckets))
    if (buckets === null || !this.isSound) return null
    this.#shapes.set(name, buckets)
    this.#readers += 1
    return buckets.of(window)
  }

  leave(): void {
    this.#readers -= 1
    if (this.isIdle) this.#options.onIdle()
  }

  /** All that is in a bucket, from the beginning, also while it is being filled. */
  async *read(bucket: Bucket): AsyncGenerator<readonly FoldedChange[]> {
    while (bucket.written.length === 0 && this.#life === 'reading') await this.#news.next()
    await this.#takeTurn()
    try {
      yield* this.#batches(bucket)
    } finally {
      this.#endTurn()
    }
  }

  /** Holds little in memory until somebody reads again. */
  async rest(): Promise<void> {
    if (this.#heldBytes > MAX_RESTING_BYTES) await this.#flush().catch((error: unknown) => { this.#fail(error) })
    if (this.#life === 'failed') this.#closeFile()
  }

  close(): void {
    this.#fail(new Error('a reading of the log was closed'))
    this.#shapes.clear()
    if (this.#flushing === null) this.#closeFile()
  }

  #closeFile(): void {
    this.#file?.close().catch(() => undefined)
    this.#file = null
  }

  async *#batches(bucket: Bucket): AsyncGenerator<readonly FoldedChange[]> {
    for (let index = 0; ;) {
      const [offset, length] = bucket.written.slice(index, index + 2)
      if (this.#life === 'failed') {
        // Loud: a part of an answer must not pass for all of it.
        throw this.#failure
      } else if (offset !== undefined && length !== undefined) {
        yield parsePiece(await this.#readPiece(offset, length))
        index += 2
      } else if (this.#life === 'read') {
        for (const piece of bucket.held()) yield parsePiece(piece.toString())
        return
      } else {
        await this.#news.next()
      }
    }
  }

  async #takeTurn(): Promise<void> {
    if (this.#reading >= MAX_READ_AT_ONCE) await new Promise<void>((resolve) => this.#queue.push(resolve))
    else this.#reading += 1
    // Hundreds may follow each other without waiting for anything: others have their turn in between.
    await eventLoop()
  }

  #endTurn(): void {
    const next = this.#queue.shift()
    if (next === undefined) this.#reading -= 1
    else next()
  }

  async #readAll(changes: AsyncIterable<readonly FoldedChange[]>): Promise<void> {
    try {
      for await (const batch of changes) {
        this.#hasBegun = true
        for (const change of batch) this.#add(change)
        if (this.#heldBytes > this.#options.maxHeldBytes) await this.#flush()
        // Several batches may have come together: others have their turn in between.
        await eventLoop()
        if (this.#readers === 0) throw new Error('everybody left before a reading of the log was over')
      }
      this.#hasBegun = true
      this.#life = 'read'
    } catch (error) {
      this.#fail(error)
    }
    this.#news.announce()
    if (this.isIdle) this.#options.onIdle()
  }

  #fail(error: unknown): void {
    this.#life = 'failed'
    this.#failure = error
    this.#news.announce()
  }

  #add(change: FoldedChange): void {
    const text = textOf(change)
    for (const buckets of this.#shapes.values()) this.#heldBytes += buckets.add(change, text)
  }

  /** Everything that is held goes to the file. One at a time. */
  #flush(): Promise<void> {
    this.#flushing ??= this.#writeAll().finally(() => { this.#flushing = null })
    return this.#flushing
  }

  /** In pieces; each bucket has what it holds in memory until the file has it. */
  async #writeAll(): Promise<void> {
    this.#file ??= await openTemporary()
    let pieces = new Pieces()
    for (const buckets of this.#shapes.values()) {
      for (const bucket of buckets.holding()) {
        pieces.add(bucket)
        if (pieces.bytes < WRITE_BYTES) continue
        await this.#write(this.#file, pieces)
        pieces = new Pieces()
      }
    }
    await this.#write(this.#file, pieces)
    this.#heldBytes = 0
  }

  async #write(file: FileHandle, pieces: Pieces): Promise<void> {
    const offset = this.#fileBytes
    this.#fileBytes += await writeWhole(file, pieces.take(), offset)
    pieces.settle(offset)
    this.#news.announce()
  }

  async #readPiece(offset: number, length: number): Promise<string> {
    const buffer = Buffer.allocUnsafe(length)
    if (this.#file === null) throw new Error('a piece of a file that there is not')
    await this.#file.read(buffer, 0, length, offset)
    return buffer.toString()
  }
}
