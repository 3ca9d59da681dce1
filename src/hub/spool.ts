/**
 * Answers too large to wait for: written once to a temporary file at the speed of the database, read from there or from memory by
 * everybody who asked, each at a speed of their own, also while it is being written. Promise: no reader, however slow, keeps a
 * connection or a snapshot of the database; the file is gone with the last reader, however the process ends.
 */
import type { FileHandle } from 'node:fs/promises'
import { News } from './news.ts'
import type { Part } from './parts.ts'
import { openTemporary, writeWhole } from './temporary.ts'

interface Place {
  readonly channel: string
  readonly offset: number
  readonly length: number
  /** The part itself, while it is one of the last. */
  held: Buffer | null
}

/** So much of what was written last stays in memory: who keeps up with the database never reads the file. */
const HELD_BYTES = 8 * 1024 * 1024
/** And of all spools together; there may be hundreds. */
const HELD_BY_ALL_BYTES = 32 * 1024 * 1024
/** It is written in pieces of so much. */
const WRITE_BYTES = 1024 * 1024

export class Spool {
  static #heldByAll = 0
  readonly #file: FileHandle
  readonly #places: Place[] = []
  readonly #news = new News()
  /** Those that are held, oldest first, and those that are not in the file yet. */
  readonly #held: Place[] = []
  #unwritten: Place[] = []
  #end = 0
  #life: 'writing' | 'written' | 'closed' = 'writing'
  #failure: Error | undefined
  /** Nothing is missing: it has not failed, and was not given up because everybody left. */
  #isComplete = false
  #holders = 0

  private constructor(file: FileHandle) {
    this.#file = file
  }

  /** Begins to write `first` and then `rest`, of which nothing else may read. One holder is counted: call `release` for it. */
  static async open(first: readonly Part[], rest: AsyncIterator<Part>): Promise<Spool> {
    const spool = new Spool(await openTemporary())
    spool.#holders = 1
    void spool.#write(first, rest)
    return spool
  }

  /** Resolves once nothing is written any more, for whatever reason. */
  async settled(): Promise<void> {
    while (this.#life === 'writing') await this.#news.next()
  }

  /** All parts, if all of them have come and are in memory. */
  get whole(): readonly Part[] | null {
    if (!this.#isComplete) return null
    const parts = this.#places.flatMap(({ channel, held }) => held === null ? [] : [{ channel, changes: held }])
    return parts.length === this.#places.length ? parts : null
  }

  /** All parts from the beginning; to be read to the end, or `return`ed. Null: too late, it is gone. */
  reader(): AsyncIterableIterator<Part> | null {
    if (this.#holders === 0 || this.#failure !== undefined) return null
    this.#holders += 1
    return new SpoolReader((index) => this.#read(index), () => this.release())
  }

  /** One holder fewer. When nobody is left, writing stops and the file goes. */
  release(): void {
    this.#holders -= 1
    if (this.#holders === 0 && this.#life === 'written') this.#close()
  }

  async #write(first: readonly Part[], rest: AsyncIterator<Part>): Promise<void> {
    try {
      for (const part of first) this.#append(part)
      await this.#flush()
      let next = await rest.next()
      for (; next.done !== true && this.#holders > 0; next = await rest.next()) {
        this.#append(next.value)
        if (this.#end - (this.#unwritten[0]?.offset ?? 0) >= WRITE_BYTES) await this.#flush()
      }
      await this.#flush()
      this.#isComplete = next.done === true
    } catch (error) {
      this.#failure = error instanceof Error ? error : new Error(String(error))
    }
    // After a failure it has ended by itself; what it says then is no news.
    await rest.return?.().catch(() => undefined)
    this.#life = 'written'
    this.#news.announce()
    if (this.#holders === 0) this.#close()
  }

  #append({ channel, changes }: Part): void {
    const place = { channel, offset: this.#end, length: changes.length, held: changes }
    this.#places.push(place)
    this.#unwritten.push(place)
    this.#end += changes.length
    this.#news.announce()
  }

  /** Many parts at once: each call costs a thread of its own its waking. */
  async #flush(): Promise<void> {
    const places = this.#unwritten
    const [first] = places
    if (first === undefined) return
    this.#unwritten = []
    Spool.#heldByAll += await writeWhole(this.#file, places.flatMap(({ held }) => held ?? []), first.offset)
    this.#held.push(...places)
    while (this.#end - (this.#held[0]?.offset ?? this.#end) > HELD_BYTES || (Spool.#heldByAll > HELD_BY_ALL_BYTES && this.#held.length > 0)) this.#letGoOfOldest()
  }

  #letGoOfOldest(): void {
    const oldest = this.#held.shift()
    if (oldest === undefined) return
    oldest.held = null
    Spool.#heldByAll -= oldest.length
  }

  async #read(index: number): Promise<Part | null> {
    for (;;) {
      const place = this.#places[index]
      if (place?.held != null) return { channel: place.channel, changes: place.held }
      if (place !== undefined) {
        const changes = Buffer.allocUnsafe(place.length)
        await this.#file.read(changes, 0, place.length, place.offset)
        return { channel: place.channel, changes }
      }
      // Loud: a part of an answer must not pass for all of it.
      if (this.#failure !== undefined) throw this.#failure
      if (this.#life !== 'writing') return null
      await this.#news.next()
    }
  }

  #close(): void {
    this.#life = 'closed'
    // They stay where they are: `whole` may be asked for yet.
    for (const { length } of this.#held.splice(0)) Spool.#heldByAll -= length
    this.#file.close().catch(() => undefined)
  }
}

/** An iterator rather than a generator: one that nobody has begun to read can be returned as well. */
class SpoolReader implements AsyncIterableIterator<Part> {
  readonly #read: (index: number) => Promise<Part | null>
  #release: (() => void) | null
  #index = 0

  constructor(read: (index: number) => Promise<Part | null>, release: () => void) {
    this.#read = read
    this.#release = release
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async next(): Promise<IteratorResult<Part, undefined>> {
    if (this.#release === null) return { done: true, value: undefined }
    try {
      const part = await this.#read(this.#index)
      this.#index += 1
      return part === null ? await this.return() : { done: false, value: part }
    } catch (error) {
      await this.return()
      throw error
    }
  }

  return(): Promise<IteratorResult<Part, undefined>> {
    this.#release?.()
    this.#release = null
    return Promise.resolve({ done: true, value: undefined })
  }
}
