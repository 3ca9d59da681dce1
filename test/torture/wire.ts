/** HTTP as a client speaks it: a stream of events, and one answer. Each can be left at any moment; a silence that lasts ends it. */
import { get, type Agent, type IncomingMessage } from 'node:http'
import { once } from 'node:events'

export interface StreamEvent {
  readonly type: string
  /** The last event id, also where it came without an event. */
  readonly id: string | null
  /** Empty: only the id moved. */
  readonly data: string
}

export interface Answer {
  readonly status: number
  readonly etag: string | null
  readonly body: string
}

export interface Asking {
  readonly headers?: Readonly<Record<string, string>>
  readonly agent?: Agent
  readonly signal: AbortSignal
  /** So long may nothing come. */
  readonly patienceMs: number
}

async function open(url: string, { headers = {}, agent, signal, patienceMs }: Asking): Promise<IncomingMessage> {
  const request = get(url, { headers, signal, ...agent === undefined ? {} : { agent } })
  // Whoever reads the answer is told; afterwards nobody is interested.
  request.on('error', () => undefined)
  request.setTimeout(patienceMs, () => request.destroy(new Error('nothing came for too long')))
  const [response] = await once(request, 'response') as [IncomingMessage]
  return response
}

export async function ask(url: string, asking: Asking): Promise<Answer> {
  const response = await open(url, asking)
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  return { status: response.statusCode ?? 0, etag: response.headers.etag ?? null, body: Buffer.concat(chunks).toString() }
}

export interface Stream {
  readonly status: number
  /** The body, where the status is not 200. */
  readonly problem: string
  events(): AsyncGenerator<StreamEvent>
}

export async function openStream(url: string, asking: Asking): Promise<Stream> {
  const response = await open(url, { ...asking, headers: { Accept: 'text/event-stream', ...asking.headers } })
  const status = response.statusCode ?? 0
  let problem = ''
  if (status !== 200) for await (const chunk of response) problem += String(chunk)
  return { status, problem, events: () => parseEvents(response.setEncoding('utf8')) }
}

/** [html §9.2.6], as far as the server uses it: lines end with LF. Who takes its time takes it from the socket. */
export async function* parseEvents(chunks: AsyncIterable<string>): AsyncGenerator<StreamEvent> {
  let rest = ''
  let event = { type: 'message', id: null as string | null, data: '' }
  for await (const chunk of chunks) {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) {
      const value = line.slice(line.indexOf(':') + 1).replace(/^ /, '')
      if (line.startsWith('event:')) event.type = value
      else if (line.startsWith('id:')) event.id = value
      else if (line.startsWith('data:')) event.data += value
      else if (line === '') {
        if (event.data !== '' || event.id !== null) yield event
        event = { type: 'message', id: null, data: '' }
      }
    }
  }
}
