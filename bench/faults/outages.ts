/** PostgreSQL goes away for a while, or crashes, under writers and streams. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Place } from './place.ts'
import { withPlace, type Outcome } from './outcome.ts'

const STREAMS = 200

export function outage(seconds: number): () => Promise<Outcome> {
  return () => withPlace({}, async (place) => {
    await place.addClients(STREAMS)
    place.write(20)
    await place.cluster.stop()
    await delay(seconds * 1_000)
    await place.cluster.start()
    return { fault: `PostgreSQL down for ${seconds} s`, how: `fast shutdown, ${STREAMS} streams`, recoveries: await place.recovered(performance.now()), note: reconnections(place) }
  })
}

/** Several in a row, each as soon as the one before is over. */
export function crashes(): Promise<Outcome> {
  return withPlace({}, async (place) => {
    await place.addClients(STREAMS)
    place.write(1)
    const recoveries: number[] = []
    for (let round = 0; round < 5; round += 1) {
      await delay(500)
      await place.cluster.crash()
      await place.cluster.start()
      recoveries.push(...await place.recovered(performance.now()))
    }
    return { fault: 'PostgreSQL crashes 5 times', how: `immediate shutdown in mid-write, ${STREAMS} streams`, recoveries, note: reconnections(place) }
  })
}

function reconnections({ clients }: Place): string {
  return `${clients.reduce((sum, { connectedAtMs }) => sum + connectedAtMs.length - 1, 0)} reconnections`
}
