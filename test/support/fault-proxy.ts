/**
 * A TCP proxy that does what networks do: it can be cut, go dead, be late, or deliver in crumbs. What goes through it whole goes
 * through unchanged, and no faster than the reader takes it. Knows no test runner; `close` it yourself.
 */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

export interface FaultProxy {
  /** The given URL, through the proxy. */
  readonly url: string
  /** Connections refused so far. */
  readonly refused: number
  /** Breaks every connection and refuses new ones. */
  cut(): void
  /** Breaks every connection by a RST; new ones are served. */
  reset(): void
  /** Swallows whatever is sent, in either direction, and breaks nothing: a network that has gone dead. What has lost bytes stays dead. */
  silence(): void
  /** Hands everything on so many ms late. */
  delay(ms: number): void
  /** Hands everything on in writes of so many bytes. */
  slice(bytes: number): void
  /** Ends whatever was wrong. Connections that were silenced stay so until a side gives up, unless `breaksDead`: then they end. */
  mend(options?: { readonly breaksDead?: boolean }): void
  close(): void
}

interface Faults {
  isCut: boolean
  isSilent: boolean
  delayMs: number
  sliceBytes: number
}

export async function openFaultProxy(target: string): Promise<FaultProxy> {
  const { hostname, port } = new URL(target)
  const faults: Faults = { isCut: false, isSilent: false, delayMs: 0, sliceBytes: 0 }
  const links = new Set<Link>()
  let refused = 0
  const server = createServer({ noDelay: true }, (near) => {
    if (faults.isCut) {
      refused += 1
      near.destroy()
      return
    }
    const link = new Link(near, connect({ host: hostname, port: Number(port), noDelay: true }), faults)
    links.add(link)
    void link.gone.then(() => links.delete(link))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const breakAll = (): void => { for (const link of links) link.break() }
  const url = new URL(target)
  url.hostname = '127.0.0.1'
  url.port = String((server.address() as AddressInfo).port)
  return {
    url: url.href,
    get refused() { return refused },
    cut() { faults.isCut = true; breakAll() },
    reset: breakAll,
    silence() { faults.isSilent = true },
    delay(ms) { faults.delayMs = ms },
    slice(bytes) { faults.sliceBytes = bytes },
    mend({ breaksDead = false } = {}) {
      Object.assign(faults, { isCut: false, isSilent: false, delayMs: 0, sliceBytes: 0 })
      for (const link of links) if (link.isDead && (breaksDead || link.isHalfClosed)) link.break()
    },
    close() {
      breakAll()
      server.close()
    },
  }
}

/** One connection through the proxy: two sockets. */
class Link {
  readonly #near: Socket
  readonly #far: Socket
  readonly #faults: Faults
  /** Something that was sent has been swallowed: nothing that follows can make sense to the other side. */
  isDead = false
  /** Resolves when both sides are closed. */
  readonly gone: Promise<unknown>

  constructor(near: Socket, far: Socket, faults: Faults) {
    this.#near = near
    this.#far = far
    this.#faults = faults
    this.gone = Promise.all([near, far].map((socket) => new Promise((resolve) => socket.on('close', resolve))))
    this.#carry(near, far)
    this.#carry(far, near)
  }

  get isHalfClosed(): boolean {
    return this.#near.closed || this.#far.closed
  }

  break(): void {
    for (const socket of [this.#near, this.#far]) {
      // Node leaks the handle of a socket that is reset while it is ending, and then cannot exit.
      if (socket.writableEnded) socket.destroy()
      else socket.resetAndDestroy()
    }
  }

  #carry(from: Socket, to: Socket): void {
    let sending: Promise<void> = Promise.resolve()
    from.on('error', () => undefined)
    // What came before the end is still handed on; a dead network does not even hand on the end, a mended one does.
    from.on('close', () => void sending.then(() => { if (this.#faults.isSilent) this.isDead = true; else to.destroy() }))
    from.on('data', (chunk: Buffer) => {
      if (this.isDead || this.#faults.isSilent) {
        this.isDead = true
        return
      }
      from.pause()
      sending = this.#send(to, chunk).then(() => { from.resume() })
    })
  }

  async #send(to: Socket, chunk: Buffer): Promise<void> {
    const { delayMs, sliceBytes } = this.#faults
    if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs))
    if (sliceBytes === 0) return written(to, chunk)
    for (let at = 0; at < chunk.length; at += sliceBytes) await written(to, chunk.subarray(at, at + sliceBytes))
  }
}

/** Resolves when the socket has taken it, or is gone. */
function written(socket: Socket, chunk: Buffer): Promise<void> {
  return new Promise((resolve) => { socket.write(chunk, () => resolve()) })
}
