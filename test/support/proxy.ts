/** A TCP proxy that can be cut: what lies behind it is unreachable until it is mended. */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { afterAll } from 'vitest'

export interface Proxy {
  /** The given URL, through the proxy. */
  readonly url: string
  /** Breaks every connection and refuses new ones. */
  cut(): void
  /** Swallows whatever is sent, in either direction, and breaks nothing: a network that has gone dead. */
  silence(): void
  mend(): void
  /** Connections refused so far. */
  readonly refused: number
}

export async function startProxy(target: string): Promise<Proxy> {
  const { hostname, port } = new URL(target)
  const sockets = new Set<Socket>()
  let isCut = false
  let isSilent = false
  let refused = 0
  const server = createServer((near) => {
    if (isCut) {
      refused += 1
      near.destroy()
      return
    }
    const far = connect({ host: hostname, port: Number(port) })
    for (const [socket, other] of [[near, far], [far, near]] as const) {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        other.destroy()
      })
      socket.on('data', (chunk) => { if (!isSilent) other.write(chunk) })
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const breakAll = (): void => { for (const socket of sockets) socket.destroy() }
  afterAll(() => {
    breakAll()
    server.close()
  })
  const url = new URL(target)
  url.hostname = '127.0.0.1'
  url.port = String((server.address() as AddressInfo).port)
  return { url: url.href, cut() { isCut = true; breakAll() }, silence() { isSilent = true }, mend() { isCut = false; isSilent = false }, get refused() { return refused } }
}
