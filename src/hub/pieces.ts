/** Changes as text, and what buckets hold of them on its way to a file. */
import type { FoldedChange } from '../contract/change.ts'
import type { Bucket } from './bucket.ts'

/** In the file, a piece is at least so long where there is so much. */
const PIECE_BYTES = 65_536

/** After each change, and between what a change is made of: no text that PostgreSQL renders as JSON has them. */
const CHANGE_END = '\x1e'
const FIELD_SEPARATOR = '\x1f'

export function textOf({ key, newRow, oldFilters }: FoldedChange): string {
  let text = `${key ?? ''}${FIELD_SEPARATOR}${newRow ?? ''}`
  for (const old of oldFilters) text += FIELD_SEPARATOR + old
  return text + CHANGE_END
}

/** The changes of a piece: texts one after another. */
export function parsePiece(piece: string): readonly FoldedChange[] {
  const changes: FoldedChange[] = []
  for (let at = 0; at < piece.length;) {
    const end = piece.indexOf(CHANGE_END, at)
    const [key = '', newRow = '', ...oldFilters] = piece.slice(at, end).split(FIELD_SEPARATOR)
    changes.push({ key, newRow: newRow === '' ? null : newRow, oldFilters })
    at = end + 1
  }
  return changes
}

/** What several buckets hold. */
export class Pieces {
  bytes = 0
  readonly #buffers: Buffer[] = []
  readonly #buckets: { readonly bucket: Bucket; readonly lengths: readonly number[] }[] = []

  add(bucket: Bucket): void {
    const lengths: number[] = []
    let length = 0
    for (const buffer of bucket.held()) {
      this.#buffers.push(buffer)
      length += buffer.length
      if (length < PIECE_BYTES) continue
      lengths.push(length)
      length = 0
    }
    if (length > 0) lengths.push(length)
    for (const of of lengths) this.bytes += of
    this.#buckets.push({ bucket, lengths })
  }

  take(): readonly Buffer[] {
    return this.#buffers
  }

  /** At once for each bucket: who reads it finds everything in one place or in the other. */
  settle(offset: number): void {
    let at = offset
    for (const { bucket, lengths } of this.#buckets) {
      for (const length of lengths) {
        bucket.written.push(at, length)
        at += length
      }
      bucket.letGo()
    }
  }
}
