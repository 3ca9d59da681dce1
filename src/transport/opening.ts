/**
 * better-sse's connection to a Node response, for as long as its session opens the stream: the head and the first bytes. The stock one
 * builds Fetch objects for each stream and fails on an odd Host header. What follows is written to the wire.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Connection } from 'better-sse'

/** Sessions read nothing of these but the signal, which each connection has of its own. */
const sharedUrl = new URL('http://stream.invalid/')
const sharedRequest = new Request(sharedUrl)
const sharedResponse = new Response(null)

export class Opening extends Connection {
  readonly url = sharedUrl
  readonly request: Request
  readonly response = sharedResponse
  readonly #outgoing: ServerResponse
  readonly #head: Readonly<Record<string, string>>

  constructor(request: IncomingMessage, outgoing: ServerResponse, head: Readonly<Record<string, string>>) {
    super()
    this.#outgoing = outgoing
    this.#head = head
    // The one property that a session reads of a Request whose event id it does not trust.
    this.request = Object.create(sharedRequest, { signal: { value: new AbortController().signal } }) as Request
    request.socket.setNoDelay(true)
  }

  get isOpen(): boolean {
    return !this.#outgoing.destroyed && !this.#outgoing.writableEnded
  }

  sendHead(): void {
    if (this.isOpen) this.#outgoing.writeHead(200, this.#head)
  }

  sendChunk(chunk: string): void {
    if (this.isOpen) this.#outgoing.write(chunk)
  }

  /** Sessions call it when the signal says that the client has gone: this one says nothing, the wire does. */
  cleanup(): void { /* nothing is held */ }
}
