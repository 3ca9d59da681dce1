/**
 * Changes by the values of the columns that windows filter by, in the order in which they came. Promise: bounded in number, however many
 * values there are: beyond, values that nobody has asked for share a bucket with others. So who reads one must look at each change.
 */
import type { FoldedChange, Window } from '../contract/change.ts'
import { Shape } from './shape.ts'

/** Values that have a bucket of their own, but for those that are asked for; and what all others share. */
export const MAX_OWN_BUCKETS = 8_192
const SHARED = 1_024

/** How large a piece in memory is: half of what the bucket has in memory already, within these bounds. */
const LEAST_PIECE_BYTES = 1_024
const MOST_PIECE_BYTES = 65_536
/** A character takes no more in UTF-8. */
const MAX_CHARACTER_BYTES = 3

const NOTHING = Buffer.alloc(0)

/** Changes as bytes: they are many, and none of them is left to be found by the collector of garbage. In a file first, then in memory. */
export class Bucket {
  /** Where each piece begins in the file and how long it is, in turn. */
  readonly written: number[] = []
  #full: Buffer[] = []
  #last = NOTHING
  #used = 0
  #heldBytes = 0

  get isHolding(): boolean {
    return this.#heldBytes > 0
  }

  /** Answers how much more memory it takes. */
  add(text: string): number {
    const room = this.#last.length - this.#used
    const isFitting = text.length * MAX_CHARACTER_BYTES <= room || (text.length <= room && Buffer.byteLength(text) <= room)
    const before = this.#heldBytes
    if (!isFitting) this.#grow(Buffer.byteLength(text))
    this.#used += this.#last.write(text, this.#used)
    return this.#heldBytes - before
  }

  /** What is in memory. */
  held(): readonly Buffer[] {
    return this.#used === 0 ? this.#full : [...this.#full, this.#last.subarray(0, this.#used)]
  }

  /** It is in the file by now. */
  letGo(): void {
    this.#full = []
    this.#last = NOTHING
    this.#used = 0
    this.#heldBytes = 0
  }

  #grow(bytes: number): void {
    if (this.#used > 0) this.#full.push(this.#last.subarray(0, this.#used))
    this.#last = Buffer.allocUnsafeSlow(Math.max(bytes, Math.min(MOST_PIECE_BYTES, Math.max(LEAST_PIECE_BYTES, this.#heldBytes >> 1))))
    this.#used = 0
    this.#heldBytes += this.#last.length
  }
}

export class Buckets {
  readonly #shape: Shape
  readonly #maxOwn: number
  readonly #own = new Map<string, Bucket>()
  readonly #shared: Bucket[] = []

  constructor(window: Window, maxOwn: number) {
    this.#shape = new Shape(window)
    this.#maxOwn = maxOwn
  }

  /** `text`: the change as it is kept. Answers how much more memory all of them take. */
  add(change: FoldedChange, text: string): number {
    let bytes = 0
    for (const value of this.#shape.valuesOf(change)) bytes += this.#bucketOf(value).add(text)
    return bytes
  }

  /** Where the changes are, or will be, that may concern a window of the shape. */
  of(window: Window): Bucket {
    const value = Shape.valueOf(window)
    // As long as none is shared, a value without a bucket has not come yet.
    return this.#shared.length === 0 ? this.#own.get(value) ?? this.#begin(value) : this.#bucketOf(value)
  }

  /** Those that hold something in memory. */
  *holding(): Generator<Bucket> {
    for (const bucket of this.#own.values()) if (bucket.isHolding) yield bucket
    for (const bucket of this.#shared) if (bucket.isHolding) yield bucket
  }

  #bucketOf(value: string): Bucket {
    const own = this.#own.get(value)
    if (own !== undefined) return own
    if (this.#shared.length === 0 && this.#own.size < this.#maxOwn) return this.#begin(value)
    if (this.#shared.length === 0) this.#shared.push(...Array.from({ length: SHARED }, () => new Bucket()))
    return this.#shared[hash(value) % SHARED] ?? this.#begin(value)
  }

  #begin(value: string): Bucket {
    const bucket = new Bucket()
    this.#own.set(value, bucket)
    return bucket
  }
}

function hash(text: string): number {
  let sum = 0
  for (let index = 0; index < text.length; index += 1) sum = (Math.imul(sum, 31) + text.charCodeAt(index)) >>> 0
  return sum
}
