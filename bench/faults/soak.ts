/** Minutes of steady load: memory, sockets, backends and the size of the database must not grow. */
import { readdir } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import type { Place } from './place.ts'
import { align, withPlace, type Outcome } from './outcome.ts'

const STREAMS = 100
const SAMPLES = 60

interface Sample {
  readonly heapBytes: number
  readonly sockets: number
  readonly backends: number
  readonly databaseBytes: number
}

export function soak(minutes: number): () => Promise<Outcome> {
  // A log that turns many times in the run and memories that are soon full, else their growth to their bounds would be all there is to see.
  return () => withPlace({ RETENTION_BYTES: '1000000', RETENTION_HOURS: '0.01', RING_BYTES: '2000000', CACHE_BYTES: '4000000' }, async (place) => {
    await place.addClients(STREAMS)
    place.write(10)
    const polling = { isOver: false }
    const pollers = Array.from({ length: 5 }, () => poll(place, polling))
    const samples: Sample[] = []
    for (let taken = 0; taken < SAMPLES; taken += 1) {
      await delay(minutes * 60_000 / SAMPLES)
      samples.push(await sample(place))
    }
    polling.isOver = true
    await Promise.all(pollers)
    const grown = judge(samples)
    return {
      fault: `${minutes} minutes of steady load`, how: `${STREAMS} streams, 5 pollers, 100 commits a second`, recoveries: await place.recovered(performance.now()),
      note: 'heap, sockets, backends, database', ...grown.length === 0 ? {} : { complaint: `${grown.join(', ')} grew` },
    }
  })
}

async function poll({ server }: Place, life: { readonly isOver: boolean }): Promise<void> {
  let tag = ''
  while (!life.isOver) {
    const answer = await fetch(`${server.url}/v1/channels/t/changes`, { headers: tag === '' ? {} : { 'If-None-Match': tag } })
    tag = answer.headers.get('etag') ?? ''
    await answer.text()
    await delay(100)
  }
}

async function sample({ server, database }: Place): Promise<Sample> {
  const metrics = await (await fetch(`${server.url}/metrics`)).text()
  const { rows: [size] } = await database.query<{ backends: string; bytes: string }>(
    `select (select count(*) from pg_stat_activity where application_name like 'freshet:%') as backends, pg_database_size(current_database()) as bytes`)
  return {
    heapBytes: Number(/^nodejs_heap_size_used_bytes (\S+)/m.exec(metrics)?.[1]),
    sockets: (await readdir(`/proc/${server.processId}/fd`)).length,
    backends: Number(size?.backends),
    databaseBytes: Number(size?.bytes),
  }
}

/**
 * Compares the second quarter, when all is warm, with the last, and prints both: the least of each for the heap, whose tops are garbage,
 * the most for the others. Answers what grew by more than noise.
 */
function judge(samples: readonly Sample[]): readonly string[] {
  const quarter = samples.length / 4
  const [early, late] = [samples.slice(quarter, 2 * quarter), samples.slice(-quarter)]
  const least = (some: readonly Sample[], name: keyof Sample): number => Math.min(...some.map((one) => one[name]))
  const most = (some: readonly Sample[], name: keyof Sample): number => Math.max(...some.map((one) => one[name]))
  const rows = [
    { name: 'heap', from: least(early, 'heapBytes'), to: least(late, 'heapBytes'), mayGrow: 5e6, unit: 1e6 },
    { name: 'sockets and files', from: most(early, 'sockets'), to: most(late, 'sockets'), mayGrow: 3, unit: 1 },
    { name: 'backends', from: most(early, 'backends'), to: most(late, 'backends'), mayGrow: 2, unit: 1 },
    { name: 'database', from: most(early, 'databaseBytes'), to: most(late, 'databaseBytes'), mayGrow: 3e6, unit: 1e6 },
  ]
  const shown = (value: number, unit: number): string => unit === 1 ? String(value) : `${(value / unit).toFixed(1)} MB`
  console.log(align([['', 'second quarter', 'last quarter'], ...rows.map(({ name, from, to, unit }) => [name, shown(from, unit), shown(to, unit)])]))
  // Not "greater": a figure that could not be read must not pass.
  return rows.filter(({ from, to, mayGrow }) => !(to <= from + mayGrow)).map(({ name }) => name)
}
