/**
 * Answers that clients take in pages (`limit`): written once to a temporary file, read page by page by all who asked the same. A page
 * cursor that this node does not know (another node's, or one not used for a while) is no error: the answer begins anew.
 */
import { randomBytes } from 'node:crypto'
import { mkdtemp, open, rm, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LRUCache } from 'lru-cache'
import { discard, type Delta } from '../hub/answer.ts'
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

/** What is asked: `feed` tells answers about other channels and filters apart. */
export interface PageRequest {
  readonly feed: string
  readonly since: number | null
  readonly version: number
  readonly limit: number
}

interface Spool {
  readonly file: FileHandle
  readonly answer: string
}

export class PageStore {
  readonly #spools: LRUCache<string, Spool>
  /** The spool of each answer, perhaps still being written; null: it fits on one page. */
  readonly #begun = new Map<string, Promise<string | null>>()
  #directory: Promise<string> | undefined

  constructor() {
    this.#spools = new LRUCache({
      max: MAX_ANSWERS, ttl: IDLE_MS, updateAgeOnGet: true, ttlAutopurge: true,
      dispose: ({ file, answer }) => {
        this.#begun.delete(answer)
        file.close().catch(() => undefined)
      },
    })
  }

  /** The first page of an answer; the rest is kept. */
  async begin(delta: Delta, request: PageRequest): Promise<Page> {
    const answer = keyOf(request)
    const begun = await this.#begun.get(answer) ?? null
    const known = begun === null ? null : await this.read(`${begun}-0`, request)
    if (known !== null) {
      await discard(delta)
      return known
    }
    const writing = this.#write(delta, answer, request.limit)
    this.#begun.set(answer, writing.then(({ id }) => id, () => null))
    const { id, changes } = await writing.catch((error: unknown) => {
      this.#begun.delete(answer)
      throw error
    })
    if (id !== null) {
      const page = await this.read(`${id}-0`, request)
      if (page === null) throw new Error('an answer was dropped before its first page was read')
      return page
    }
    this.#begun.delete(answer)
    return { changes, next: null }
  }

  /** The page at `position`; null when this node does not have it. */
  async read(position: string, request: PageRequest): Promise<Page | null> {
    const [id = '', offset = ''] = position.split('-')
    const spool = this.#spools.get(id)
    if (spool?.answer !== keyOf(request)) return null
    const start = parseInt(offset, 36)
    if (!Number.isSafeInteger(start)) return null
    const { changes, end, isLast } = await readLines(spool.file, start, request.limit)
    return { changes, next: isLast ? null : `${id}-${end.toString(36)}` }
  }

  async close(): Promise<void> {
    this.#spools.clear()
    if (this.#directory !== undefined) await rm(await this.#directory, { recursive: true, force: true })
  }

  /** The whole answer into a file, whose id is returned; or, if it fits on one page, its changes. */
  async #write({ parts }: Delta, answer: string, limit: number): Promise<{ id: string | null; changes: readonly string[] }> {
    const first: string[] = []
    let spool: { id: string; file: FileHandle } | undefined
    try {
      for await (const part of parts) {
        const changes = splitChanges(part.changes.toString())
        if (spool === undefined && first.length + changes.length <= limit) {
          first.push(...changes)
          continue
        }
        spool ??= await this.#create()
        await spool.file.write(`${[...first.splice(0), ...changes].join('\n')}\n`)
      }
    } catch (error) {
      await spool?.file.close()
      throw error
    }
    if (spool === undefined) return { id: null, changes: first }
    this.#spools.set(spool.id, { file: spool.file, answer })
    return { id: spool.id, changes: [] }
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

function keyOf({ feed, since, version }: PageRequest): string {
  return `${since} ${version} ${feed}`
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
