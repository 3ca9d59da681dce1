/**
 * Owns the one LISTEN connection. A notification only shortens a wait: whoever listens here also polls, slowly.
 * When the connection breaks, or goes silent without breaking, it is rebuilt for ever; after every (re)connect
 * `onConnected` is called, because what was sent in the gap is gone.
 */
import { setTimeout as delay } from 'node:timers/promises'
import pgListen, { type Subscriber } from 'pg-listen'
import { connectionSettings, Silence } from './pool.ts'

const createSubscriber = pgListen.default

/** The only channel of PostgreSQL that Freshet uses. */
const CHANNEL = 'freshet'

export interface ListenerOptions {
  readonly url: string
  readonly onNotification: (payload: string) => void
  readonly onConnected: () => void
  /** Once per outage, with the cause. */
  readonly onDown: (error: Error) => void
  /** How often to notify ourselves, and how long the echo may take. Default 5 s and 5 s. */
  readonly probeEveryMs?: number
  readonly probeDeadlineMs?: number
}

type Life = 'connecting' | 'listening' | 'closed'

export class Listener {
  readonly #options: Required<ListenerOptions>
  #life: Life = 'connecting'
  #subscriber: Subscriber<Record<string, string>> | undefined
  #timer: NodeJS.Timeout | undefined
  #probe = 0
  #echoed = 0
  #isDown = false
  /** The host may have set one for its own clients; ours is silent by nature. */
  #startup: { readonly options?: string } = { options: '-c idle_session_timeout=0' }

  constructor(options: ListenerOptions) {
    this.#options = { probeEveryMs: 5_000, probeDeadlineMs: 5_000, ...options }
  }

  get isListening(): boolean {
    return this.#life === 'listening'
  }

  /** Returns at once; `onConnected` says when it listens. */
  start(): void {
    void this.#connect(100)
  }

  async close(): Promise<void> {
    this.#life = 'closed'
    await this.#discard()
  }

  async #connect(delayMs: number): Promise<void> {
    if (this.#isClosed()) return
    this.#life = 'connecting'
    // pg-listen's own retries would reconnect what was closed: each attempt gets a subscriber of its own.
    const subscriber = createSubscriber<Record<string, string>>(
      {
        ...connectionSettings(this.#options.url, 'listener'),
        query_timeout: this.#options.probeDeadlineMs,
        ...this.#startup,
      },
      // A limit of one is no retry at all: a lost connection becomes an `error`. Payloads are anybody's: never parsed.
      { retryLimit: 1, paranoidChecking: false, parse: (text: string) => text, serialize: String },
    )
    this.#subscriber = subscriber
    subscriber.events.on('error', (error) => this.#fail(subscriber, error, this.#life === 'listening' ? 100 : delayMs))
    subscriber.notifications.on(CHANNEL, (payload: unknown) => this.#receive(String(payload)))
    try {
      await subscriber.connect()
      await subscriber.listenTo(CHANNEL)
    } catch (error) {
      // A pooler in session mode: there the probes must keep the session from being idle.
      const isRefusedByPooler = this.#startup.options !== undefined && error instanceof Error && error.message.includes('unsupported startup parameter')
      if (isRefusedByPooler) this.#startup = {}
      this.#fail(subscriber, error instanceof Error ? error : new Error(String(error)), delayMs)
      return
    }
    if (this.#subscriber !== subscriber || this.#isClosed()) return
    this.#life = 'listening'
    this.#isDown = false
    this.#options.onConnected()
    this.#scheduleProbe(subscriber)
  }

  #receive(payload: string): void {
    if (!payload.startsWith('probe ')) this.#options.onNotification(payload)
    else if (payload === this.#probeText(this.#probe)) this.#echoed = this.#probe
  }

  #probeText(probe: number): string {
    return `probe ${process.pid}.${probe}`
  }

  /** A half-open socket accepts writes and says nothing: only an echo proves that we would hear. */
  #scheduleProbe(subscriber: Subscriber<Record<string, string>>): void {
    this.#timer = setTimeout(() => {
      this.#probe += 1
      const probe = this.#probe
      subscriber.notify(CHANNEL, this.#probeText(probe)).catch((error: unknown) => {
        this.#fail(subscriber, error instanceof Error ? error : new Error(String(error)), 100)
      })
      this.#timer = setTimeout(() => {
        if (this.#echoed === probe) this.#scheduleProbe(subscriber)
        else this.#fail(subscriber, new Silence('the LISTEN connection is silent (a transaction pooler in between, or a dead network)'), 100)
      }, this.#options.probeDeadlineMs)
    }, this.#options.probeEveryMs)
  }

  #fail(subscriber: Subscriber<Record<string, string>>, error: Error, delayMs: number): void {
    if (this.#subscriber !== subscriber || this.#isClosed()) return
    void this.#discard()
    this.#life = 'connecting'
    if (!this.#isDown) this.#options.onDown(error)
    this.#isDown = true
    const next = Math.min(delayMs * 2, 5_000)
    this.#timer = setTimeout(() => void this.#connect(next), delayMs * (0.5 + Math.random()))
  }

  async #discard(): Promise<void> {
    clearTimeout(this.#timer)
    const subscriber = this.#subscriber
    this.#subscriber = undefined
    // It may be connected, connecting or broken; a half-open socket never says that it ended.
    const closed = subscriber?.close().catch(() => undefined)
    await Promise.race([closed, delay(1_000, undefined, { ref: false })])
  }

  #isClosed(): boolean {
    return this.#life === 'closed'
  }
}
