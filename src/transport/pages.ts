/**
 * The rest of answers that clients take in pages (`limit`): written once to a temporary file, read page by page. A page cursor that this
 * node does not know (another node's, or one not used for a while) is no error: the answer begins anew.
 */
import { randomBytes } from 'node:crypto'
import { mkdtemp, open, rm, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LRUCache } from 'lru-cache'
import type { Part } from '../hub/answer.ts'
import { splitChanges } from '../hub/render.ts'

export interface Page {
  /** Rendered changes, at most as many as asked. */
  readonly changes: readonly string[]
  /** Where the next page begins; null: this is the last. */
  readonly next: string | null
}

/** An answer is dropped when no page of it has been asked for this long. */
const IDLE_MS = 60_000
const MAX_ANSWERS = 64
const READ_BYTES = 256 * 1024

interface Spool {
  readonly file: FileHandle
  readonly feed: string
  readonly version: number
}

export class PageStore {
  readonly #spools: LRUCache<string, Spool>
  #directory: Promise<string> | undefined

  constructor() {
    this.#spools = new LRUCache({
      max: MAX_ANSWERS, ttl: IDLE_MS, updateAgeOnGet: true, ttlAutopurge: true,
      dispose: (spool) => { spool.file.close().catch(() => undefined) },
    })
  }

  /** The first page of an answer; the rest is kept. `feed` tells answers to other questions apart. */
  async begin(parts: readonly Part[] | AsyncIterable<Part>, { feed, version, limit }: { feed: string; version: number; limit: number }): Promise<Page> {
    const first: string[] = []
    let spool: { id: string; file: FileHandle } | undefined
    for await (const part of parts) {
      const changes = splitChanges(part.changes.toString())
      first.push(...changes.splice(0, limit - first.length))
      if (changes.length === 0) continue
      spool ??= await this.#create()
      await spool.file.write(`${changes.join('\n')}\n`)
    }
    if (spool === undefined) return { changes: first, next: null }
    this.#spools.set(spool.id, { file: spool.file, feed, version })
    return { changes: first, next: `${spool.id}-0` }
  }

  /** The page at `position`; null when this node does not have it. */
  async read(position: string, { feed, version, limit }: { feed: string; version: number; limit: number }): Promise<Page | null> {
    const [id = '', offset = ''] = position.split('-')
    const spool = this.#spools.get(id)
    if (spool?.feed !== feed || spool.version !== version) return null
    const start = parseInt(offset, 36)
    if (!Number.isSafeInteger(start)) return null
    const { changes, end, isLast } = await readLines(spool.file, start, limit)
    return { changes, next: isLast ? null : `${id}-${end.toString(36)}` }
  }

  async close(): Promise<void> {
    this.#spools.clear()
    if (this.#directory !== undefined) await rm(await this.#directory, { recursive: true, force: true })
  }

  async #create(): Promise<{ id: string; file: FileHandle }> {
    this.#directory ??= mkdtemp(join(tmpdir(), 'freshet-pages-'))
    const id = randomBytes(5).toString('hex')
    const path = join(await this.#directory, id)
    const file = await open(path, 'wx+', 0o600)
    // Nothing is left behind, however the process ends.
    await rm(path)
    return { id, file }
  }
}

async function readLines(file: FileHandle, start: number, limit: number): Promise<{ changes: string[]; end: number; isLast: boolean }> {
  const changes: string[] = []
  let end = start
  let pending = Buffer.alloc(0)
  for (let at = start; ;) {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(READ_BYTES), 0, READ_BYTES, at)
    at += bytesRead
    pending = Buffer.concat([pending, buffer.subarray(0, bytesRead)])
    for (let newline = pending.indexOf(10); newline >= 0; newline = pending.indexOf(10)) {
      if (changes.length === limit) return { changes, end, isLast: false }
      changes.push(pending.toString('utf8', 0, newline))
      end += newline + 1
      pending = pending.subarray(newline + 1)
    }
    if (bytesRead === 0) return { changes, end, isLast: true }
  }
}
