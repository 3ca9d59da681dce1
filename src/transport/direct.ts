/**
 * Polls answered on the bare socket: node:http's parser, request and response cost as much as all the rest of an answer from memory.
 * Taken are heads that leave nothing to interpret, each whole and alone in what arrives, and whose answer memory has. At the first of any
 * other kind the connection is node:http's for good, which gets its bytes as if nobody had looked at them.
 * Promise: status, headers and body are those of the other ways.
 */
import { STATUS_CODES, type IncomingHttpHeaders, type Server } from 'node:http'
import type { Socket } from 'node:net'
import { Outflow, SLICE_BYTES } from './outflow.ts'
import type { WholeAnswer } from './poll.ts'

/** As much of a request as an answer needs; what Express makes of one where proxies are trusted needs no more. */
export interface DirectRequest {
  readonly url: string
  /** By lower-case name, each given once. */
  readonly headers: IncomingHttpHeaders
  readonly socket: Socket
}

export interface DirectOptions {
  /** Null: this one is node:http's. Never rejects. */
  readonly answer: (request: DirectRequest) => Promise<WholeAnswer | null>
  /** How long a reader may take nothing at all of an answer, ms. */
  readonly drainDeadlineMs: number
}

/** The connections that node:http does not know. */
export interface DirectConnections {
  /** Ends them; what was written still reaches its readers. */
  close(): void
  /** Ends what is left of them at once. */
  destroy(): void
}

/** Goes before the server's own listener. */
export function answerDirectly(server: Server, options: DirectOptions): DirectConnections {
  const accept = server.listeners('connection')
  const open = new Set<Connection>()
  const way: Way = {
    ...options, firstByteMs: server.headersTimeout, keepAliveMs: server.keepAliveTimeout,
    persistence: `Connection: keep-alive\r\nKeep-Alive: timeout=${Math.floor(server.keepAliveTimeout / 1_000)}\r\n\r\n`,
    onLeft: (connection) => open.delete(connection),
    handOver: (socket) => { for (const listener of accept) listener.call(server, socket) },
  }
  server.removeAllListeners('connection')
  server.on('connection', (socket: Socket) => { open.add(new Connection(socket, way)) })
  return {
    close() { for (const connection of open) connection.close() },
    destroy() { for (const connection of open) connection.destroy() },
  }
}

/** A connection lives longer than its client is told, as Node has it: the client's next request may be on its way. */
const KEEP_ALIVE_GRACE_MS = 1_000

/** What all connections share. */
interface Way extends DirectOptions {
  readonly firstByteMs: number
  /** How long a connection may rest after an answer. */
  readonly keepAliveMs: number
  /** The end of each head: what Node says of that. */
  readonly persistence: string
  readonly onLeft: (connection: Connection) => void
  /** The socket becomes node:http's. */
  readonly handOver: (socket: Socket) => void
}

class Connection {
  readonly #socket: Socket
  readonly #way: Way
  /** What came while an answer was on its way. */
  #early: Buffer[] = []
  #isAnswering = false
  #hasAnswered = false

  constructor(socket: Socket, way: Way) {
    this.#socket = socket
    this.#way = way
    socket.on('data', this.#onData).on('end', this.#onEnd).on('timeout', this.#onTimeout).on('close', this.#onClose).on('error', ignore)
    socket.setTimeout(way.firstByteMs)
  }

  close(): void {
    this.#socket.destroySoon()
  }

  destroy(): void {
    this.#socket.destroy()
  }

  readonly #onData = (chunk: Buffer): void => {
    if (!this.#isAnswering) return void this.#take(chunk)
    this.#early.push(chunk)
    // However much is asked at once, it waits with whoever asks.
    this.#socket.pause()
  }

  readonly #onEnd = (): void => this.close()

  /** Whoever says nothing at all hears why, from node:http. */
  readonly #onTimeout = (): void => {
    if (this.#isAnswering) return
    if (this.#hasAnswered) this.#socket.destroy()
    else this.#leave(null)
  }

  readonly #onClose = (): void => this.#way.onLeft(this)

  /** Never rejects. */
  async #take(chunk: Buffer): Promise<void> {
    const socket = this.#socket
    const request = readHead(chunk, socket)
    if (request === null) return this.#leave(chunk)
    this.#isAnswering = true
    const answer = await this.#way.answer(request)
    if (answer === null) return this.#leave(Buffer.concat([chunk, ...this.#early]))
    const { status, headers, body } = answer
    let head = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n`
    for (let index = 0; index < headers.length; index += 2) head += `${headers[index] ?? ''}: ${headers[index + 1] ?? ''}\r\n`
    if (!await this.#write(`${head}Date: ${date()}\r\n${this.#way.persistence}${body}`)) return
    if (!this.#hasAnswered) socket.setTimeout(this.#way.keepAliveMs + KEEP_ALIVE_GRACE_MS)
    this.#hasAnswered = true
    this.#isAnswering = false
    if (this.#early.length === 0) return
    socket.resume()
    void this.#take(Buffer.concat(this.#early.splice(0)))
  }

  /** Of bytes as characters; false: the reader is gone, or took nothing. */
  #write(answer: string): boolean | Promise<boolean> {
    const socket = this.#socket
    if (!socket.writable) return false
    if (answer.length <= SLICE_BYTES && socket.write(answer, 'latin1')) return true
    const outflow = new Outflow(socket, socket)
    if (answer.length > SLICE_BYTES) outflow.write(Buffer.from(answer, 'latin1'))
    return outflow.drained(this.#way.drainDeadlineMs)
  }

  /** With what has been read and not answered. */
  #leave(unread: Buffer | null): void {
    const socket = this.#socket
    if (!socket.writable) return
    this.#way.onLeft(this)
    socket.off('data', this.#onData).off('end', this.#onEnd).off('timeout', this.#onTimeout).off('close', this.#onClose)
    socket.setTimeout(0)
    socket.pause()
    if (unread !== null) socket.unshift(unread)
    this.#way.handOver(socket)
    socket.off('error', ignore)
    socket.resume()
  }
}

function ignore(): void { /* 'close' follows */ }

/** Every byte accounted for; anything that RFC 9112 lets a server read in more than one way is not among them. */
const HEAD = /^GET (\/[!"$-~]*) HTTP\/1\.1\r\n((?:[A-Za-z0-9-]+:[\t -~]*\r\n)+)\r\n$/
const MAX_HEAD_BYTES = 4_096
/** Of these a request would be more than its head, or the connection more than this request's. */
const SPECIAL = new Set(['content-length', 'transfer-encoding', 'expect', 'upgrade', 'te', 'trailer', 'proxy-connection'])

/** Null: whatever it is, it is not as simple as that. */
export function readHead(chunk: Buffer, socket: Socket): DirectRequest | null {
  if (chunk.length > MAX_HEAD_BYTES) return null
  const [, url, lines] = HEAD.exec(chunk.toString('latin1')) ?? []
  if (url === undefined || lines === undefined) return null
  const headers: Record<string, string> = {}
  for (const line of lines.trimEnd().split('\r\n')) {
    const colon = line.indexOf(':')
    const name = line.slice(0, colon).toLowerCase()
    // A repeated one may be a list, or a way to be understood differently by two readers.
    if (SPECIAL.has(name) || Object.hasOwn(headers, name)) return null
    headers[name] = line.slice(colon + 1).trim()
  }
  if (headers.host === undefined || (headers.connection ?? 'keep-alive').toLowerCase() !== 'keep-alive') return null
  return { url, headers, socket }
}

let dateSecond = 0
let dateText = ''

/** [rfc9110 §5.6.7] as Node writes it, once a second. */
function date(): string {
  const second = Math.floor(Date.now() / 1_000)
  if (second !== dateSecond) {
    dateSecond = second
    dateText = new Date(second * 1_000).toUTCString()
  }
  return dateText
}
