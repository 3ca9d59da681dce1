/** Thousands of clients at once: those that come back together, and those that never read. */
import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type { Place } from './place.ts'
import { withPlace, type Outcome } from './outcome.ts'

const STREAMS = 4_000

/** Everybody comes back to a server that was started again: `stop` drains, `kill` breaks every stream at once. */
export function returning(how: 'stop' | 'kill'): () => Promise<Outcome> {
  return () => withPlace({}, async (place) => {
    await place.addClients(STREAMS)
    place.write(1_000)
    const leftMs = performance.now()
    await place.endServer(how)
    await place.restartServer()
    const backMs = performance.now()
    const recoveries = await place.recovered(backMs)
    return {
      fault: `${STREAMS} streams come back at once`, how: `server ${how === 'stop' ? 'stopped (SIGTERM)' : 'killed (SIGKILL)'} and started again`, recoveries,
      note: `at most ${peakRate(place, leftMs)} connections in a second`,
    }
  })
}

/** The most connections that were answered within one second. */
function peakRate({ clients }: Place, sinceMs: number): number {
  const times = clients.flatMap(({ connectedAtMs }) => connectedAtMs.filter((atMs) => atMs > sinceMs)).sort((a, b) => a - b)
  let [most, first] = [0, 0]
  times.forEach((atMs, index) => {
    while ((times[first] ?? 0) < atMs - 1_000) first += 1
    most = Math.max(most, index - first + 1)
  })
  return most
}

const DEAD = 500
const HEALTHY = 20
const PROBES = 50

/** Latency of a commit to twenty readers, without and with five hundred who read nothing of a busy channel. */
export function neverReading(): Promise<Outcome> {
  return withPlace({}, async (place) => {
    await place.database.query(`create table bulk (id int primary key, filler text);
      insert into bulk select n, repeat('x', 1000) from generate_series(1, 8000) n; select freshet.watch('bulk')`)
    await place.untilServed('bulk')
    await place.addClients(HEALTHY)
    const churn = { isOver: false }
    const churning = (async () => {
      while (!churn.isOver) {
        await place.database.query(`update bulk set filler = md5(filler) || substr(filler, 33) where id <= 200`)
        await delay(50)
      }
    })()
    const before = await latencies(place)
    const dead = await Promise.all(Array.from({ length: DEAD }, () => openDead(place)))
    const during = await latencies(place)
    while (await streams(place) > HEALTHY) await delay(100)
    for (const socket of dead) socket.destroy()
    churn.isOver = true
    await churning
    return { fault: `${DEAD} clients never read`, how: `paused sockets on a busy channel, ${HEALTHY} readers beside`, recoveries: during, note: `a commit took p50 ${median(before)} ms before; the dead were cut` }
  })
}

async function latencies(place: Place): Promise<readonly number[]> {
  const all: number[] = []
  for (let probe = 0; probe < PROBES; probe += 1) all.push(...await place.recovered(performance.now()))
  return all
}

function median(values: readonly number[]): number {
  return Math.round(values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN)
}

function openDead({ server }: Place): Promise<Socket> {
  const { port } = new URL(server.url)
  return new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port: Number(port) }, () => {
      socket.write('GET /v1/channels/bulk/stream HTTP/1.0\r\n\r\n')
      socket.off('error', reject)
      // It is going to be cut.
      socket.on('error', () => undefined)
      resolve(socket)
    })
    socket.pause().on('error', reject)
  })
}

async function streams({ server }: Place): Promise<number> {
  return Number(/^freshet_streams (\d+)$/m.exec(await (await fetch(`${server.url}/metrics`)).text())?.[1])
}
