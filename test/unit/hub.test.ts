import { describe, expect, it } from 'vitest'
import type { Version } from '../../src/contract/version.ts'
import { discard, type Delta, type HeldDelta } from '../../src/hub/answer.ts'
import { Hub, type Answer } from '../../src/hub/hub.ts'
import { channel, column, Model, ModelSource, table, windowOf, type Write } from '../support/model.ts'

const T = table(1)
const U = table(2)
const CHANNELS = [channel('t', T), channel('u', U)] as const
const [ALL, OTHER] = [windowOf(CHANNELS[0]), windowOf(CHANNELS[1])]

interface World {
  readonly model: Model
  readonly source: ModelSource
  readonly hub: Hub
  readonly errors: Error[]
  /** Commits, and hands the version to the hub as the clock would. */
  readonly commit: (...writes: readonly Write[]) => number
}

async function loaded(options: { readonly ringBytes?: number } = {}): Promise<World> {
  const model = new Model(CHANNELS)
  const source = new ModelSource(model)
  const errors: Error[] = []
  // Telling takes no time: nobody is told later than at once.
  const hub = new Hub({ source, nowMs: () => 0, futureWaitMs: 5, onError: (error) => errors.push(error), ...options })
  await hub.load()
  return {
    model, source, hub, errors,
    commit(...writes) {
      const version = model.commit(writes)
      hub.accept(version)
      return version.number
    },
  }
}

const row = (id: number, v = 0, tableId = 1): Write => ({ tableId, row: { id, g: 'a', v } })
const at = (number: number, epoch = 'aaaa'): Version => ({ epoch, number })

/** An answer as a client reads it. */
async function read(answer: Answer): Promise<ReadDelta> {
  if (answer.kind === 'unchanged') throw new Error('unchanged')
  return readDelta(answer)
}

interface ReadDelta {
  readonly since: number | null
  readonly version: number
  readonly changes: string
}

async function readDelta({ since, version, parts }: Delta): Promise<ReadDelta> {
  const texts: string[] = []
  for await (const { changes } of parts) if (changes.length > 0) texts.push(changes.toString())
  return { since, version, changes: texts.join(',') }
}

/** Resolves at the next turn of the event loop: everything that was only waiting for promises is done. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** Holds the database up until `open` is called. */
function holdUp(source: ModelSource, which: 'catalog' | 'changes' | 'state'): { open(): void } {
  let open = (): void => undefined
  const held = new Promise<void>((resolve) => { open = resolve })
  source.gate = (kind) => kind === which ? held : Promise.resolve()
  return { open() { source.gate = () => Promise.resolve(); open() } }
}

describe('what changed since a version', () => {
  it('is nothing, for who has the last version that touched the channel, or any later one', async () => {
    const { hub, commit } = await loaded()
    const touched = commit(row(1))
    const later = commit(row(1, 0, 2))
    expect(await hub.answer([ALL], at(touched))).toEqual({ kind: 'unchanged' })
    expect(await hub.answer([ALL], at(later))).toEqual({ kind: 'unchanged' })
  })

  it('is one folded delta, for who is behind', async () => {
    const { hub, commit } = await loaded()
    const since = commit(row(1))
    commit(row(2))
    const version = commit(row(1, 7), row(2, 8))
    expect(await read(await hub.answer([ALL], at(since)))).toEqual({
      since, version, changes: '{"op":"upsert","key":{"id":1},"row":{"id":1,"g":"a","v":7}},{"op":"upsert","key":{"id":2},"row":{"id":2,"g":"a","v":8}}',
    })
  })

  it('is everything, for who has nothing', async () => {
    const { hub, commit } = await loaded()
    const version = commit(row(1))
    expect(await read(await hub.answer([ALL], null))).toEqual({ since: null, version, changes: '{"op":"upsert","key":{"id":1},"row":{"id":1,"g":"a","v":0}}' })
  })

  it('Loud: is a reset for every number that was never issued, was lost, or is of another epoch', async () => {
    const { hub, model, commit } = await loaded()
    const last = commit(row(1))
    hub.accept(model.leap(5_000))
    for (const cursor of [at(last, 'bbbb'), at(999), at(last + 1), at(4_999), at(5_001), at(2 ** 53 - 1)]) {
      expect((await read(await hub.answer([ALL], cursor))).since, `cursor ${cursor.epoch}.${cursor.number}`).toBeNull()
    }
    // Issued ones are none the worse for the leap.
    expect(await hub.answer([ALL], at(last))).toEqual({ kind: 'unchanged' })
  })

  it('does not send who holds a version that was lost back to one before it', async () => {
    const { hub, model, commit } = await loaded()
    const last = commit(row(1))
    const leap = model.leap(5_000)
    hub.accept(leap)
    expect((await read(await hub.answer([ALL], null))).version).toBe(last)
    const anew = await read(await hub.answer([ALL], at(last + 1)))
    expect(anew).toMatchObject({ since: null, version: leap.number })
    expect(anew.changes).toContain('"id":1')
    // Where it is now is as good as any other version.
    expect(await hub.answer([ALL], at(leap.number))).toEqual({ kind: 'unchanged' })
    expect((await read(await hub.answer([ALL], null))).version).toBe(last)
  })

  it('Resumable: waits a moment for a version that another node has issued already', async () => {
    const { hub, model } = await loaded()
    const version = model.commit([row(1)])
    const asked = hub.answer([ALL], at(version.number))
    hub.accept(version)
    expect(await asked).toEqual({ kind: 'unchanged' })
  })

  it('is a reset below the version that the channel was born at, and a delta from there', async () => {
    const { hub, model, commit } = await loaded()
    const before = commit(row(1))
    const born = model.startAnew(1)
    hub.accept(born)
    await settled()
    const version = commit(row(2))
    expect(await read(await hub.answer([ALL], at(before)))).toMatchObject({ since: null, version })
    expect(await read(await hub.answer([ALL], at(born.number)))).toMatchObject({ since: born.number, version })
    expect(await hub.answer([OTHER], at(before)), 'another table').toEqual({ kind: 'unchanged' })
  })

  it('comes from the log when memory does not reach back, in the same bytes', async () => {
    const [small, large] = await Promise.all([loaded({ ringBytes: 0 }), loaded()])
    for (const { commit } of [small, large]) {
      for (let id = 1; id <= 5; id += 1) commit(row(id), row(9, id))
      commit({ tableId: 1, id: 3 })
    }
    const fromLog = await read(await small.hub.answer([ALL], at(1_001)))
    expect(fromLog).toEqual(await read(await large.hub.answer([ALL], at(1_001))))
    expect([small.source.asked.changes, large.source.asked.changes]).toEqual([1, 0])
  })

  it('is a reset when the log no longer has it, but stays unchanged for a quiet channel far below the floor', async () => {
    const { hub, model, commit } = await loaded({ ringBytes: 0 })
    const old = commit(row(1, 0, 2))
    for (let v = 1; v <= 5; v += 1) commit(row(1, v))
    model.floor = model.head
    await hub.refresh()
    expect(await read(await hub.answer([ALL], at(old)))).toMatchObject({ since: null, version: model.head })
    expect(await hub.answer([OTHER], at(old))).toEqual({ kind: 'unchanged' })
  })

  it('Whole: is one delta of several channels, with only those that were touched', async () => {
    const { hub, commit } = await loaded()
    const since = commit(row(1), row(1, 0, 2))
    commit(row(1, 1, 2))
    const answer = await hub.answer([ALL, OTHER], at(since)) as Delta
    expect((answer.parts as readonly { channel: string }[]).map(({ channel: name }) => name)).toEqual(['u'])
  })
})

describe('what this node has not seen yet', () => {
  it('Ordered: a version that the database knows is waited for, never answered with an older state', async () => {
    const { hub, model, source, commit } = await loaded()
    const known = commit(row(1))
    const elsewhere = model.commit([row(2)])
    await expect(hub.answer([ALL], at(elsewhere.number))).rejects.toMatchObject({ code: 'database_unreachable' })
    const gate = holdUp(source, 'catalog')
    await expect(hub.answer([ALL], at(elsewhere.number))).rejects.toMatchObject({ code: 'database_unreachable' })
    gate.open()
    hub.accept(elsewhere)
    expect(await hub.answer([ALL], at(elsewhere.number))).toEqual({ kind: 'unchanged' })
    expect(await hub.answer([ALL], at(known))).toMatchObject({ since: known, version: elsewhere.number })
  })

  it('Ordered: a state that was begun for somebody else is not given to who has a later version', async () => {
    const { hub, model, source, commit } = await loaded({ ringBytes: 1 })
    const begun = commit(row(1))
    const gate = holdUp(source, 'state')
    const early = hub.answer([ALL], null)
    await settled()
    const held = commit(row(2))
    commit(row(3))
    const newest = commit(row(4))
    model.floor = newest
    const late = hub.answer([ALL], at(held))
    await settled()
    gate.open()
    expect(await read(await early)).toMatchObject({ since: null, version: begun })
    expect(await read(await late)).toMatchObject({ since: null, version: newest })
  })

  it('Whole: a table that has just been watched is not taken for one that nothing has touched', async () => {
    const { hub, model, commit } = await loaded()
    const before = commit(row(1), row(1, 0, 2))
    // Watched anew under the same name: the catalog says so before the versions do.
    const again = windowOf(channel('u', table(3)))
    model.channels = [CHANNELS[0], again.channel]
    await hub.refresh()
    commit(row(2))
    expect(hub.follow([ALL, OTHER], at(hub.head), { deliver: () => true, overtaken: () => undefined })).toBe(false)
    const asked = hub.answer([ALL, OTHER], at(before))
    await settled()
    const born = model.startAnew(3)
    hub.accept(born)
    expect(await read(await asked)).toMatchObject({ since: null, version: born.number })
  })
})

describe('a whole state', () => {
  it('is read once for all who ask at the same time', async () => {
    const { hub, source, commit } = await loaded()
    commit(row(1))
    const gate = holdUp(source, 'state')
    const asked = Array.from({ length: 50 }, () => hub.answer([ALL], null))
    await settled()
    gate.open()
    const answers = await Promise.all((await Promise.all(asked)).map(read))
    expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1)
    expect(source.asked.state).toBe(1)
  })

  it('is read once more for all who need a later one than is being read', async () => {
    const { hub, model, source, commit } = await loaded()
    const last = commit(row(1))
    hub.accept(model.leap(5_000))
    const gate = holdUp(source, 'state')
    // The first has nothing; what the others hold was lost before the leap.
    const asked = [null, ...Array.from({ length: 50 }, () => at(last + 1))].map((cursor) => hub.answer([ALL], cursor))
    await settled()
    gate.open()
    await Promise.all(asked)
    expect(source.asked.state).toBe(2)
  })

  it('is kept until its table is touched, whatever happens to others', async () => {
    const { hub, source, commit } = await loaded()
    const version = commit(row(1))
    await hub.answer([ALL], null)
    commit(row(1, 1, 2))
    expect(await read(await hub.answer([ALL], null))).toMatchObject({ since: null, version })
    expect(source.asked.state).toBe(1)
    const next = commit(row(1, 5))
    const answer = await read(await hub.answer([ALL], null))
    expect(answer).toMatchObject({ since: null, version: next })
    expect(JSON.stringify(answer)).toContain('\\"v\\":5')
    expect(source.asked.state).toBe(2)
  })

  it('is not kept under a version that came while it was read', async () => {
    const { hub, source, commit } = await loaded()
    const version = commit(row(1))
    const gate = holdUp(source, 'state')
    const asked = hub.answer([ALL], null)
    await settled()
    const next = commit(row(1, 5))
    gate.open()
    expect(await read(await asked)).toMatchObject({ version })
    expect(await read(await hub.answer([ALL], null))).toMatchObject({ version: next })
  })

  it('is asked again when its definition changed while it was read: no version bears the wrong columns', async () => {
    const { hub, model, source, commit } = await loaded()
    commit(row(1))
    const gate = holdUp(source, 'state')
    const asked = hub.answer([ALL], null)
    await settled()
    model.channels = [{ ...CHANNELS[0], columns: [column('id', 'integer')] }, CHANNELS[1]]
    const born = model.startAnew(1)
    hub.accept(born)
    await settled()
    const version = commit(row(2))
    gate.open()
    expect(await read(await asked)).toEqual({ since: null, version, changes: '{"op":"upsert","key":{"id":2},"row":{"id":2}}' })
  })

  it('that cannot be read again and again is an error that says why, not a wait without end', async () => {
    const { hub, source } = await loaded()
    source.openState = () => Promise.reject(Object.assign(new Error('the table is not there any more'), { name: 'RangeLost' }))
    await expect(hub.answer([ALL], null)).rejects.toThrow('not there any more')
  })

  it('Bounded: of many megabytes is read once, and goes to each reader through a file', async () => {
    const { hub, model, source } = await loaded()
    for (let batch = 0; batch < 10; batch += 1) {
      hub.accept(model.commit(Array.from({ length: 10 }, (_, index) => ({ tableId: 1, row: { id: batch * 10 + index, g: 'x'.repeat(200_000), v: 0 } }))))
    }
    const answers = await Promise.all([hub.answer([ALL], null), hub.answer([ALL], null), hub.answer([ALL], null)])
    const [first, second, third] = answers as Delta[]
    expect(first && Array.isArray(first.parts)).toBe(false)
    if (third !== undefined) await discard(third)
    const bytes = await Promise.all([first, second].map(async (delta) => delta === undefined ? 0 : (await readDelta(delta)).changes.length))
    expect(bytes[0]).toBeGreaterThan(20_000_000)
    expect(bytes[1]).toBe(bytes[0])
    expect(source.asked.state).toBe(1)
    expect(hub.size.cacheBytes).toBeLessThan(1e6)
  })
})

describe('versions that arrive', () => {
  it('are counted once, in order, and never again', async () => {
    const { hub, model } = await loaded()
    const versions = [model.commit([row(1)]), model.commit([row(2)])]
    for (const version of [...versions, ...versions]) hub.accept(version)
    expect(hub.head).toBe(versions[1]?.number)
    expect(hub.size.ringVersions).toBe(2)
  })

  it('wait behind one that changes a definition until the catalog has been read', async () => {
    const { hub, model, source, commit } = await loaded()
    const before = hub.head
    model.channels = [{ ...CHANNELS[0], columns: [column('id', 'integer')] }, CHANNELS[1]]
    const gate = holdUp(source, 'catalog')
    hub.accept(model.startAnew(1))
    const last = commit(row(5))
    await settled()
    expect([hub.head, hub.arriving]).toEqual([before, last])
    gate.open()
    await settled()
    expect([hub.head, hub.arriving]).toEqual([last, last])
    expect(hub.channel('t').columns.map(({ name }) => name)).toEqual(['id'])
  })

  it('wait for the catalog as long as it takes', async () => {
    const { hub, model, source, errors } = await loaded()
    let failures = 2
    source.gate = () => failures-- > 0 ? Promise.reject(new Error('away')) : Promise.resolve()
    const version = model.startAnew(1)
    hub.accept(version)
    await expect.poll(() => hub.head).toBe(version.number)
    expect(errors).toHaveLength(2)
  })

  it('are not lost while everything is loaded anew', async () => {
    const { hub, model, source, commit } = await loaded()
    const gate = holdUp(source, 'catalog')
    const loading = hub.load()
    await settled()
    // Not in the catalog, which was asked before.
    const version = commit(row(1))
    gate.open()
    await loading
    expect(hub.head).toBe(version)
    expect(await read(await hub.answer([ALL], null))).toMatchObject({ version: model.head })
  })

  it('No ghost: are forgotten when everything is loaded anew because they were lost, also one that waits for its catalog', async () => {
    const { hub, model, source, errors } = await loaded()
    source.gate = () => Promise.reject(new Error('PostgreSQL has crashed'))
    hub.accept(model.startAnew(1))
    hub.accept(model.commit([row(1)]))
    await expect.poll(() => errors).toHaveLength(1)
    // Neither was flushed, and the next leader leaps.
    model.lose(2)
    source.gate = () => Promise.resolve()
    await hub.load()
    expect(hub.head).toBe(1_000)
    const leap = model.leap(2_000_000)
    hub.accept(leap)
    await expect.poll(() => hub.head).toBe(leap.number)
    expect(hub.size.ringVersions).toBe(1)
    expect((await read(await hub.answer([ALL], at(1_001)))).since).toBeNull()
  })

  it('are applied from where the later of two loads has read, whichever was asked for first', async () => {
    const { hub, model, source } = await loaded()
    const gate = holdUp(source, 'catalog')
    const first = hub.load()
    await settled()
    const version = model.commit([row(1)])
    const others = [hub.load(), hub.refresh(), hub.load()]
    gate.open()
    await Promise.all([first, ...others])
    expect(hub.head).toBe(version.number)
    expect(source.asked.catalog, 'one reading for all who asked before it began').toBe(3)
  })

  it('are told to those who follow after a load with the columns of its catalog', async () => {
    const { hub, model, commit } = await loaded()
    const told: string[] = []
    const follower = {
      deliver([delta]: readonly HeldDelta[]): boolean {
        told.push(String(delta?.parts[0]?.changes))
        return true
      },
      overtaken() { told.push('overtaken') },
    }
    expect(hub.follow([ALL], at(1_000), follower)).toBe(true)
    model.channels = [{ ...CHANNELS[0], columns: [column('id', 'integer')] }, CHANNELS[1]]
    await hub.load()
    expect(hub.follow([ALL], at(1_000), follower)).toBe(true)
    commit(row(1))
    expect(told).toEqual(['overtaken', '{"op":"upsert","key":{"id":1},"row":{"id":1}}'])
  })

  it('start another load when one has failed', async () => {
    const { hub, source, commit } = await loaded()
    source.gate = () => Promise.reject(new Error('away'))
    await expect(hub.load()).rejects.toThrow('away')
    source.gate = () => Promise.resolve()
    const version = commit(row(1))
    await settled()
    expect(hub.head).toBe(version)
  })
})
