/** Reads a large answer to its end without looking at it, but for counting what must be in it. */
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'

export interface Drained {
  readonly changes: number
  readonly bytes: number
}

const CHANGE = '{"op":'
/** The last event of a stream's answer. */
const LAST = '"more":false'

/** `isStream`: the answer is over with the event after `more` has become false, and then the connection is ended. */
export async function drain(url: string, isStream: boolean): Promise<Drained> {
  const request = get(url, { agent: false })
  const [response] = await once(request, 'response') as [IncomingMessage]
  if (response.statusCode !== 200) {
    const body = (await response.toArray()).join('')
    throw new Error(`${url} answered ${String(response.statusCode)}: ${body}`)
  }
  let changes = 0
  let bytes = 0
  let isLast = false
  let tail = Buffer.alloc(0)
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length
    const text = Buffer.concat([tail, chunk])
    // What lies in the tail as a whole has been counted.
    for (let at = text.indexOf(CHANGE, Math.max(0, tail.length - CHANGE.length + 1)); at >= 0; at = text.indexOf(CHANGE, at + 1)) changes += 1
    isLast ||= isStream && text.includes(LAST)
    if (isLast && text.subarray(-2).toString('latin1') === '\n\n') break
    tail = text.subarray(-LAST.length + 1)
  }
  return { changes, bytes }
}
