/** A client of a test: follows one channel on any server by stream, and comes back with its cursor when it is left. */
import { openStream, Replica, type StreamReader } from './sse.ts'

export class Following {
  readonly replica = new Replica()
  /** What went wrong: a version that was not above the one before, within one epoch. */
  readonly faults: string[] = []
  readonly statuses: (string | null)[] = []
  streams = 0
  #stream: StreamReader | undefined
  #isOver = false
  #running: Promise<void> | undefined

  /** `serverOf` is asked for each connection anew. */
  start(serverOf: () => string, channel: string): this {
    this.#running = this.#run(serverOf, channel)
    return this
  }

  async stop(): Promise<void> {
    this.#isOver = true
    this.#stream?.close()
    await this.#running
  }

  /** The rows by one of their columns. */
  values(column: string): readonly unknown[] {
    return [...this.replica.rows.values()].map((row) => row[column]).sort((a, b) => Number(a) - Number(b))
  }

  async #run(serverOf: () => string, channel: string): Promise<void> {
    while (!this.#over()) {
      try {
        const { version } = this.replica
        this.#stream = await openStream(`${serverOf()}/v1/channels/${channel}/stream`, version === null ? {} : { 'Last-Event-ID': version }, (delta) => {
          const before = this.replica.version
          if (this.replica.apply(delta)) this.#check(before, delta.version)
        })
        this.streams += 1
        // Stopped while it was being opened.
        if (this.#over()) this.#stream.close()
        void this.#stream.until(({ event, data }) => {
          if (event === 'status') this.statuses.push((JSON.parse(data) as { stale_since: string | null }).stale_since)
          return false
        }).catch(() => undefined)
        await this.#stream.ended
      } catch {
        // Nobody there: the next one, in a moment.
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
      this.replica.disconnected()
    }
  }

  #over(): boolean {
    return this.#isOver
  }

  #check(before: string | null, after: string): void {
    const [epochBefore, numberBefore] = (before ?? '').split('.')
    const [epoch, number] = after.split('.')
    if (epoch === epochBefore && Number(number) <= Number(numberBefore)) this.faults.push(`${before} then ${after}`)
  }
}
