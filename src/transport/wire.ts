/**
 * The bytes of one open stream after its head. Promise: a reader that does not drain is noticed, and cut after a deadline; whoever
 * waits for it is told when it is gone.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { drained } from './drained.ts'
import type { Frame } from './frame.ts'
import { takeSocket } from './takeover.ts'

/** How long the last bytes may wait for a reader that takes nothing, ms: less than a shutdown has. */
const LAST_BYTES_MS = 400
const LAST_CHUNK = '0\r\n\r\n'

export class Wire {
  readonly #target: Socket | ServerResponse
  /** Whether chunks are framed here [rfc9112 §7.1]; node:http frames those of its own. */
  readonly #isChunked: boolean

  /** Of an answer whose head has been sent. */
  constructor(request: IncomingMessage, response: ServerResponse) {
    const socket = takeSocket(request, response)
    this.#target = socket ?? response
    this.#isChunked = socket !== null && request.httpVersion === '1.1'
    this.#target.on('error', ignore)
    // Nothing more is expected of the client; that it has left is seen only by reading.
    socket?.on('end', close).resume()
  }

  get isOpen(): boolean {
    return this.#target.writable && !this.#target.destroyed
  }

  /** Bytes written that the socket has not taken. */
  get backlogBytes(): number {
    return this.#target.writableLength
  }

  onClose(listener: () => void): void {
    if (this.#target.destroyed) listener()
    else this.#target.on('close', listener)
  }

  /** False: the socket is full; see `drained`. */
  write({ chunk, event }: Frame): boolean {
    return this.isOpen && this.#target.write(this.#isChunked ? chunk : event)
  }

  /** Resolves to true when all has been taken, to false when the client is gone or cut because it took nothing at all for `deadlineMs`. */
  drained(deadlineMs: number): Promise<boolean> {
    return drained(this.#target, deadlineMs)
  }

  end(last: Frame): void {
    if (!this.isOpen) return
    const target = this.#target
    this.write(last)
    const deadline = setTimeout(() => target.destroy(), LAST_BYTES_MS).unref()
    target.once('close', () => clearTimeout(deadline))
    if (this.#isChunked) target.write(LAST_CHUNK)
    if ('destroySoon' in target) target.destroySoon()
    else target.end()
  }
}

function ignore(): void { /* 'close' follows, and says all there is to say */ }

function close(this: Socket): void {
  this.destroy()
}
