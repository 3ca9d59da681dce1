// Keeps one channel's stream open for as long as the page lives, and says honestly how it is doing.
//
//   connecting ──first state──▶ live ◀──status: recovered── stale
//       ▲  │                     │ └────status: stale_since───▲
//       │  └──4 s without luck──▶ offline ──open──▶ live
//       └────────connection ended─┘
//
// EventSource reconnects by itself with Last-Event-ID, except after an answer other than 200: then it is
// closed for ever, and this module makes a new one, later and later, from the version it holds.
import { Replica } from './apply.js'

const OFFLINE_AFTER_MS = 4_000
const FIRST_RETRY_MS = 1_000
const LAST_RETRY_MS = 30_000
const ASLEEP_AFTER_MS = 15_000

export class Feed {
  replica = new Replica()
  state = 'connecting'

  #channel
  #on
  #source = null
  #retryMs = FIRST_RETRY_MS
  #retryTimer = 0
  #offlineTimer = 0
  #staleSince = null
  #clockTimer = 0
  #life = new AbortController()

  /** `on`: change({ reset, changed }), state(state, staleSince), refused(): each is called after the fact. */
  constructor(channel, on) {
    this.#channel = channel
    this.#on = on
    this.#reopenAfterSleep()
    this.#open()
  }

  /** The address of the stream, from what is held. */
  get url() {
    const { version } = this.replica
    const path = `/v1/channels/${encodeURIComponent(this.#channel)}/stream`
    return version === null ? path : `${path}?since=${encodeURIComponent(version)}`
  }

  close() {
    this.#life.abort()
    this.#source?.close()
    clearTimeout(this.#retryTimer)
    clearTimeout(this.#offlineTimer)
    clearInterval(this.#clockTimer)
  }

  #open() {
    clearTimeout(this.#retryTimer)
    this.#source?.close()
    this.replica.interrupted()
    const source = new EventSource(this.url)
    this.#source = source
    this.#awaitLuck()

    source.onopen = () => {
      this.#staleSince = null // a server that is still in trouble says so again
      if (this.replica.version !== null) this.#arrived()
    }
    source.onmessage = ({ data }) => {
      const change = this.replica.apply(JSON.parse(data))
      if (this.replica.version !== null) this.#arrived()
      if (change !== null) this.#on.change(change)
    }
    source.addEventListener('status', ({ data }) => {
      this.#staleSince = JSON.parse(data).stale_since ?? null
      if (this.replica.version !== null || this.#staleSince !== null) this.#arrived()
    })
    source.onerror = () => {
      this.replica.interrupted()
      this.#awaitLuck()
      if (source.readyState === EventSource.CLOSED) this.#openLater()
    }
  }

  #openLater() {
    // Half of the wait is random: a thousand tabs cut off together must not come back together.
    const waitMs = this.#retryMs * (0.5 + Math.random() / 2)
    this.#retryMs = Math.min(this.#retryMs * 2, LAST_RETRY_MS)
    this.#retryTimer = setTimeout(() => this.#open(), waitMs)
    this.#on.refused()
  }

  #arrived() {
    clearTimeout(this.#offlineTimer)
    this.#offlineTimer = 0
    this.#retryMs = FIRST_RETRY_MS
    this.#show(this.#staleSince === null ? 'live' : 'stale')
  }

  #awaitLuck() {
    if (this.#offlineTimer !== 0) return
    if (this.state !== 'offline') this.#show('connecting')
    this.#offlineTimer = setTimeout(() => this.#show('offline'), OFFLINE_AFTER_MS)
  }

  #show(state) {
    if (state === this.state && state !== 'stale') return
    this.state = state
    this.#on.state(state, this.#staleSince)
  }

  // A laptop that slept, or a network that changed, leaves a socket that is dead and does not know it.
  #reopenAfterSleep() {
    const { signal } = this.#life
    addEventListener('online', () => this.#open(), { signal })
    addEventListener('pageshow', ({ persisted }) => persisted && this.#open(), { signal })
    let tickedAt = Date.now()
    this.#clockTimer = setInterval(() => {
      const gapMs = Date.now() - tickedAt
      tickedAt = Date.now()
      if (gapMs > ASLEEP_AFTER_MS && !document.hidden) this.#open()
    }, 1_000)
  }
}
