/** Many clients of an Advisor on a virtual clock: what they ask, and what they are told. */
import { Advisor } from '../../src/pace/advisor.ts'
import { createRandom } from './traces.ts'

export interface CrowdOptions {
  readonly channels: readonly {
    readonly name: string
    readonly clients: number
    /** Mean seconds between commits. */
    readonly gap: () => number
    /** Commits come like clockwork; else by chance. */
    readonly isTick?: boolean
  }[]
  readonly seconds: number
  /** Polls a second, by second. Default: no limit. */
  readonly budget?: (second: number) => number
  /** Seconds of commits before the first client. Default 600. */
  readonly history?: number
  /** When a client first asks, seconds. Default: within the first ten. */
  readonly arrival?: (chance: number) => number
  /** They come back with a cursor rather than for the first time. */
  readonly hasCursor?: boolean
}

export interface CrowdPoll {
  readonly name: string
  readonly second: number
  readonly afterMs: number
  readonly reason: string
}

export interface Crowd {
  readonly polls: readonly CrowdPoll[]
}

const TICK_MS = 20

/** Each client asks when it was told, 2 to 5 % later. */
export function crowd({ channels, seconds, budget = () => Infinity, history = 600, arrival = (chance) => 10 * chance, hasCursor = false }: CrowdOptions): Crowd {
  const random = createRandom(1)
  let nowMs = 0
  const advisor = new Advisor({ now: () => nowMs, defer: (work) => work() })
  const polls: CrowdPoll[] = []
  const due: { readonly name: string; readonly isNew: boolean }[][] = []
  const expect = (name: string, atMs: number, isNew: boolean): void => {
    (due[Math.max(Math.floor(nowMs / TICK_MS) + 1, Math.ceil(atMs / TICK_MS))] ??= []).push({ name, isNew })
  }
  for (const { name, clients } of channels) {
    for (let i = 0; i < clients; i++) expect(name, (history + arrival(random.u())) * 1_000, !hasCursor)
  }
  const commits = channels.map(({ gap }) => ({ nextMs: gap() * 1_000 }))
  for (nowMs = 0; nowMs < (history + seconds) * 1_000; nowMs += TICK_MS) {
    advisor.budget = budget(Math.floor(nowMs / 1_000) - history)
    channels.forEach(({ name, gap, isTick = false }, i) => {
      const commit = commits[i]
      if (commit === undefined || commit.nextMs > nowMs) return
      advisor.observe(name)
      commit.nextMs += (isTick ? gap() : random.exp(gap())) * 1_000
    })
    for (const { name, isNew } of due[nowMs / TICK_MS] ?? []) {
      const advice = advisor.advise(name, { isFirst: isNew })
      polls.push({ name, second: Math.floor(nowMs / 1_000) - history, ...advice })
      expect(name, nowMs + advice.afterMs * (1.02 + 0.03 * random.u()), false)
    }
    due[nowMs / TICK_MS] = []
  }
  return { polls }
}
