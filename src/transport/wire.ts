/**
 * The bytes of one open stream. While its head is on its way they go through the response; after that straight to the response's socket,
 * framed here, so that what is the same for many readers is framed once. Promise: a reader that does not drain is noticed, and cut after a
 * deadline; whoever waits for it is told when it is gone.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Frame } from './frame.ts'
import { Outflow } from './outflow.ts'

/** How long the last bytes may wait for a reader that takes nothing, ms: less than a shutdown has. */
const LAST_BYTES_MS = 400

const streaming = new WeakSet<object>()

/** Whether a connection has been given to a stream: whatever else comes on it is answered no more. */
export function isStreaming(connection: object): boolean {
  return streaming.has(connection)
}

export class Wire {
  readonly #response: ServerResponse
  readonly #socket: Socket
  /** Whether chunks are framed here [rfc9112 §7.1]: node:http frames only what goes through the response. */
  #isChunked = false
  #outflow: Outflow

  /** Of an answer whose head has been given to `response`. */
  constructor(request: IncomingMessage, response: ServerResponse) {
    const { socket, httpVersion } = request
    this.#response = response
    this.#socket = socket
    this.#outflow = new Outflow(response, socket)
    // However many answers wait on one connection, each wants to know of its end.
    socket.setMaxListeners(0)
    response.on('error', ignore)
    streaming.add(socket)
    // Nothing more is expected of the client: that it says no more means that it has left.
    socket.once('end', close)
    this.#outflow.whenEmpty(() => {
      this.#isChunked = httpVersion === '1.1'
      this.#outflow = new Outflow(socket, socket)
    })
  }

  get isOpen(): boolean {
    return this.#socket.writable && this.#outflow.isOpen && !this.#response.writableEnded
  }

  /** Bytes written that the reader has not taken. */
  get backlogBytes(): number {
    return this.#outflow.waitingBytes
  }

  /** Whether the answer has its connection; false: its client left while it waited behind another. */
  async begun(): Promise<boolean> {
    if (this.#response.socket === null) {
      await new Promise<void>((resolve) => {
        this.#outflow.whenEmpty(resolve)
        this.onClose(resolve)
      })
    }
    return this.isOpen
  }

  onClose(listener: () => void): void {
    if (this.#socket.destroyed) listener()
    else this.#socket.once('close', listener)
  }

  /** False: not all of it was taken at once; see `drained`. */
  write({ chunk, event }: Frame): boolean {
    return this.isOpen && this.#outflow.write(this.#isChunked ? chunk : event)
  }

  /** Resolves to true when all has been taken, to false when the client is gone or cut because it took not one slice in `deadlineMs`. */
  drained(deadlineMs: number): Promise<boolean> {
    return this.#outflow.drained(deadlineMs)
  }

  end(last: Frame): void {
    if (!this.isOpen) return
    const socket = this.#socket
    this.write(last)
    const deadline = setTimeout(() => socket.destroy(), LAST_BYTES_MS).unref()
    socket.once('close', () => clearTimeout(deadline))
    this.#outflow.whenEmpty(() => this.#response.end())
  }
}

function ignore(): void { /* 'close' follows, and says all there is to say */ }

function close(this: Socket): void {
  this.destroy()
}
