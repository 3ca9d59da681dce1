/** Latency as in the line of that name, of one row's updates, while 16 writers of pgbench update other rows of the same channel flat out. */
import { readStream, updateSteadily } from '../arrivals.ts'
import { atMost, type Bound, type Figure, type Line } from '../line.ts'
import { hasPgbench, write } from '../pgbench.ts'
import { percentile } from '../statistics.ts'
import { freshetSubject } from '../subjects.ts'

const WRITERS = 16
const ROUND_MS = 5_000

export const latencyUnderLoad: Line = {
  name: 'latency-under-load',
  async measure(lab, scale) {
    if (!hasPgbench) return []
    const postgres = await lab.postgres()
    const subject = await freshetSubject(lab, postgres)
    await postgres.client.query(`insert into rows select i, 'none' from generate_series(2, 1000) i`)
    const { arrivals, close } = await readStream(subject)
    const target = { client: postgres.client, table: 'rows', arrivals }
    const forMs = scale === 'full' ? ROUND_MS : ROUND_MS / 2
    await updateSteadily(target, 0, { everyMs: 8, forMs: 1_000 })
    const idle = await updateSteadily(target, 10_000, { everyMs: 8, forMs })
    const script = `\\set id random(2, 1000)\nupdate rows set label = 'busy' where id = :id;\n`
    const writing = write({ url: postgres.url, script, count: WRITERS, seconds: Math.ceil(forMs / 1_000) + 1 })
    const busy = await updateSteadily(target, 20_000, { everyMs: 8, forMs })
    const { transactionsASecond } = await writing
    close()
    const figure = (name: string, p: number, bound: Bound | null): Figure => ({
      work: `${name}, ${WRITERS} writers (${Math.round(transactionsASecond).toLocaleString('en')} a second)`, measured: percentile(busy, p), unit: 'ms',
      against: { name: 'idle', measured: percentile(idle, p) }, judged: 'measured', bound,
    })
    return [figure('p99', 0.99, atMost(50, 20)), figure('p50', 0.5, null)]
  },
}
