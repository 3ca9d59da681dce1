/**
 * A crowd of stream readers in one process: raw sockets that are read with as little work as possible. Counts events and bytes, and says
 * when every reader has got a given text. A reader that is cut off makes the next question fail.
 */
import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { serve } from './child.ts'

export interface OpenOptions {
  readonly port: number
  /** `{i}` is replaced by the reader's number, from 0. */
  readonly path: string
  readonly count: number
  /** What a reader must have got to count as opened. */
  readonly ready: string
  /** Connections opened but not answered, at once. Default 200. */
  readonly inFlight?: number
  /** 1 to 250: the address they come from, 127.0.1.n; a crowd that has left holds on to its ports. */
  readonly origin?: number
}

export interface Arrivals {
  /** From `expect` to the first, the middle and the last reader, ms. */
  readonly firstMs: number
  readonly medianMs: number
  readonly lastMs: number
}

interface Reader {
  readonly socket: Socket
  /** The end of what was read, where an event did not end with it. */
  tail: string
  hasArrived: boolean
}

interface Expectation {
  readonly marker: string
  readonly sinceMs: number
  readonly times: number[]
  readonly readers: number
  readonly resolve: () => void
  readonly done: Promise<void>
}

const EVENT = '\ndata:'
const NEWLINE = 0x0a

const readers = new Set<Reader>()
const buffer = Buffer.allocUnsafe(256 * 1024)
let events = 0
let bytes = 0
let lost = 0
let expectation: Expectation | null = null

/** Milliseconds on a clock that all processes of the machine share. */
function now(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

function read(reader: Reader, length: number): void {
  bytes += length
  const chunk = buffer.subarray(0, length)
  for (let at = chunk.indexOf(EVENT); at >= 0; at = chunk.indexOf(EVENT, at + EVENT.length)) events += 1
  // An event may be cut anywhere; most often it is not, and ends the chunk.
  const seam = reader.tail === '' ? '' : reader.tail + chunk.toString('latin1', 0, 64)
  if (seam !== '' && seam.indexOf(EVENT, reader.tail.length - EVENT.length + 1) >= 0 && seam.indexOf(EVENT, reader.tail.length - EVENT.length + 1) < reader.tail.length) events += 1
  if (expectation !== null && !reader.hasArrived && (chunk.includes(expectation.marker) || seam.includes(expectation.marker))) arrive(reader, expectation)
  reader.tail = chunk[length - 1] === NEWLINE ? '' : chunk.toString('latin1', Math.max(0, length - 64))
}

function arrive(reader: Reader, { times, readers: wanted, resolve }: Expectation): void {
  reader.hasArrived = true
  times.push(now())
  if (times.length === wanted) resolve()
}

function expectMarker(marker: string, count = readers.size): void {
  let resolve: () => void = () => undefined
  const done = new Promise<void>((settle) => { resolve = settle })
  for (const reader of readers) reader.hasArrived = false
  expectation = { marker, sinceMs: now(), times: [], readers: count, resolve, done }
}

async function within(work: Promise<void>, timeoutMs: number, what: () => string): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(what())), timeoutMs)
  })
  await Promise.race([work, late])
  clearTimeout(timer)
}

function openReader(number: number, { port, path, origin = 1 }: OpenOptions): Reader {
  const socket: Socket = connect({
    host: '127.0.0.1', port, localAddress: `127.0.1.${origin}`, noDelay: true,
    onread: { buffer, callback: (length) => { read(reader, length); return true } },
  })
  const reader: Reader = { socket, tail: '', hasArrived: false }
  socket.on('error', () => undefined)
  socket.on('close', () => { if (readers.delete(reader)) lost += 1 })
  socket.write(`GET ${path.replace('{i}', String(number))} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n`)
  return reader
}

function check(): void {
  if (lost > 0) throw new Error(`${lost} readers were cut off`)
}

const crowd = {
  /** Opens readers until all have got `ready`. */
  async open(options: OpenOptions): Promise<{ readonly tookMs: number }> {
    const { count, ready, inFlight = 200 } = options
    const startedMs = now()
    const first = readers.size
    expectMarker(ready, count)
    for (const reader of readers) reader.hasArrived = true
    for (let opened = 0; opened < count;) {
      const unanswered = opened - (expectation?.times.length ?? 0)
      for (let place = unanswered; place < inFlight && opened < count; place += 1, opened += 1) readers.add(openReader(first + opened, options))
      await delay(1)
      check()
    }
    await within(expectation?.done ?? Promise.resolve(), 120_000, () => `${expectation?.times.length ?? 0} of ${count} readers were answered; ${lost} cut off`)
    expectation = null
    return { tookMs: now() - startedMs }
  },

  count(): { readonly events: number; readonly bytes: number; readonly readers: number } {
    check()
    return { events, bytes, readers: readers.size }
  },

  /** From now on every reader is watched for `marker`; `count`: so many only, where not all will get it. */
  expect({ marker, count }: { readonly marker: string; readonly count?: number }): void {
    expectMarker(marker, count)
  },

  /** Resolves when all have it. */
  async arrived({ timeoutMs }: { readonly timeoutMs: number }): Promise<Arrivals> {
    if (expectation === null) throw new Error('nothing is expected')
    const { done, times, readers: wanted, sinceMs, marker } = expectation
    await within(done, timeoutMs, () => `${times.length} of ${wanted} readers got ${marker}; ${lost} were cut off`)
    expectation = null
    check()
    return { firstMs: (times[0] ?? 0) - sinceMs, medianMs: (times[Math.floor(times.length / 2)] ?? 0) - sinceMs, lastMs: (times.at(-1) ?? 0) - sinceMs }
  },

  /** All leave at once; no port is kept waiting. */
  async leave(): Promise<void> {
    const leaving = [...readers]
    readers.clear()
    for (const { socket } of leaving) socket.resetAndDestroy()
    await new Promise((resolve) => setImmediate(resolve))
  },
}

export type Crowd = typeof crowd

serve(crowd)
