/** A television of a test: polls one address with its cursor, on a connection it keeps, and keeps a replica. */
import { Agent, get, type IncomingHttpHeaders } from 'node:http'
import type { PollBody } from './server.ts'
import { Replica } from './sse.ts'

export interface PollAnswer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: PollBody
}

/** What no server advises to go below. */
const SHORTEST_MS = 1_000

export class Poller {
  readonly replica = new Replica()
  /** What came that was not for this poller, or not to be applied to what it held. */
  readonly faults: string[] = []
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 })
  readonly #address: string
  readonly #filters: Readonly<Record<string, string>>

  /** `address`: of the channel's changes, without a query. */
  constructor(address: string, filters: Readonly<Record<string, string>> = {}) {
    this.#address = address
    this.#filters = filters
  }

  get since(): string | null {
    return this.replica.version
  }

  /** Asks once and applies the answer. */
  async poll(): Promise<PollAnswer> {
    const { since } = this
    const query = new URLSearchParams({ ...this.#filters, ...since === null ? {} : { since } })
    const answer = await this.#get(`${this.#address}?${query.toString()}`)
    if (answer.status !== 200) this.faults.push(`${answer.status}`)
    else this.#apply(answer.body)
    return answer
  }

  /** As long as every client leaves between two polls, at the least: by then nothing may be answered as it was before. */
  rest(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, SHORTEST_MS + 100))
  }

  close(): void {
    this.#agent.destroy()
  }

  #apply(body: PollBody): void {
    if (!body.reset && body.since !== this.since) this.faults.push(`asked since ${String(this.since)}, answered since ${String(body.since)}`)
    for (const { row } of body.changes) {
      for (const [column, value] of Object.entries(this.#filters)) if (row !== undefined && row[column] !== value) this.faults.push(`asked for ${column}=${value}, got ${JSON.stringify(row)}`)
    }
    this.replica.apply(body)
  }

  #get(url: string): Promise<PollAnswer> {
    return new Promise((resolve, reject) => {
      get(url, { agent: this.#agent }, (response) => {
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => chunks.push(chunk)).on('error', reject).on('end', () => {
          const text = Buffer.concat(chunks).toString()
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body: JSON.parse(text === '' ? 'null' : text) as PollBody })
        })
      }).on('error', reject)
    })
  }
}
