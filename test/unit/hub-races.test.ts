/** The hub against its model: whatever comes between what, a client holds what existed. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Window } from '../../src/contract/change.ts'
import type { Version } from '../../src/contract/version.ts'
import type { Delta, HeldDelta } from '../../src/hub/answer.ts'
import { Hub } from '../../src/hub/hub.ts'
import { channel, Model, ModelSource, table, windowOf, type ModelRow, type Write } from '../support/model.ts'

const CHANNELS = [channel('t', table(1)), channel('u', table(2))] as const
const ALL = windowOf(CHANNELS[0])
const WINDOWS = [ALL, windowOf(CHANNELS[1]), windowOf(CHANNELS[0], { g: '"a"' }), windowOf(CHANNELS[0], { g: '"b"', v: '1' })]

interface World {
  readonly model: Model
  readonly source: ModelSource
  readonly hub: Hub
  readonly errors: Error[]
}

async function loaded(ringBytes: number): Promise<World> {
  const model = new Model(CHANNELS)
  const source = new ModelSource(model)
  const errors: Error[] = []
  // Telling takes two milliseconds now and then, so that followers are told at once, or later, together with what came meanwhile.
  let [calls, ms] = [0, 0]
  const nowMs = (): number => {
    calls += 1
    if (calls % 3 === 0) ms += 2
    return ms
  }
  const hub = new Hub({ source, ringBytes, nowMs, futureWaitMs: 5, onError: (error) => errors.push(error) })
  await hub.load()
  return { model, source, hub, errors }
}

/** A client as a stream serves it: asks until it may follow, follows until it is told to ask. */
class Client {
  readonly rows = new Map<number, ModelRow>()
  readonly #world: World
  readonly window: Window
  version: Version | null = null
  isOpen = true
  isFollowing = false
  resets = 0
  #isRunning = false

  constructor(world: World, window: Window) {
    this.#world = world
    this.window = window
  }

  async run(): Promise<void> {
    this.isFollowing = false
    if (this.#isRunning) return
    this.#isRunning = true
    const { hub } = this.#world
    while (this.isOpen && !this.#follows()) {
      const answer = await hub.answer([this.window], this.version)
      const { epoch } = hub
      if (answer.kind === 'delta') await this.#apply(answer, epoch)
      if (this.#mayFollow() && this.version !== null && hub.follow([this.window], this.version, this)) this.isFollowing = true
    }
    this.#isRunning = false
  }

  deliver(deltas: readonly HeldDelta[]): boolean {
    for (const delta of deltas) this.#take(delta, this.#world.hub.epoch, delta.parts.map(({ changes }) => changes.toString()))
    return true
  }

  overtaken(): void {
    void this.run()
  }

  leave(): void {
    this.isOpen = false
    this.#world.hub.unfollow([this.window], this)
  }

  #mayFollow(): boolean {
    return this.isOpen
  }

  #follows(): boolean {
    return this.isFollowing
  }

  async #apply(delta: Delta, epoch: string): Promise<void> {
    const texts: string[] = []
    for await (const { changes } of delta.parts) texts.push(changes.toString())
    this.#take(delta, epoch, texts)
  }

  #take({ since, version }: Delta, epoch: string, texts: readonly string[]): void {
    const { model } = this.#world
    if (since === null) {
      this.rows.clear()
      this.resets += 1
    } else if (since !== this.version?.number || version < since) {
      this.#world.errors.push(new Error(`a delta from ${since} to ${version} for a client at ${this.version?.number}`))
    }
    const changes = JSON.parse(`[${texts.filter((text) => text !== '').join(',')}]`) as { op: string; key: { id: number }; row: ModelRow }[]
    for (const { op, key, row: fresh } of changes) {
      if (op === 'upsert') this.rows.set(key.id, fresh)
      else this.rows.delete(key.id)
    }
    this.version = { epoch, number: version }
    if (model.epochOf(version) !== epoch) this.#world.errors.push(new Error(`version ${version} of epoch ${model.epochOf(version)} under the name of ${epoch}`))
    const [held, truth] = [this.sorted(), sorted(model.rowsAt(version, this.window))].map((rows) => JSON.stringify(rows))
    if (held !== truth) this.#world.errors.push(new Error(`at version ${version} after ${since}: ${held}, but there were ${truth}`))
  }

  sorted(): readonly ModelRow[] {
    return sorted([...this.rows.values()])
  }
}

const sorted = (rows: readonly ModelRow[]): readonly ModelRow[] => [...rows].sort((a, b) => a.id - b.id)

const WRITES = fc.array(fc.oneof(
  { weight: 4, arbitrary: fc.record({ tableId: fc.constantFrom(1, 2), row: fc.record({ id: fc.nat(4), g: fc.constantFrom('a', 'b'), v: fc.nat(3) }) }) },
  { weight: 1, arbitrary: fc.record({ tableId: fc.constantFrom(1, 2), id: fc.nat(4) }) },
), { minLength: 1, maxLength: 3 })

type Action =
  | { readonly do: 'commit'; readonly writes: readonly Write[]; readonly isCarried: boolean }
  | { readonly do: 'come'; readonly window: number }
  | { readonly do: 'leave' | 'startAnew' | 'leap' | 'crash' | 'refresh' | 'raiseFloor' | 'newEpoch' }

const ACTION: fc.Arbitrary<Action> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ do: fc.constant('commit' as const), writes: WRITES, isCarried: fc.integer({ min: 0, max: 6 }).map((dice) => dice > 0) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('come' as const), window: fc.nat(3) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constantFrom('leave' as const, 'startAnew' as const, 'leap' as const, 'crash' as const, 'refresh' as const, 'raiseFloor' as const, 'newEpoch' as const) }) },
)

/** What happens to a hub, in an order that the scheduler chooses for whatever is not decided by the model. */
class Play {
  readonly world: World
  readonly clients: Client[] = []
  readonly #scheduler: fc.Scheduler
  readonly #running: Promise<unknown>[] = []

  constructor(world: World, scheduler: fc.Scheduler) {
    this.world = world
    this.#scheduler = scheduler
    world.source.gate = (kind) => scheduler.schedule(Promise.resolve(), kind)
  }

  perform(action: Action): void {
    const { model, hub } = this.world
    switch (action.do) {
      case 'commit': return hub.accept(model.commit(action.writes, action))
      case 'startAnew': return hub.accept(model.startAnew(1))
      case 'leap': return hub.accept(model.leap(model.head + 2 ** 20))
      case 'refresh': return this.#run(hub.refresh())
      case 'raiseFloor':
        model.floor = model.head
        return
      case 'crash':
        // The first version of the epoch was flushed; what came since may be gone. The next leader's node finds its own head gone.
        if (model.versions.at(-1)?.leaptFrom === null) model.lose(1)
        model.leap(Math.max(hub.arriving, model.head) + 2 ** 20)
        return this.#run(hub.load())
      case 'newEpoch': {
        // No number twice, so that one tells of which epoch it is.
        const number = Math.max(hub.arriving, model.head) + 2 ** 20
        model.epoch = `e${number}`
        model.floor = 0
        model.versions.splice(0)
        model.leap(number)
        return this.#run(hub.load())
      }
      case 'come': {
        const client = new Client(this.world, WINDOWS[action.window] ?? ALL)
        this.clients.push(client)
        return this.#run(client.run())
      }
      case 'leave': return this.clients.find(({ isOpen }) => isOpen)?.leave()
      default: return action satisfies never
    }
  }

  /** Everything answered, everybody there. */
  async end(): Promise<void> {
    await this.#scheduler.waitFor(Promise.all(this.#running))
    this.world.source.gate = () => Promise.resolve()
    await this.#scheduler.waitIdle()
    const { model } = this.world
    const isThere = (client: Client): boolean => !client.isOpen || (client.isFollowing && JSON.stringify(client.sorted()) === JSON.stringify(sorted(model.rowsAt(model.head, client.window))))
    await expect.poll(() => this.clients.every(isThere), { interval: 1 }).toBe(true)
  }

  #run(promise: Promise<unknown>): void {
    this.#running.push(promise)
  }
}

describe('Whole, No loss, Ordered', () => {
  it('every client of every filter holds what existed at its version, and in the end what there is, whatever comes between what', async () => {
    let followed = 0
    let resets = 0
    await fc.assert(fc.asyncProperty(fc.scheduler(), fc.array(ACTION, { minLength: 5, maxLength: 40 }), fc.constantFrom(0, 600, 1e6), async (scheduler, actions, ringBytes) => {
      const world = await loaded(ringBytes)
      const play = new Play(world, scheduler)
      const sequence = scheduler.scheduleSequence(actions.map((action) => ({ label: action.do, builder: () => { play.perform(action); return Promise.resolve() } })))
      await scheduler.waitFor(sequence.task)
      await play.end()
      for (const client of play.clients.filter(({ isOpen }) => isOpen)) {
        expect(client.sorted()).toEqual(sorted(world.model.rowsAt(world.model.head, client.window)))
        followed += 1
        resets += client.resets
      }
      expect(world.errors).toEqual([])
      expect(world.hub.size.followers).toBe(play.clients.filter(({ isOpen }) => isOpen).length)
    }), { seed: 41, numRuns: 400 })
    // A play in which nobody followed, or everybody was only reset, would prove nothing.
    expect(followed).toBeGreaterThan(400)
    expect(resets).toBeGreaterThan(followed)
  })
})
