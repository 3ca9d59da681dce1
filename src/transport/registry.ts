/**
 * All open streams of this process: how many there may be, and what time does to them: heartbeats, status, age, drain.
 * One timer for all. Promise: a stream that is refused, aged or drained ends as a 200 with `retry:`, because EventSource gives up
 * for ever on anything else.
 */
import type { Stream } from './stream.ts'

export interface RegistryOptions {
  readonly maxStreams: number
  /** 0: no limit. */
  readonly maxStreamsPerAddress: number
  readonly staleSinceMs: () => number | null
  readonly heartbeatMs?: number
  /** Streams end on their own after this long, give or take a quarter, so that load spreads over nodes again. */
  readonly maxAgeMs?: number
}

interface Entry {
  readonly stream: Stream
  readonly address: string
  readonly endsAtMs: number
  nextBeatMs: number
}

export class StreamRegistry {
  readonly #options: Required<RegistryOptions>
  readonly #entries = new Set<Entry>()
  readonly #byAddress = new Map<string, number>()
  readonly #timer: NodeJS.Timeout
  #isDraining = false

  constructor(options: RegistryOptions) {
    this.#options = { heartbeatMs: 15_000, maxAgeMs: 3_600_000, ...options }
    this.#timer = setInterval(() => this.#tick(Date.now()), 500)
    this.#timer.unref()
  }

  get size(): number {
    return this.#entries.size
  }

  /** Bytes that wait for slow sockets. */
  get backlogBytes(): number {
    let bytes = 0
    for (const { stream } of this.#entries) bytes += stream.backlogBytes
    return bytes
  }

  get isDraining(): boolean {
    return this.#isDraining
  }

  /** Whether one more stream from this address may be opened. */
  admits(address: string): boolean {
    const { maxStreams, maxStreamsPerAddress } = this.#options
    return !this.#isDraining && this.#entries.size < maxStreams
      && (maxStreamsPerAddress === 0 || (this.#byAddress.get(address) ?? 0) < maxStreamsPerAddress)
  }

  /** Keeps the stream alive; call the returned function when its client has gone. */
  add(stream: Stream, address: string): () => void {
    const nowMs = Date.now()
    const { heartbeatMs, maxAgeMs } = this.#options
    const entry: Entry = {
      stream, address, endsAtMs: nowMs + maxAgeMs * (0.75 + Math.random() / 2), nextBeatMs: nowMs + heartbeatMs * (0.5 + Math.random() / 2),
    }
    this.#entries.add(entry)
    this.#byAddress.set(address, (this.#byAddress.get(address) ?? 0) + 1)
    return () => this.#remove(entry)
  }

  /** Ends every stream at a moment of its own within `windowMs`. Resolves when none is left. */
  async drain(windowMs: number): Promise<void> {
    this.#isDraining = true
    await Promise.all([...this.#entries].map((entry) => new Promise<void>((resolve) => {
      setTimeout(() => {
        // Clients come back over about as long as they were sent away.
        entry.stream.end(500 + Math.random() * 2_000)
        this.#remove(entry)
        resolve()
      }, Math.random() * windowMs)
    })))
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #remove(entry: Entry): void {
    if (!this.#entries.delete(entry)) return
    const left = (this.#byAddress.get(entry.address) ?? 1) - 1
    if (left === 0) this.#byAddress.delete(entry.address)
    else this.#byAddress.set(entry.address, left)
  }

  #tick(nowMs: number): void {
    const staleSinceMs = this.#options.staleSinceMs()
    for (const entry of this.#entries) {
      entry.stream.tellStatus(staleSinceMs)
      if (nowMs >= entry.endsAtMs) {
        entry.stream.end(500 + Math.random() * 1_500)
        this.#remove(entry)
      } else if (nowMs >= entry.nextBeatMs) {
        entry.nextBeatMs = nowMs + this.#options.heartbeatMs
        entry.stream.heartbeat()
      }
    }
  }
}
