/** What reaches a server, whoever stands before it: counted on the way, where the heads of requests go by. */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server } from 'node:net'
import { closeAtEnd } from './cleanup.ts'

export interface OriginRequest {
  /** Path and query. */
  readonly url: string
  readonly atMs: number
}

export class Origin {
  readonly #requests: OriginRequest[] = []
  readonly #server: Server

  /** The way to the server at `target`, closed with the test file. */
  static async start(target: string): Promise<Origin> {
    const origin = new Origin(target)
    origin.#server.listen(0, '127.0.0.1')
    await once(origin.#server, 'listening')
    return origin
  }

  private constructor(target: string) {
    this.#server = createServer({ noDelay: true }, (client) => {
      const server = connect({ host: '127.0.0.1', port: Number(new URL(target).port), noDelay: true })
      client.on('data', (chunk: Buffer) => this.#count(chunk.toString('latin1'))).pipe(server).pipe(client)
      client.on('error', () => server.destroy()).on('close', () => server.destroy())
      server.on('error', () => client.resetAndDestroy()).on('close', () => client.destroySoon())
    })
    closeAtEnd(() => { this.#server.close() })
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  /** What has come since this was last asked. */
  take(): readonly OriginRequest[] {
    return this.#requests.splice(0)
  }

  /** Caches write each head in one piece. */
  #count(text: string): void {
    for (const [, url = ''] of text.matchAll(/^[A-Z]+ (\S+) HTTP\/1\.[01]\r$/gm)) this.#requests.push({ url, atMs: performance.now() })
  }
}

/** Addresses that were asked for more than once a second, with how often and how long. */
export function oftenerThanOnceASecond(requests: readonly OriginRequest[]): readonly string[] {
  const times = new Map<string, number[]>()
  for (const { url, atMs } of requests) times.set(url, [...times.get(url) ?? [], atMs])
  return [...times].flatMap(([url, group]) => {
    const seconds = (Math.max(...group) - Math.min(...group)) / 1_000
    // A span of n seconds has to do with n + 1 seconds of the clock; and what was asked for in one may arrive in the next.
    return group.length > Math.ceil(seconds) + 2 ? [`${url}: ${group.length} in ${seconds.toFixed(1)} s`] : []
  })
}
