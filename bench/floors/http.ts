/** The least that node:http can do: given answers, given bytes. */
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { serve } from '../child.ts'

export interface FixedAnswer {
  readonly status: number
  /** Names and values in turn. */
  readonly headers: readonly string[]
  readonly body: string
}

const streams = new Set<ServerResponse>()
let fixed: { readonly status: number; readonly headers: string[]; readonly body: Buffer } = { status: 404, headers: [], body: Buffer.alloc(0) }
let first = Buffer.from(':\n\n')

const server = createServer((request, response) => {
  if (request.url === '/stream') {
    response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8', 'Cache-Control': 'no-store' })
    response.write(first)
    streams.add(response)
    response.on('close', () => streams.delete(response))
  } else {
    response.writeHead(fixed.status, fixed.headers)
    if (fixed.body.length > 0) response.end(fixed.body)
    else response.end()
  }
})

const http = {
  async listen(): Promise<number> {
    server.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 })
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  },

  /** What every address but /stream answers. */
  answer({ status, headers, body }: FixedAnswer): void {
    fixed = { status, headers: [...headers], body: Buffer.from(body) }
  },

  /** What a stream begins with. */
  begin({ event }: { readonly event: string }): void {
    first = Buffer.from(event)
  },

  write({ event }: { readonly event: string }): void {
    const bytes = Buffer.from(event)
    for (const response of streams) response.write(bytes)
  },
}

export type HttpFloor = typeof http

serve(http)
