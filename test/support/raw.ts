/** HTTP as bytes on a socket, for what no client library would send or leave unread. */
import { connect, type Socket } from 'node:net'
import { once } from 'node:events'

export interface RawAnswer {
  readonly status: number
  readonly headers: ReadonlyMap<string, string>
  readonly body: string
}

export async function openSocket(url: string): Promise<Socket> {
  const { hostname, port } = new URL(url)
  const socket = connect({ host: hostname, port: Number(port) })
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  return socket
}

/** Sends `request` (lines without their ends) and reads until the server closes: ask for that with `Connection: close`. */
export async function rawRequest(url: string, request: readonly string[] | Buffer): Promise<RawAnswer> {
  const socket = await openSocket(url)
  socket.write(Buffer.isBuffer(request) ? request : Buffer.from(`${request.join('\r\n')}\r\n\r\n`, 'latin1'))
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  await once(socket, 'close')
  return parseAnswer(Buffer.concat(chunks).toString())
}

/** A GET of a path that URL parsers would tidy. */
export function rawGet(url: string, path: string, headers: readonly string[] = []): Promise<RawAnswer> {
  return rawRequest(url, [`GET ${path} HTTP/1.1`, 'Host: localhost', 'Connection: close', ...headers])
}

export function parseAnswer(text: string): RawAnswer {
  const end = text.indexOf('\r\n\r\n')
  const [start = '', ...lines] = text.slice(0, Math.max(end, 0)).split('\r\n')
  const headers = new Map(lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]))
  const body = text.slice(end + 4)
  return { status: Number(start.split(' ')[1]), headers, body: headers.get('transfer-encoding') === 'chunked' ? unchunk(body) : body }
}

function unchunk(text: string): string {
  const bytes = Buffer.from(text)
  const parts: Buffer[] = []
  for (let at = 0; at < bytes.length;) {
    const lineEnd = bytes.indexOf('\r\n', at)
    const length = parseInt(bytes.toString('latin1', at, lineEnd), 16)
    if (!(length > 0)) break
    parts.push(bytes.subarray(lineEnd + 2, lineEnd + 2 + length))
    at = lineEnd + 4 + length
  }
  return Buffer.concat(parts).toString()
}

/** Of headers, and of what bodies say of them. A date has a comma in it. */
const MOVING = /(date: \w+,|poll-after-ms: |poll-interval: |retry-after: |"poll_after_ms":|\.page-)[^,\n"\r]*/gi

/** An answer without what differs from one to the next, whichever way it came. */
export function withoutMoving(answer: string): string {
  return answer.replace(MOVING, '$1')
}
