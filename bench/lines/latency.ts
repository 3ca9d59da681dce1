/**
 * From the call of commit to the message in an EventSource: one update every 8 ms, rounds of each way in turn.
 * Floor: LISTEN/NOTIFY with the row as the payload, received by a bare client. Beside it, what people write today.
 */
import { listenTo, readStream, updateSteadily, type Hearing } from '../arrivals.ts'
import { atMost, type Bound, type Figure, type Line, type Scale } from '../line.ts'
import { percentile } from '../statistics.ts'
import { createRows, freshetSubject, notifyUpdates, todaySubject, type Subject } from '../subjects.ts'

const EVERY_MS = 8
const ROUND_MS = 2_000
const ROUNDS: Readonly<Record<Scale, number>> = { full: 3, guard: 2 }

interface Way {
  readonly name: string
  readonly table: string
  readonly open: () => Promise<Hearing>
  readonly latencies: number[]
}

export const latency: Line = {
  name: 'latency',
  async measure(lab, scale) {
    const postgres = await lab.postgres()
    await createRows(postgres.client, 'heard')
    await notifyUpdates(postgres.client, 'heard')
    const heard = await listenTo(postgres, 'heard')
    const streamed = (subject: Subject, table: string): Way => ({ name: subject.name, table, open: () => readStream(subject), latencies: [] })
    const floor: Way = { name: 'LISTEN/NOTIFY', table: 'heard', open: () => Promise.resolve(heard), latencies: [] }
    const ours = streamed(await freshetSubject(lab, postgres), 'rows')
    const today = streamed(await todaySubject(lab, postgres), 'notifying')
    // The first round is for the compilers.
    for (let round = 0; round <= ROUNDS[scale]; round += 1) {
      for (const { table, open, latencies } of [floor, ours, today]) {
        const { arrivals, close } = await open()
        const measured = await updateSteadily({ client: postgres.client, table, arrivals }, round * 10_000, { everyMs: EVERY_MS, forMs: ROUND_MS })
        close()
        if (round > 0) latencies.push(...measured)
      }
    }
    return [compare(ours, floor, 'p50', 0.5, atMost(2, 1.4)), compare(ours, floor, 'p99', 0.99, atMost(2.2, 1.6)), compare(ours, today, 'p50', 0.5, null), compare(ours, today, 'p99', 0.99, null)]
  },
}

function compare(ours: Way, theirs: Way, name: string, p: number, bound: Bound | null): Figure {
  return {
    work: `an update every ${EVERY_MS} ms, ${name}`, measured: percentile(ours.latencies, p), unit: 'ms',
    against: { name: theirs.name, measured: percentile(theirs.latencies, p) }, judged: 'ratio', bound,
  }
}
