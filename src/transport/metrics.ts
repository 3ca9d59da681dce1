/** Figures for Prometheus. Names end in their unit; what is cheap to count is counted, what can be asked is asked when scraped. */
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client'

/** What is read at the moment of a scrape. */
export interface Readings {
  readonly head: number
  readonly streams: number
  readonly backlogBytes: number
  readonly ringBytes: number
  readonly cacheBytes: number
  readonly isLeading: boolean
  readonly isListening: boolean
  readonly staleSeconds: number
}

export class Metrics {
  readonly #registry = new Registry()
  /** By route and status: counted here, for a labelled counter looks its labels up by hashing them, which a poll would feel. */
  readonly #requests = new Map<string, Map<number, number>>()
  readonly #versions = new Counter({ name: 'freshet_versions_total', help: 'Versions this node has taken in.', registers: [this.#registry] })
  readonly #conflated = new Counter({ name: 'freshet_streams_conflated_total', help: 'Times a slow stream was left to catch up with one folded delta.', registers: [this.#registry] })

  constructor(read: () => Readings) {
    collectDefaultMetrics({ register: this.#registry })
    const requests = this.#requests
    new Counter({
      name: 'freshet_http_requests_total', help: 'Requests answered, by route and status.', labelNames: ['route', 'status'], registers: [this.#registry],
      collect() {
        this.reset()
        for (const [route, counts] of requests) for (const [status, count] of counts) this.inc({ route, status }, count)
      },
    })
    const gauge = (name: string, help: string, value: (readings: Readings) => number): void => {
      new Gauge({ name, help, registers: [this.#registry], collect() { this.set(value(read())) } })
    }
    gauge('freshet_head_version', 'Number of the newest version this node holds.', ({ head }) => head)
    gauge('freshet_streams', 'Open streams.', ({ streams }) => streams)
    gauge('freshet_stream_backlog_bytes', 'Bytes written to streams that their sockets have not taken.', ({ backlogBytes }) => backlogBytes)
    gauge('freshet_ring_bytes', 'Memory taken by recent versions.', ({ ringBytes }) => ringBytes)
    gauge('freshet_cache_bytes', 'Memory taken by renderings.', ({ cacheBytes }) => cacheBytes)
    gauge('freshet_leader', '1 on the node whose clock numbers versions.', ({ isLeading }) => Number(isLeading))
    gauge('freshet_listener_up', '1 while notifications arrive.', ({ isListening }) => Number(isListening))
    gauge('freshet_stale_seconds', 'How long the database has been silent; 0 while it answers.', ({ staleSeconds }) => staleSeconds)
  }

  request(route: string, status: number): void {
    const counts = this.#requests.get(route) ?? new Map<number, number>()
    this.#requests.set(route, counts.set(status, (counts.get(status) ?? 0) + 1))
  }

  version(): void {
    this.#versions.inc()
  }

  conflated(): void {
    this.#conflated.inc()
  }

  text(): Promise<string> {
    return this.#registry.metrics()
  }
}
