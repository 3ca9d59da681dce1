/**
 * better-sse's connection to a Node response, for as long as its session opens the stream: the head and the first bytes, which are kept
 * until `begin`. The stock one builds Fetch objects for each stream and fails on an odd Host header. What follows is written to the wire.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Connection } from 'better-sse'
import { tellOpened } from './answered.ts'

/** That the client has gone, the wire notices: sessions need not hear of it, and a real signal would cost each stream an event target. */
const silentSignal = { addEventListener: () => undefined, removeEventListener: () => undefined }
/** Of these, sessions whose event id is not to be trusted read only the signal. */
const sharedUrl = new URL('http://stream.invalid/')
const sharedRequest = Object.create(new Request(sharedUrl), { signal: { value: silentSignal } }) as Request
const sharedResponse = new Response(null)

export class Opening extends Connection {
  readonly url = sharedUrl
  readonly request = sharedRequest
  readonly response = sharedResponse
  readonly #connection: Socket
  readonly #outgoing: ServerResponse
  readonly #head: Readonly<Record<string, string>>
  #beginning = ''

  constructor(request: IncomingMessage, outgoing: ServerResponse, head: Readonly<Record<string, string>>) {
    super()
    this.#connection = request.socket
    this.#outgoing = outgoing
    this.#head = head
    request.socket.setNoDelay(true)
  }

  get isOpen(): boolean {
    return !this.#connection.destroyed && !this.#outgoing.destroyed && !this.#outgoing.writableEnded
  }

  sendHead(): void { /* see `begin` */ }

  sendChunk(chunk: string): void {
    this.#beginning += chunk
  }

  /** Writes what the session has said. As late as this, so that an answer that is there at once goes out in the same write. */
  begin(): void {
    this.#outgoing.writeHead(200, this.#head).write(this.#beginning)
    tellOpened(this.#outgoing)
  }

  /** Sessions call it when the signal says that the client has gone: this one says nothing, the wire does. */
  cleanup(): void { /* nothing is held */ }
}
