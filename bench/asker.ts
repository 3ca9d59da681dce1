/** A crowd of pollers in one process: keep-alive connections, each asking again as soon as it is answered. Any answer but the expected one is an error. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { serve } from './child.ts'
import { sum } from './statistics.ts'

export interface AskOptions {
  readonly port: number
  readonly path: string
  /** Names and values. */
  readonly headers: Readonly<Record<string, string>>
  readonly status: number
  readonly connections: number
  readonly forMs: number
}

const HEAD_END = '\r\n\r\n'

/** One connection; counts its answers. */
class Asker {
  answers = 0
  readonly closed: Promise<unknown>
  readonly #socket: Socket
  readonly #request: Buffer
  readonly #status: Buffer
  #untilMs = 0
  /** The length of an answer, once one has been seen: the next is most likely as long. */
  #length = 0
  #pending = Buffer.alloc(0)

  constructor(port: number, request: Buffer, status: Buffer) {
    this.#request = request
    this.#status = status
    this.#socket = connect({
      host: '127.0.0.1', port, noDelay: true,
      onread: { buffer: Buffer.allocUnsafe(64 * 1024), callback: (length, buffer) => { this.#read((buffer as Buffer).subarray(0, length)); return true } },
    })
    this.closed = once(this.#socket, 'close')
  }

  ask(untilMs: number): void {
    this.#untilMs = untilMs
    this.#socket.write(this.#request)
  }

  #read(chunk: Buffer): void {
    if (!this.#isWhole(chunk)) return
    this.answers += 1
    if (performance.now() < this.#untilMs) this.#socket.write(this.#request)
    else this.#socket.end()
  }

  #isWhole(chunk: Buffer): boolean {
    if (this.#pending.length === 0 && chunk.length === this.#length && this.#isExpected(chunk)) return true
    this.#pending = Buffer.concat([this.#pending, chunk])
    const headEnd = this.#pending.indexOf(HEAD_END)
    if (headEnd < 0) return false
    if (!this.#isExpected(this.#pending)) throw new Error(`unexpected answer: ${this.#pending.toString('latin1', 0, 300)}`)
    const bodyLength = /^content-length: (\d+)/im.exec(this.#pending.toString('latin1', 0, headEnd))?.[1]
    const length = headEnd + HEAD_END.length + Number(bodyLength ?? 0)
    if (this.#pending.length < length) return false
    this.#length = length
    this.#pending = Buffer.alloc(0)
    return true
  }

  #isExpected(answer: Buffer): boolean {
    return answer.compare(this.#status, 0, this.#status.length, 0, this.#status.length) === 0
  }
}

const asker = {
  /** Resolves when each connection has had its last answer. */
  async ask({ port, path, headers, status, connections, forMs }: AskOptions): Promise<{ readonly answers: number; readonly tookMs: number }> {
    const lines = Object.entries({ Host: 'bench', ...headers }).map(([name, value]) => `${name}: ${value}\r\n`)
    const request = Buffer.from(`GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`)
    const expected = Buffer.from(`HTTP/1.1 ${status} `)
    const askers = Array.from({ length: connections }, () => new Asker(port, request, expected))
    const startedMs = performance.now()
    for (const one of askers) one.ask(startedMs + forMs)
    await Promise.all(askers.map(({ closed }) => closed))
    return { answers: sum(askers.map(({ answers }) => answers)), tookMs: performance.now() - startedMs }
  },
}

export type Askers = typeof asker

serve(asker)
