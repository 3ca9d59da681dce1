/**
 * 5,000 streams, and a database that commits as fast as it can: how many messages a second take effect at every one of them.
 * Freshet folds what a reader is too slow for; nchan sends every message. Each runs for a while, and then until all have the last.
 */
import type { Child } from '../child.ts'
import type { Crowd } from '../crowd.ts'
import { hasNchan } from '../floors/nchan.ts'
import { atLeast, type Line } from '../line.ts'
import { write } from '../pgbench.ts'
import { freshetSubject, nchanSubject, type Subject } from '../subjects.ts'

const SECONDS = 4
const WRITERS = 8

export const burst: Line = {
  name: 'burst',
  async measure(lab, scale) {
    const streams = scale === 'full' ? 5_000 : 1_000
    const postgres = await lab.postgres()
    const freshet = await freshetSubject(lab, postgres)
    await postgres.client.query(`insert into rows select i, 'none' from generate_series(2, 1000) i`)
    const script = `\\set id random(2, 1000)\nupdate rows set label = 'burst' where id = :id;\n`
    const ours = await applied(await gather(lab.crowd(), freshet, streams), freshet, async () => (await write({ url: postgres.url, script, count: WRITERS, seconds: SECONDS })).transactions)
    if (!hasNchan) return []
    const nchan = await nchanSubject(lab)
    const theirs = await applied(await gather(lab.crowd(), nchan, streams), nchan, () => nchan.tellOften({ everyMs: 0.001, forMs: SECONDS * 1_000 }))
    return [{
      work: `${streams.toLocaleString('en')} streams, commits as fast as can be`, measured: ours, unit: 'messages applied a second', against: { name: 'nchan', measured: theirs },
      judged: 'ratio', bound: atLeast(5, 20),
    }]
  },
}

async function gather(crowd: Child<Crowd>, { streams }: Subject, count: number): Promise<Child<Crowd>> {
  await crowd.ask('open', { ...streams, count })
  return crowd
}

/** Messages a second, from the first until the last has taken effect everywhere. */
async function applied(crowd: Child<Crowd>, subject: Subject, send: () => Promise<number>): Promise<number> {
  const startedMs = performance.now()
  const messages = await send()
  await crowd.ask('expect', { marker: 'the burst is over' })
  await subject.tell('the burst is over')
  await crowd.ask('arrived', { timeoutMs: 120_000 })
  const rate = messages * 1_000 / (performance.now() - startedMs)
  await crowd.ask('leave')
  return rate
}
