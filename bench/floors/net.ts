/** The least that a stream server can do: a bare socket server that writes given bytes to everybody who has asked. */
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { serve } from '../child.ts'

const HEAD = Buffer.from('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store\r\n\r\n:\n\n')

const sockets = new Set<Socket>()

const server = createServer({ noDelay: true }, (socket) => {
  socket.once('data', () => {
    sockets.add(socket)
    socket.write(HEAD)
  })
  socket.on('error', () => undefined)
  socket.on('close', () => sockets.delete(socket))
})

function writeAll(bytes: Buffer): void {
  for (const socket of sockets) socket.write(bytes)
}

const net = {
  async listen(): Promise<number> {
    server.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 })
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  },

  /** Writes the event to everybody, at least once, each time when it is due, for so long. Answers how often. */
  async write({ event, everyMs, forMs }: { readonly event: string; readonly everyMs: number; readonly forMs: number }): Promise<number> {
    const bytes = Buffer.from(event)
    const startedMs = performance.now()
    let written = 0
    do {
      writeAll(bytes)
      written += 1
      const waitMs = everyMs === 0 ? 0 : startedMs + Math.ceil((performance.now() - startedMs) / everyMs) * everyMs - performance.now()
      if (waitMs > 0) await delay(waitMs)
    } while (performance.now() < startedMs + forMs)
    return written
  },
}

export type NetFloor = typeof net

serve(net)
