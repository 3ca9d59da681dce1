/**
 * What one delivery costs in CPU time, while everybody is sent a steady run of versions: 500 streams and 5,000.
 * Freshet's cost is that of its process and of what PostgreSQL does beyond the same updates of an unwatched table; conflated versions
 * are no deliveries, because the readers count. Floor: the same bytes on the same schedule from bare sockets.
 */
import type { Child } from '../child.ts'
import type { Crowd } from '../crowd.ts'
import { hasNchan } from '../floors/nchan.ts'
import type { Lab, Postgres } from '../lab.ts'
import { atMost, type Bound, type Figure, type Line, type Scale } from '../line.ts'
import { median } from '../statistics.ts'
import { createRows, freshetSubject, keepPace, nchanSubject, netSubject, todaySubject, updateRow, type Pace, type Subject } from '../subjects.ts'

interface Case extends Pace {
  readonly streams: number
  readonly rounds: number
  readonly floorBound: Bound
  readonly hasToday: boolean
}

const CASES: Readonly<Record<Scale, readonly Case[]>> = {
  full: [
    { streams: 500, everyMs: 3, forMs: 1_500, rounds: 3, floorBound: atMost(1.5, 1.2), hasToday: true },
    { streams: 5_000, everyMs: 50, forMs: 1_500, rounds: 2, floorBound: atMost(1.3, 1.1), hasToday: false },
  ],
  guard: [{ streams: 500, everyMs: 3, forMs: 1_500, rounds: 2, floorBound: atMost(1.5, 1.2), hasToday: false }],
}

export const fanOut: Line = {
  name: 'fan-out',
  async measure(lab, scale) {
    const postgres = await lab.postgres()
    await createRows(postgres.client, 'plain')
    const subjects = [await freshetSubject(lab, postgres), await netSubject(lab), ...hasNchan ? [await nchanSubject(lab)] : []]
    const figures: Figure[] = []
    for (const use of CASES[scale]) {
      const taking = use.hasToday ? [...subjects, await todaySubject(lab, postgres)] : subjects
      figures.push(...await compare(lab, use, postgres, taking))
    }
    return figures
  },
}

async function compare(lab: Lab, use: Case, postgres: Postgres, subjects: readonly Subject[]): Promise<readonly Figure[]> {
  const crowds = new Map<Subject, Child<Crowd>>()
  for (const subject of subjects) {
    const crowd = lab.crowd()
    crowds.set(subject, crowd)
    await crowd.ask('open', { ...subject.streams, count: use.streams })
  }
  const costs = new Map<string, number[]>()
  const sizes = new Map<string, number>()
  for (let round = 0; round < use.rounds; round += 1) {
    const hostMs = await hostCpuMs(postgres, use)
    for (const [subject, crowd] of crowds) {
      const { cpuMs, messages, deliveries, bytes } = await deliver(subject, crowd, use, round)
      const isOnPostgres = subject.name !== 'bare net' && subject.name !== 'nchan'
      const own = cpuMs - (isOnPostgres ? hostMs * messages : 0)
      costs.set(subject.name, [...costs.get(subject.name) ?? [], own * 1_000 / deliveries])
      sizes.set(subject.name, bytes / deliveries)
    }
  }
  for (const crowd of crowds.values()) await crowd.stop()
  const [ours = NaN, theirs = NaN] = [sizes.get('Freshet'), sizes.get('bare net')]
  if (Math.abs(ours / theirs - 1) > 0.05) throw new Error(`an event of Freshet's is ${ours} bytes long, the floor's ${theirs}`)
  const bounds: Readonly<Record<string, Bound>> = { 'bare net': use.floorBound, 'nchan': atMost(1, 0.8) }
  return [...costs].filter(([name]) => name !== 'Freshet').map(([name, theirCosts]): Figure => ({
    work: `${use.streams.toLocaleString('en')} streams, a version every ${use.everyMs} ms`, measured: median(costs.get('Freshet') ?? []), unit: 'µs a delivery',
    against: { name, measured: median(theirCosts) }, judged: 'ratio', bound: bounds[name] ?? null,
  }))
}

interface Round {
  readonly messages: number
  readonly cpuMs: number
  readonly deliveries: number
  readonly bytes: number
}

async function deliver(subject: Subject, crowd: Child<Crowd>, use: Case, round: number): Promise<Round> {
  const marker = `round ${round} of ${use.streams} is over`
  const before = await crowd.ask('count')
  const cpuBefore = await subject.cpuMs()
  await crowd.ask('expect', { marker })
  const messages = await subject.tellOften(use) + 1
  await subject.tell(marker)
  await crowd.ask('arrived', { timeoutMs: 30_000 })
  const after = await crowd.ask('count')
  return { messages, cpuMs: await subject.cpuMs() - cpuBefore, deliveries: after.events - before.events, bytes: after.bytes - before.bytes }
}

/** What each of these updates costs PostgreSQL where nobody watches. */
async function hostCpuMs(postgres: Postgres, use: Case): Promise<number> {
  const before = await postgres.cpuMs()
  const updates = await keepPace(use, (number) => updateRow(postgres.client, 'plain', `message ${number}`))
  return (await postgres.cpuMs() - before) / updates
}
