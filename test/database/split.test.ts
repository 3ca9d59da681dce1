/** A range of the real log, split by filter value: the same bytes for each window as a reading of its own. */
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { DatabaseSource } from '../../src/clock/source.ts'
import type { ChangeRange, ChannelDefinition, Window } from '../../src/contract/change.ts'
import { createPool, type Pool } from '../../src/database/pool.ts'
import { Answerer } from '../../src/hub/answer.ts'
import { renderBatches } from '../../src/hub/parts.ts'
import { Ring } from '../../src/hub/ring.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { Ticker } from '../support/ticker.ts'

/** Counts how often the log is read. */
class CountingSource extends DatabaseSource {
  readings = 0

  override readChanges(range: ChangeRange): ReturnType<DatabaseSource['readChanges']> {
    this.readings += 1
    return super.readChanges(range)
  }
}

const GROUP = fc.constantFrom(`'a'`, `'b'`, `'ä"'`, 'null')
const PRICE = fc.constantFrom('1.5', '1.50', '2', '0.00', 'null')
const STATEMENT = fc.oneof(
  fc.tuple(GROUP, PRICE, fc.nat(9)).map(([g, price, digit]) => `insert into items select i * 10 + ${digit}, ${g}, ${price} from generate_series(0, 60) i on conflict (id) do update set grp = excluded.grp, price = excluded.price`),
  fc.tuple(GROUP, fc.nat(9)).map(([g, digit]) => `update items set grp = ${g} where id % 10 = ${digit}`),
  fc.tuple(PRICE, fc.nat(9)).map(([price, digit]) => `update items set price = ${price} where id % 10 >= ${digit}`),
  fc.constant(`update items set grp = case grp when 'a' then 'b' when 'b' then 'a' else grp end, price = price + 0.50`),
  fc.nat(9).map((digit) => `delete from items where id % 10 = ${digit}`),
  fc.nat(9).map((digit) => `update items set id = id + 1000 where id % 10 = ${digit} and id < 1000 and not exists (select from items other where other.id >= 1000)`),
)
const WINDOWS: readonly Readonly<Record<string, string>>[] = [
  { grp: '"a"' }, { grp: '"b"' }, { grp: '"ä\\""' }, { grp: '"nobody"' }, { price: '1.5' }, { price: '2' }, { price: '0' }, { price: '2.5' },
  { grp: '"a"', price: '1.5' }, { grp: '"b"', price: '2' },
]

describe.skipIf(!hasPostgres)('a range of the log', () => {
  let database: TestDatabase
  let ticker: Ticker
  let pool: Pool
  let source: CountingSource
  let channel: ChannelDefinition

  beforeAll(async () => {
    database = await createDatabase()
    ticker = await Ticker.start(database)
    pool = createPool({ url: database.url, max: 6, onError: () => undefined })
    source = new CountingSource(pool)
    await database.query(`create table items (id int primary key, grp text, price numeric(9,2)); select freshet.watch('items', filters => '{grp,price}')`)
    await ticker.tick()
    const found = (await source.readCatalog()).channels.find(({ name }) => name === 'items')
    if (found === undefined) throw new Error('no channel')
    channel = found
    return () => pool.end()
  })

  async function partsOf(window: Window, batches: AsyncIterable<readonly unknown[]>): Promise<readonly string[]> {
    const parts: string[] = []
    for await (const { changes } of renderBatches(window, batches as Parameters<typeof renderBatches>[1])) parts.push(changes.toString())
    return parts
  }

  it('is read once for all windows, each of which gets the bytes of a reading of its own', async () => {
    await fc.assert(fc.asyncProperty(fc.array(fc.array(STATEMENT, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 4 }), async (commits) => {
      const since = ticker.head
      for (const statements of commits) {
        await database.query(`begin; ${statements.join('; ')}; commit`)
        await ticker.tick()
      }
      const windows = WINDOWS.map((filters): Window => ({ channel, filters: new Map(Object.entries(filters)) }))
      const question = { since, version: ticker.head }
      const answerer = new Answerer({ source, cacheBytes: 1e6, versionAfter: ticker.versionAfter })
      const before = source.readings
      const answers = await Promise.all(windows.map(async (window) => {
        const { parts } = await answerer.deltaFromLog({ ...question, windows: [window] }, new Ring(0, new Map()))
        const texts: string[] = []
        for await (const { changes } of parts) texts.push(changes.toString())
        return texts
      }))
      expect(source.readings - before).toBe(1)
      for (const [index, window] of windows.entries()) {
        expect(answers[index]).toEqual(await partsOf(window, source.readChanges({ ...question, tableId: channel.table.id, isFiltered: true })))
      }
      answerer.clear()
    }), { seed: 5, numRuns: 12 })
  })
})
