import { setTimeout as delay } from 'node:timers/promises'
import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import type { LoggedChange, Window } from '../../src/contract/change.ts'
import type { HeldDelta } from '../../src/hub/answer.ts'
import { Feed, feedKey, type Follower } from '../../src/hub/feed.ts'
import { Feeds } from '../../src/hub/feeds.ts'
import { WindowRenderer } from '../../src/hub/fold.ts'
import { TableRoutes } from '../../src/hub/routes.ts'
import { channel, Model, table, windowOf, type Write } from '../support/model.ts'

const T = table(1)
const CHANNEL = channel('t', T)
const OTHER = channel('other', T)

const WINDOW: fc.Arbitrary<Window> = fc.oneof(
  fc.constant({}),
  fc.record({ g: fc.constantFrom('"a"', '"b"', 'null') }),
  fc.record({ v: fc.constantFrom('0', '1', '2') }),
  fc.record({ g: fc.constantFrom('"a"', '"b"'), v: fc.constantFrom('0', '1') }),
).chain((filters) => fc.constantFrom(CHANNEL, OTHER).map((definition) => windowOf(definition, filters as Record<string, string>)))

const WRITES: fc.Arbitrary<readonly Write[]> = fc.array(fc.oneof(
  fc.record({ tableId: fc.constant(1), row: fc.record({ id: fc.nat(3), g: fc.constantFrom('a', 'b', 'c'), v: fc.nat(3) }) }),
  fc.record({ tableId: fc.constant(1), id: fc.nat(3) }),
), { minLength: 1, maxLength: 4 })

function changesOf(commits: readonly (readonly Write[])[]): readonly LoggedChange[] {
  const model = new Model([CHANNEL])
  return commits.flatMap((writes) => model.commit(writes).changes ?? [])
}

/** Feeds of the windows, each once. */
function feedsOf(windows: readonly Window[]): readonly Feed[] {
  return [...new Map(windows.map((window) => [feedKey([window]), new Feed(feedKey([window]), [window])])).values()]
}

describe('routing', () => {
  it('finds exactly the feeds that a change says something to, as asking every feed would', () => {
    fc.assert(fc.property(fc.array(WINDOW, { maxLength: 12 }), fc.array(WRITES, { minLength: 1, maxLength: 4 }), (windows, commits) => {
      const routes = new TableRoutes()
      const feeds = feedsOf(windows)
      for (const feed of feeds) for (const window of feed.windows) routes.add(window, feed)
      const changes = changesOf(commits)
      const naive = feeds.filter(({ windows: [window] }) => window !== undefined && changes.some((change) => new WindowRenderer(window).change(change) !== null))
      expect(new Set(routes.concerned(changes))).toEqual(new Set(naive))
      expect(new Set(routes.everyFeed())).toEqual(new Set(feeds))
    }), { seed: 31, numRuns: 1_000 })
  })

  it('is empty again when every feed has left', () => {
    fc.assert(fc.property(fc.array(WINDOW, { maxLength: 12 }), fc.array(WRITES, { minLength: 1, maxLength: 4 }), (windows, commits) => {
      const routes = new TableRoutes()
      const feeds = feedsOf(windows)
      for (const feed of feeds) for (const window of feed.windows) routes.add(window, feed)
      for (const feed of feeds) for (const window of feed.windows) routes.remove(window, feed)
      expect(routes.isEmpty).toBe(true)
      expect([...routes.concerned(changesOf(commits))]).toEqual([])
    }), { seed: 32, numRuns: 200 })
  })

  it('compares numbers as numbers: 1.50 and 1.5 are one value', () => {
    const numeric = { ...T, columns: T.columns.map((column) => column.name === 'v' ? { ...column, type: 'numeric(9,2)', comparedAs: 'numeric' } : column) }
    const window = windowOf(channel('t', numeric), { v: '1.5' })
    const routes = new TableRoutes()
    const feed = new Feed('f', [window])
    routes.add(window, feed)
    const at = (v: string): LoggedChange => ({ order: 1n, tableId: 1, key: '{"id":1}', newRow: `{"id":1,"g":"a","v":${v}}`, oldFilters: [] })
    expect([...routes.concerned([at('1.50')])]).toEqual([feed])
    expect([...routes.concerned([at('1.05')])]).toEqual([])
  })
})

describe('feeds', () => {
  const windows = [windowOf(CHANNEL)]

  /** A follower that notes what it is told: the versions, and which it was told together. */
  function listener(takes: (deltas: readonly HeldDelta[]) => boolean = () => true): Follower & { readonly told: (number | 'overtaken')[]; readonly times: (readonly HeldDelta[])[] } {
    const told: (number | 'overtaken')[] = []
    const times: (readonly HeldDelta[])[] = []
    return {
      told, times,
      deliver(deltas) {
        told.push(...deltas.map(({ version }) => version))
        times.push(deltas)
        return takes(deltas)
      },
      overtaken() { told.push('overtaken') },
    }
  }

  /** Telling takes no time, unless `nowMs` says so. */
  function open(errors: Error[] = [], nowMs = () => 0): { readonly model: Model; readonly feeds: Feeds } {
    return {
      model: new Model([CHANNEL]),
      feeds: new Feeds({
        nowMs,
        deltaOf: (_windows, { since }, { number }) => ({ since, version: number, parts: [{ channel: 't', changes: Buffer.from('{}') }] }),
        onQuiet: () => undefined,
        onError: (error) => errors.push(error),
      }),
    }
  }

  const write = (id: number): readonly Write[] => [{ tableId: 1, row: { id, g: 'a', v: 0 } }]

  it('move their followers along, each told once of each version', () => {
    const { model, feeds } = open()
    const [one, two] = [listener(), listener()]
    feeds.follow(windows, model.head, one)
    feeds.tell(model.commit(write(1)))
    feeds.follow(windows, model.head, two)
    feeds.tell(model.commit(write(2)))
    expect([one.told, two.told]).toEqual([[1_001, 1_002], [1_002]])
  })

  it('keep nothing of a follower that cannot take a delta', () => {
    const { model, feeds } = open()
    const slow = listener(() => false)
    feeds.follow(windows, model.head, slow)
    feeds.tell(model.commit(write(1)))
    feeds.tell(model.commit(write(2)))
    expect(slow.told).toEqual([1_001])
    expect([feeds.size, feeds.followers]).toEqual([0, 0])
  })

  it('survive followers that leave, and that make others leave, while they are told', () => {
    const { model, feeds } = open()
    const bystander = listener()
    const leaver = listener(() => {
      feeds.unfollow(windows, leaver)
      feeds.unfollow(windows, bystander)
      return false
    })
    const last = listener()
    for (const follower of [leaver, bystander, last]) feeds.follow(windows, model.head, follower)
    feeds.tell(model.commit(write(1)))
    feeds.tell(model.commit(write(2)))
    expect([leaver.told, bystander.told, last.told]).toEqual([[1_001], [], [1_001, 1_002]])
  })

  it('do not forget a follower that came while another one left', () => {
    const { model, feeds } = open()
    const newcomer = listener()
    const leaver = listener(() => {
      feeds.unfollow(windows, leaver)
      feeds.follow(windows, 1_001, newcomer)
      return false
    })
    feeds.follow(windows, model.head, leaver)
    feeds.tell(model.commit(write(1)))
    feeds.tell(model.commit(write(2)))
    expect(newcomer.told).toEqual([1_002])
    feeds.unfollow(windows, newcomer)
    expect(feeds.size).toBe(0)
    feeds.tell(model.commit(write(3)))
    expect(newcomer.told).toEqual([1_002])
  })

  it('overtake everybody when a follower throws: nobody is left behind unknowing', () => {
    const errors: Error[] = []
    const { model, feeds } = open(errors)
    const broken = listener(() => { throw new Error('broken') })
    const sound = listener()
    feeds.follow(windows, model.head, broken)
    feeds.follow(windows, model.head, sound)
    feeds.tell(model.commit(write(1)))
    expect(sound.told).toEqual(['overtaken'])
    expect(errors.map(({ message }) => message)).toEqual(['broken'])
  })

  it('overtake when the table starts anew or its changes are not carried along', () => {
    const { model, feeds } = open()
    for (const version of [model.startAnew(1), model.commit(write(1), { isCarried: false })]) {
      const follower = listener()
      feeds.follow(windows, version.number - 1, follower)
      feeds.tell(version)
      expect(follower.told).toEqual(['overtaken'])
    }
    expect(feeds.size).toBe(0)
  })

  describe('rest after telling for twice as long as it took', () => {
    let nowMs = 0
    const slow = (ms: number) => listener(() => { nowMs += ms; return true })
    const chainOf = (deltas: readonly HeldDelta[] | undefined) => deltas?.map(({ since, version }) => [since, version])

    it('what happens meanwhile is told together, version by version', async () => {
      const { model, feeds } = open([], () => nowMs)
      const follower = slow(5)
      feeds.follow(windows, model.head, follower)
      for (const id of [1, 2, 3, 4]) feeds.tell(model.commit(write(id)))
      expect(follower.told).toEqual([1_001])
      await vi.waitUntil(() => follower.times.length === 2)
      expect(chainOf(follower.times[1])).toEqual([[1_001, 1_002], [1_002, 1_003], [1_003, 1_004]])
    })

    it('to each from where it stands, and to nobody who has left', async () => {
      const { model, feeds } = open([], () => nowMs)
      const [first, later, leaver] = [slow(5), slow(5), slow(5)]
      for (const follower of [first, leaver]) feeds.follow(windows, model.head, follower)
      feeds.tell(model.commit(write(1)))
      feeds.tell(model.commit(write(2)))
      feeds.follow(windows, model.head, later)
      feeds.unfollow(windows, leaver)
      feeds.tell(model.commit(write(3)))
      await vi.waitUntil(() => later.times.length > 0)
      expect([first, later, leaver].map(({ told }) => told)).toEqual([[1_001, 1_002, 1_003], [1_003], [1_001]])
      expect(chainOf(later.times[0])).toEqual([[1_002, 1_003]])
      expect(feeds.followers).toBe(2)
    })

    it('nobody is moved past what is still to be told', async () => {
      const { model, feeds } = open([], () => nowMs)
      const follower = slow(5)
      feeds.follow(windows, model.head, follower)
      feeds.tell(model.commit(write(1)))
      feeds.tell(model.commit(write(2)))
      expect(feeds.advance(windows, { from: 1_001, to: 1_002 }, follower)).toBe(false)
      await vi.waitUntil(() => follower.told.length === 2)
      expect(feeds.advance(windows, { from: 1_002, to: 1_003 }, follower)).toBe(true)
    })

    it('many versions, and large ones, are folded into one', async () => {
      for (const writes of [Array.from({ length: 9 }, () => write(1)), [write(1), [{ tableId: 1, row: { id: 1, g: 'a'.repeat(5_000), v: 0 } }]]]) {
        const { model, feeds } = open([], () => nowMs)
        const follower = slow(5)
        feeds.follow(windows, model.head, follower)
        feeds.tell(model.commit(write(1)))
        for (const some of writes) feeds.tell(model.commit(some))
        await vi.waitUntil(() => follower.times.length === 2)
        expect(chainOf(follower.times[1])).toEqual([[1_001, model.head]])
      }
    })

    it('a table that starts anew meanwhile overtakes, and who is let go hears nothing more', async () => {
      const { model, feeds } = open([], () => nowMs)
      const [one, two] = [slow(5), slow(5)]
      feeds.follow(windows, model.head, one)
      feeds.tell(model.commit(write(1)))
      feeds.tell(model.commit(write(2)))
      feeds.tell(model.startAnew(1))
      await vi.waitUntil(() => one.told.length === 2)
      expect(one.told).toEqual([1_001, 'overtaken'])
      feeds.follow(windows, model.head, two)
      feeds.tell(model.commit(write(3)))
      feeds.tell(model.commit(write(4)))
      feeds.overtakeAll()
      await delay(30)
      expect(two.told).toEqual([1_004, 'overtaken'])
    })
  })

  it('tell nobody of other tables', () => {
    const { model, feeds } = open()
    const follower = listener()
    feeds.follow(windows, model.head, follower)
    feeds.tell(model.commit([{ tableId: 2, row: { id: 1, g: 'a', v: 0 } }]))
    expect(follower.told).toEqual([])
    expect(feeds.followers).toBe(1)
  })
})
