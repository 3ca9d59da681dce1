/**
 * 15,000 streams of which nothing is asked: what each costs in memory, and how long one change takes to reach them all.
 * Memory is the slope of the resident set between the first thousand and the last, after a collection of garbage; what the kernel holds for the
 * sockets is apart. The curve is measured on the way.
 */
import type { Child } from '../child.ts'
import type { Crowd } from '../crowd.ts'
import { hasNchan } from '../floors/nchan.ts'
import type { Lab } from '../lab.ts'
import { atMost, type CurvePoint, type Figure, type Line } from '../line.ts'
import { median } from '../statistics.ts'
import { freshetSubject, httpSubject, nchanSubject, netSubject, type Subject } from '../subjects.ts'
import { settledBytes } from '../usage.ts'

const LEVELS = [10, 100, 1_000, 5_000, 10_000, 15_000]
const GUARD_LEVELS = [1_000, 4_000]
const CHANGES = 7

export const idleStreams: Line = {
  name: 'idle-streams',
  async measure(lab, scale) {
    const levels = scale === 'full' ? LEVELS : GUARD_LEVELS
    const crowds = [lab.crowd(), lab.crowd()]
    const results = new Map<string, readonly CurvePoint[]>()
    const peers = scale === 'full' ? [httpSubject, ...hasNchan ? [nchanSubject] : []] : []
    for (const start of [freshet, netSubject, ...peers]) {
      const started = await start(lab)
      const points = await climb(started, crowds, levels)
      results.set(started.name, points)
      lab.curve.push(...points)
      await Promise.all(crowds.map((crowd) => crowd.ask('leave')))
    }
    return figures(results)
  },
}

function figures(results: ReadonlyMap<string, readonly CurvePoint[]>): readonly Figure[] {
  const points = results.get('Freshet') ?? []
  const others = [...results].filter(([name]) => name !== 'Freshet')
  const count = (points.at(-1)?.streams ?? 0).toLocaleString('en')
  const memory = others.map(([name, theirs], index): Figure => ({
    work: `${count} streams, memory each`, measured: slope(points) / 1_024, unit: 'KB', against: { name, measured: slope(theirs) / 1_024 },
    judged: 'measured', bound: index === 0 ? atMost(8, 5) : null,
  }))
  const time = others.map(([name, theirs], index): Figure => ({
    work: `${count} streams, all hold one change`, measured: (points.at(-1)?.allHoldMs ?? NaN) / 1_000, unit: 's',
    against: { name, measured: (theirs.at(-1)?.allHoldMs ?? NaN) / 1_000 }, judged: 'measured', bound: index === 0 ? atMost(0.8, 0.8) : null,
  }))
  return [...memory, ...time]
}

/** Bytes a stream between the first thousand and the last point. */
function slope(points: readonly CurvePoint[]): number {
  const from = points.find(({ streams }) => streams === 1_000)
  const to = points.at(-1)
  if (from === undefined || to === undefined) return NaN
  return (to.bytesEach * to.streams - from.bytesEach * from.streams) / (to.streams - from.streams)
}

async function climb(subject: Subject, crowds: readonly Child<Crowd>[], levels: readonly number[]): Promise<readonly CurvePoint[]> {
  const emptyBytes = await settledBytes(subject.processId, subject.isNode)
  const points: CurvePoint[] = []
  let open = 0
  for (const level of levels) {
    const shares = crowds.map((_, index) => Math.floor((level - open + index) / crowds.length))
    await Promise.all(crowds.map((crowd, index) => crowd.ask('open', { ...subject.streams, count: shares[index] ?? 0, origin: index + 1 })))
    open = level
    const { allHoldMs, cpuMicroseconds } = await tellAll(subject, crowds, level)
    points.push({
      server: subject.name, streams: level, allHoldMs, cpuMicrosecondsADelivery: cpuMicroseconds,
      bytesEach: (await settledBytes(subject.processId, subject.isNode) - emptyBytes) / level,
    })
  }
  return points
}

/** Some changes, one at a time, each until everybody has it. */
async function tellAll(subject: Subject, crowds: readonly Child<Crowd>[], level: number): Promise<{ readonly allHoldMs: number; readonly cpuMicroseconds: number }> {
  const times: number[] = []
  const before = await subject.cpuMs()
  for (let change = 0; change < CHANGES; change += 1) {
    const marker = `change-${level}-${change}-`
    await Promise.all(crowds.map((crowd) => crowd.ask('expect', { marker })))
    const sentMs = performance.now()
    const arrived = Promise.all(crowds.map((crowd) => crowd.ask('arrived', { timeoutMs: 60_000 })))
    await subject.tell(marker)
    await arrived
    times.push(performance.now() - sentMs)
  }
  return { allHoldMs: median(times), cpuMicroseconds: (await subject.cpuMs() - before) * 1_000 / (CHANGES * level) }
}

async function freshet(lab: Lab): Promise<Subject> {
  return freshetSubject(lab, await lab.postgres())
}
