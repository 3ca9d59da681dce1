/** What reaches a server of this process, whoever stands before it: counted where Node hands a request on. */
import { subscribe } from 'node:diagnostics_channel'
import type { IncomingMessage } from 'node:http'

export interface OriginRequest {
  /** Path and query. */
  readonly url: string
  readonly atMs: number
}

export class Origin {
  readonly #requests: OriginRequest[] = []

  /** Of the server at `url`, for as long as the test file runs. */
  constructor(url: string) {
    const port = Number(new URL(url).port)
    subscribe('http.server.request.start', (message) => {
      const { request } = message as { readonly request: IncomingMessage }
      if (request.socket.localPort === port) this.#requests.push({ url: request.url ?? '', atMs: performance.now() })
    })
  }

  /** What has come since this was last asked. */
  take(): readonly OriginRequest[] {
    return this.#requests.splice(0)
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
