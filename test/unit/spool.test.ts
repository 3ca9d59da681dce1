import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import type { Part } from '../../src/hub/answer.ts'
import { Spool } from '../../src/hub/spool.ts'

const MEGABYTE = 1024 * 1024

function part(index: number, bytes: number): Part {
  return { channel: 'c', changes: Buffer.alloc(bytes, String(index % 10)) }
}

/** So many parts, one a turn of the event loop; the last time it fails, if it is to. */
async function* parts(count: number, bytes: number, failure?: Error): AsyncGenerator<Part> {
  for (let index = 0; index < count; index += 1) {
    await delay(0)
    yield part(index, bytes)
  }
  if (failure !== undefined) throw failure
}

/** What a reader reads, each part as its length and first character. */
async function read(spool: Spool, pauseMs = 0): Promise<readonly string[]> {
  const read: string[] = []
  for await (const { changes } of spool.reader() ?? []) {
    read.push(`${changes.length} ${changes.every((byte) => byte === changes[0]) ? String.fromCharCode(changes[0] ?? 0) : '?'}`)
    if (pauseMs > 0) await delay(pauseMs)
  }
  return read
}

const expected = (count: number, bytes: number) => Array.from({ length: count }, (_, index) => `${bytes} ${index % 10}`)

describe('a spool', () => {
  it('gives every reader all parts in order: who keeps up, who lags beyond what memory holds, and who comes late', async () => {
    const spool = await Spool.open([], parts(24, MEGABYTE / 2))
    const quick = read(spool)
    const slow = read(spool, 15)
    await spool.settled()
    const late = read(spool)
    spool.release()
    expect(await Promise.all([quick, slow, late])).toEqual(Array(3).fill(expected(24, MEGABYTE / 2)))
    expect(spool.whole).toBeNull()
    expect(spool.reader()).toBeNull()
  })

  it('is whole when all of it has come and memory holds it', async () => {
    const spool = await Spool.open([part(0, 10), part(1, 10)], parts(3, MEGABYTE))
    expect(spool.whole).toBeNull()
    await spool.settled()
    expect(spool.whole?.map(({ changes }) => changes.length)).toEqual([10, 10, MEGABYTE, MEGABYTE, MEGABYTE])
    spool.release()
  })

  it('is never whole when everybody left before the end, or when its source failed', async () => {
    const left = await Spool.open([part(0, 10)], parts(100, 10))
    left.release()
    await left.settled()
    expect(left.whole).toBeNull()
    const failed = await Spool.open([part(0, 10)], parts(3, 10, new Error('gone')))
    await expect(read(failed)).rejects.toThrow('gone')
    expect(failed.whole).toBeNull()
    expect(failed.reader()).toBeNull()
    failed.release()
  })
})
