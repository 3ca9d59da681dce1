/**
 * Bytes on their way to one reader. Node says of a write only that all of it was taken, so it is given no more than a slice at a time: a
 * reader that takes a little is told from one that takes nothing. Promise: the latter is cut after the deadline of whoever waits for it.
 */
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

export const SLICE_BYTES = 64 * 1024

const NOTHING = Buffer.alloc(0)

/** How often within the deadline it is looked whether anything was taken. */
const LOOKS = 4

export class Outflow {
  readonly #target: Socket | ServerResponse
  readonly #connection: Socket
  /** What the target was not given yet, oldest first; most readers never need one. */
  #queue: Buffer[] | null = null
  #queuedBytes = 0
  #slicesTaken = 0
  #isWriting = false
  #onEmpty: (() => void)[] | null = null

  /** `connection` is that of the target, which a response that waits behind another does not know. */
  constructor(target: Socket | ServerResponse, connection: Socket) {
    this.#target = target
    this.#connection = connection
  }

  get isOpen(): boolean {
    return this.#target.writable && !this.#target.destroyed && !this.#connection.destroyed
  }

  /** Bytes that were written and not taken. */
  get waitingBytes(): number {
    return this.#queuedBytes + this.#target.writableLength
  }

  /** False: not all was taken at once; see `drained`. */
  write(bytes: Buffer): boolean {
    if (this.#queuedBytes === 0 && this.#target.writableLength + bytes.length <= SLICE_BYTES) this.#target.write(bytes)
    else this.#enqueue(bytes)
    return this.waitingBytes === 0
  }

  /** Calls back once nothing waits, at once if nothing does. Not when the reader is gone. */
  whenEmpty(callback: () => void): void {
    if (this.waitingBytes === 0) return callback()
    this.#onEmpty ??= []
    this.#onEmpty.push(callback)
    // What is on its way says that it was taken only by what is written behind it.
    if (!this.#isWriting) this.#writeSlice(NOTHING)
  }

  /** Resolves to true when all has been taken, to false when the reader is gone or cut because it took not one slice in `deadlineMs`. */
  drained(deadlineMs: number): Promise<boolean> {
    if (!this.isOpen) return Promise.resolve(false)
    if (this.waitingBytes === 0) return Promise.resolve(true)
    return new Promise((resolve) => {
      let looksInVain = 0
      let taken = this.#slicesTaken
      const timer = setInterval(() => {
        looksInVain = taken === this.#slicesTaken ? looksInVain + 1 : 0
        taken = this.#slicesTaken
        if (looksInVain < LOOKS) return
        this.#connection.destroy()
        settle(false)
      }, deadlineMs / LOOKS).unref()
      const settle = (isDrained: boolean): void => {
        clearInterval(timer)
        this.#connection.off('close', onClose)
        resolve(isDrained)
      }
      const onClose = (): void => settle(false)
      this.#connection.on('close', onClose)
      this.whenEmpty(() => settle(this.isOpen))
    })
  }

  #enqueue(bytes: Buffer): void {
    this.#queue ??= []
    this.#queue.push(bytes)
    this.#queuedBytes += bytes.length
    if (!this.#isWriting) this.#writeSlice(this.#nextSlice())
  }

  #writeSlice(slice: Buffer): void {
    this.#isWriting = true
    this.#target.write(slice, (error) => this.#onTaken(error))
  }

  #onTaken(error?: Error | null): void {
    this.#isWriting = false
    // The connection is closing, and says so itself.
    if (error != null || !this.isOpen) return
    this.#slicesTaken += 1
    if (this.#queuedBytes > 0) return this.#writeSlice(this.#nextSlice())
    const waiting = this.#onEmpty ?? []
    this.#onEmpty = null
    for (const callback of waiting) this.whenEmpty(callback)
  }

  /** From the head of the queue: part of a large write, or several small ones. */
  #nextSlice(): Buffer {
    const queue = this.#queue ?? []
    const taken: Buffer[] = []
    let room = SLICE_BYTES
    for (let first = queue[0]; first !== undefined && room > 0; first = queue[0]) {
      taken.push(first.subarray(0, room))
      if (first.length > room) queue[0] = first.subarray(room)
      else queue.shift()
      room -= Math.min(room, first.length)
    }
    this.#queuedBytes -= SLICE_BYTES - room
    return taken.length === 1 && taken[0] !== undefined ? taken[0] : Buffer.concat(taken)
  }
}
