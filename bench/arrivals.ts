/** How long updates take from the call of commit until somebody has them. */
import { once } from 'node:events'
import { EventSource } from 'eventsource'
import type pg from 'pg'
import type { Postgres } from './lab.ts'
import { keepPace, updateRow, type Pace, type Subject } from './subjects.ts'

const DEADLINE_MS = 30_000

/** Updates by the number in their label, with the moment at which each was first seen. */
export class Arrivals {
  readonly #times = new Map<number, number>()
  #wanted = -1
  #resolve: () => void = () => undefined

  /** `text`: a row or several as JSON. */
  readonly note = (text: string): void => {
    const atMs = performance.now()
    for (const [, label] of text.matchAll(/"label":"(\d+)"/g)) {
      const number = Number(label)
      if (!this.#times.has(number)) this.#times.set(number, atMs)
      if (number === this.#wanted) this.#resolve()
    }
  }

  at(number: number): number | undefined {
    return this.#times.get(number)
  }

  /** Resolves when the update is there. */
  until(number: number): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#times.has(number)) {
        resolve()
        return
      }
      const timer = setTimeout(() => reject(new Error(`update ${number} has not arrived`)), DEADLINE_MS)
      this.#wanted = number
      this.#resolve = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }
}

/** Somebody who hears of updates until told to close. */
export interface Hearing {
  readonly arrivals: Arrivals
  readonly close: () => void
}

/** Heard by a bare client of PostgreSQL. */
export async function listenTo(postgres: Postgres, channel: string): Promise<Hearing> {
  const arrivals = new Arrivals()
  const listener = await postgres.connect()
  listener.on('notification', ({ payload = '' }) => arrivals.note(payload))
  await listener.query(`listen ${channel}`)
  // The connection goes with the line.
  return { arrivals, close: () => undefined }
}

/** Read by an EventSource; resolves when it is open. */
export async function readStream({ streams }: Subject): Promise<Hearing> {
  const arrivals = new Arrivals()
  const source = new EventSource(`http://127.0.0.1:${streams.port}${streams.path}`)
  source.addEventListener('message', ({ data }) => arrivals.note(String(data)))
  await once(source, 'open')
  return { arrivals, close: () => source.close() }
}

export interface Target {
  readonly client: pg.Client
  readonly table: string
  readonly arrivals: Arrivals
}

/** Updates at a steady pace, numbered from `first`; the latency of each, ms. Where one version holds several, the last tells of all. */
export async function updateSteadily({ client, table, arrivals }: Target, first: number, pace: Pace): Promise<readonly number[]> {
  const sent: number[] = []
  await keepPace(pace, async (number) => {
    await client.query('begin')
    await updateRow(client, table, String(first + number))
    sent.push(performance.now())
    await client.query('commit')
  })
  await arrivals.until(first + sent.length - 1)
  return sent.flatMap((sentMs, number) => {
    const atMs = arrivals.at(first + number)
    return atMs === undefined ? [] : [atMs - sentMs]
  })
}
