/** Simulated televisions: each asks over HTTP when it was told, 2 to 5 % later; many share the connections of one agent. */
import { get, type Agent, type IncomingMessage } from 'node:http'

interface Body {
  readonly version: string
  readonly changes: readonly unknown[]
  readonly poll_after_ms: number
  readonly poll_reason: string
}

interface Second {
  polls: number
  refused: number
  changes: number
  advisedMs: number
  readonly reasons: Record<string, number>
}

/** What all of them did, by the second. */
export class Log {
  readonly #startedMs = performance.now()
  readonly #seconds: Second[] = []

  get second(): number {
    return Math.floor((performance.now() - this.#startedMs) / 1_000)
  }

  at(second: number): Readonly<Second> {
    return this.#entry(second)
  }

  /** Polls in each second of [from, until). */
  polls(from: number, until: number): number[] {
    return Array.from({ length: until - from }, (_, i) => this.at(from + i).polls)
  }

  asked(): void {
    this.#entry(this.second).polls += 1
  }

  answered(body: Body | null): void {
    const entry = this.#entry(this.second)
    if (body === null) {
      entry.refused += 1
      return
    }
    entry.changes += body.changes.length
    entry.advisedMs += body.poll_after_ms
    entry.reasons[body.poll_reason] = (entry.reasons[body.poll_reason] ?? 0) + 1
  }

  #entry(second: number): Second {
    return this.#seconds[second] ??= { polls: 0, refused: 0, changes: 0, advisedMs: 0, reasons: {} }
  }
}

export interface TvOptions {
  readonly base: string
  readonly agent: Agent
  readonly log: Log
}

export class Tv {
  readonly #options: TvOptions
  #version: string | null = null
  #timer: NodeJS.Timeout | undefined
  #isOff = false

  constructor(options: TvOptions) {
    this.#options = options
  }

  /** Whether it has its first state. */
  get isUp(): boolean {
    return this.#version !== null
  }

  off(): void {
    this.#isOff = true
    clearTimeout(this.#timer)
  }

  /** Asks at once, whatever it was told: it comes back from standby. */
  wake(): void {
    clearTimeout(this.#timer)
    this.ask()
  }

  ask(): void {
    const { base, agent, log } = this.#options
    log.asked()
    get(this.#version === null ? base : `${base}?since=${this.#version}`, { agent }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
      response.on('end', () => this.#wait(this.#take(response, text)))
    }).on('error', () => this.#wait(1_000 + 4_000 * Math.random()))
  }

  /** Milliseconds until the next question. */
  #take(response: IncomingMessage, text: string): number {
    const { log } = this.#options
    if (response.statusCode !== 200) {
      log.answered(null)
      return Number(response.headers['retry-after'] ?? 5) * 1_000 * (1 + 0.1 * Math.random())
    }
    const body = JSON.parse(text) as Body
    log.answered(body)
    this.#version = body.version
    return body.poll_after_ms * (1.02 + 0.03 * Math.random())
  }

  #wait(ms: number): void {
    if (!this.#isOff) this.#timer = setTimeout(() => this.ask(), ms)
  }
}
