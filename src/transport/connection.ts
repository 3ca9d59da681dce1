/**
 * better-sse's connection to a Node response, of our own: the stock one builds Fetch objects for each stream, fails on an odd Host
 * header and ignores what `write` answers. Promise: a reader that does not drain is noticed, and cut after a deadline.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Connection } from 'better-sse'

/** Sessions read nothing of these but the signal, which each connection has of its own. */
const sharedUrl = new URL('http://stream.invalid/')
const sharedRequest = new Request(sharedUrl)
const sharedResponse = new Response(null)

export class StreamConnection extends Connection {
  readonly url = sharedUrl
  readonly request: Request
  readonly response = sharedResponse
  readonly #request: IncomingMessage
  readonly #outgoing: ServerResponse
  readonly #head: Readonly<Record<string, string>>
  readonly #gone = new AbortController()

  constructor(request: IncomingMessage, outgoing: ServerResponse, head: Readonly<Record<string, string>>) {
    super()
    this.#request = request
    this.#outgoing = outgoing
    this.#head = head
    // The one property that a session reads of a Request whose event id it does not trust.
    this.request = Object.create(sharedRequest, { signal: { value: this.#gone.signal } }) as Request
    outgoing.once('close', () => this.#gone.abort())
    request.socket.setNoDelay(true)
  }

  get isOpen(): boolean {
    return !this.#outgoing.destroyed && !this.#outgoing.writableEnded
  }

  /** Bytes written that the socket has not taken. */
  get backlogBytes(): number {
    return this.#outgoing.writableLength
  }

  get remoteAddress(): string {
    return this.#request.socket.remoteAddress ?? ''
  }

  sendHead(): void {
    if (this.isOpen) this.#outgoing.writeHead(200, this.#head)
  }

  sendChunk(chunk: string): void {
    this.write(chunk)
  }

  /** False: the socket is full; see `drained`. */
  write(chunk: string | Buffer): boolean {
    return this.isOpen && this.#outgoing.write(chunk)
  }

  /** Resolves to true when all has been taken, to false when the client is gone or cut because it took nothing at all for `deadlineMs`. */
  drained(deadlineMs: number): Promise<boolean> {
    const outgoing = this.#outgoing
    if (!this.isOpen) return Promise.resolve(false)
    if (outgoing.writableLength === 0) return Promise.resolve(true)
    return new Promise((resolve) => {
      const settle = (isDrained: boolean): void => {
        outgoing.setTimeout(0)
        outgoing.off('drain', onDrain).off('close', onClose).off('timeout', onTimeout)
        resolve(isDrained)
      }
      const onDrain = (): void => settle(this.isOpen)
      const onClose = (): void => settle(false)
      const onTimeout = (): void => {
        outgoing.destroy()
        settle(false)
      }
      // The socket's own: it begins anew whenever some bytes were taken, so that a slow reader of much is not cut.
      outgoing.setTimeout(deadlineMs)
      outgoing.on('drain', onDrain).on('close', onClose).on('timeout', onTimeout)
      // Below the high-water mark `write` never promised a drain event.
      if (!outgoing.writableNeedDrain) outgoing.write('', () => settle(this.isOpen))
    })
  }

  end(last: string): void {
    if (this.isOpen) this.#outgoing.end(last)
  }

  /** The session has seen the end; the response is Node's to tidy. */
  cleanup(): void {
    this.#outgoing.removeAllListeners('drain')
  }
}
