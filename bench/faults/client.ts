/**
 * A client as thin as thousands of them must be: reads the stream of `t` over a bare socket, reconnects as EventSource does (after
 * `retry`, with the last id), and checks each version against the invariant of the bench's writer: the values add up to nothing.
 */
import { connect, type Socket } from 'node:net'

interface Row {
  readonly id: number
  readonly v: number
  readonly mark: number
}

interface Delta {
  readonly since: string | null
  readonly version: string
  readonly reset: boolean
  readonly more: boolean
  readonly changes: readonly { readonly key: { readonly id: number }; readonly row?: Row }[]
}

export class FaultClient {
  readonly rows = new Map<number, Row>()
  /** Versions that did not follow on what was held; that were held already; at which the values did not add up. */
  lost = 0
  duplicated = 0
  torn = 0
  resets = 0
  /** Answers that were not 200, after which an EventSource never comes back. */
  refusals = 0
  readonly connectedAtMs: number[] = []
  readonly #port: number
  #version: string | null = null
  #parts: Delta[] = []
  #retryMs = 3_000
  #socket: Socket | undefined
  #timer: NodeJS.Timeout | undefined
  #isOver = false
  #mark = 0
  #seen: (() => void) | undefined

  constructor(port: number) {
    this.#port = port
    this.#connect()
  }

  get isConnected(): boolean {
    return this.#socket?.readyState === 'open'
  }

  /** Resolves to the time at which the client has a row with at least this mark. */
  async saw(mark: number): Promise<number> {
    this.#mark = mark
    if (!this.#isMarked()) await new Promise<void>((resolve) => { this.#seen = resolve })
    return performance.now()
  }

  /** Reads nothing any more until it is told to go on. */
  pause(): void {
    this.#socket?.pause()
  }

  close(): void {
    this.#isOver = true
    clearTimeout(this.#timer)
    this.#socket?.destroy()
  }

  #connect(): void {
    const socket = connect({ host: '127.0.0.1', port: this.#port })
    this.#socket = socket
    let text = ''
    let isOpen = false
    socket.on('connect', () => {
      // HTTP/1.0: the body is not chunked.
      socket.write(`GET /v1/channels/t/stream HTTP/1.0\r\n${this.#version === null ? '' : `Last-Event-ID: ${this.#version}\r\n`}\r\n`)
    })
    socket.on('data', (chunk) => {
      text += chunk.toString()
      if (!isOpen) {
        const end = text.indexOf('\r\n\r\n')
        if (end < 0) return
        isOpen = true
        if (text.startsWith('HTTP/1.1 200')) this.connectedAtMs.push(performance.now())
        else this.refusals += 1
        text = text.slice(end + 4)
      }
      for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
        this.#receive(text.slice(0, end))
        text = text.slice(end + 2)
      }
    })
    // What it means follows in "close".
    socket.on('error', () => undefined)
    socket.on('close', () => {
      this.#parts = []
      if (!this.#isOver) this.#timer = setTimeout(() => this.#connect(), this.#retryMs)
    })
  }

  #receive(event: string): void {
    let isUnnamed = true
    for (const line of event.split('\n')) {
      if (line.startsWith('retry:')) this.#retryMs = Number(line.slice(6))
      else if (line.startsWith('event:')) isUnnamed = false
      else if (line.startsWith('data:') && isUnnamed) this.#apply(JSON.parse(line.slice(5)) as Delta)
    }
  }

  #apply(delta: Delta): void {
    this.#parts.push(delta)
    if (delta.more) return
    const parts = this.#parts
    this.#parts = []
    this.#judge(delta)
    if (delta.reset) this.rows.clear()
    for (const { key, row } of parts.flatMap(({ changes }) => changes)) {
      if (row === undefined) this.rows.delete(key.id)
      else this.rows.set(key.id, row)
    }
    this.#version = delta.version
    let sum = 0
    for (const { v } of this.rows.values()) sum += v
    if (sum !== 0) this.torn += 1
    if (this.#isMarked()) this.#seen?.()
  }

  #judge({ reset, since, version }: Delta): void {
    if (reset) {
      this.resets += 1
      return
    }
    if (since !== this.#version) this.lost += 1
    const [epoch, number] = version.split('.')
    const [heldEpoch, heldNumber] = (this.#version ?? '').split('.')
    if (epoch === heldEpoch && Number(number) <= Number(heldNumber)) this.duplicated += 1
  }

  #isMarked(): boolean {
    return (this.rows.get(0)?.mark ?? -1) >= this.#mark
  }
}
