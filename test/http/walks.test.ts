/** Poll = stream, Resumable: whichever legal way a client takes through the transports, while others write, it ends in what SELECT returns. */
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { startTestServer, type PollBody, type TestServer } from '../support/server.ts'
import { openStream, Replica, type Delta } from '../support/sse.ts'

const SETUP = `
  create table public.items (id int primary key, grp text not null, n int not null default 0);
  insert into public.items select n, chr(97 + n % 2) from generate_series(1, 20) n;
  select freshet.watch('public.items', filters => '{grp}');`
const CHANGES = '/v1/channels/items/changes'

let server: TestServer
beforeAll(async () => { server = await startTestServer({ setup: SETUP }) })

type Step =
  | { readonly kind: 'write'; readonly sql: string }
  | { readonly kind: 'afresh' | 'since' | 'etag' | 'wait' | 'stream' | 'foreign' }
  | { readonly kind: 'pages'; readonly limit: number; readonly most: number }

/** One client: where it is, and what it was told that cannot be. */
class Walker {
  readonly replica = new Replica()
  readonly faults: string[] = []
  readonly #filter: string | null

  constructor(filter: string | null) {
    this.#filter = filter
  }

  async walk(steps: readonly Step[]): Promise<void> {
    for (const step of steps) await this.take(step)
  }

  async take(step: Step): Promise<void> {
    const since = this.replica.version
    switch (step.kind) {
      case 'write': await server.database.query(step.sql); break
      case 'afresh': await this.#begin({}); break
      case 'since': this.#apply(await this.#ask({ since })); break
      case 'wait': if (await this.#isBehind()) this.#apply(await this.#ask({ since, wait: '5' })); break
      // A cursor of another life of the database.
      case 'foreign': await this.#begin({ since: 'zzzz.7' }); break
      case 'etag': await this.#byEtag(); break
      case 'stream': await this.#listen(); break
      case 'pages': await this.#turnPages(step.limit, step.most); break
      default: step satisfies never
    }
  }

  async rows(): Promise<readonly unknown[]> {
    await this.take({ kind: 'since' })
    return [...this.replica.rows.values()].toSorted((a, b) => Number(a['id']) - Number(b['id']))
  }

  #query(parameters: Readonly<Record<string, string | null>>): string {
    const query = new URLSearchParams()
    for (const [name, value] of Object.entries({ ...parameters, grp: this.#filter })) if (value !== null) query.set(name, value)
    return `?${query.toString()}`
  }

  #ask(parameters: Readonly<Record<string, string | null>>): Promise<PollBody> {
    return server.poll('items', this.#query(parameters))
  }

  /** Who says that it holds nothing may share what was read for another a moment ago: its versions grow from there. */
  async #begin(parameters: Readonly<Record<string, string>>): Promise<void> {
    const state = await this.#ask(parameters)
    this.replica.version = null
    this.#apply(state)
  }

  async #isBehind(): Promise<boolean> {
    const { changes, reset } = await this.#ask({ since: this.replica.version })
    return reset || changes.length > 0
  }

  async #byEtag(): Promise<void> {
    const { version } = this.replica
    const response = await server.get(CHANGES + this.#query({}), version === null ? {} : { 'If-None-Match': `W/"${version}"` })
    if (response.status === 200) this.#apply(await response.json() as PollBody)
    else expect([response.status, response.headers.get('etag')]).toEqual([304, `W/"${version ?? ''}"`])
  }

  /** Until there is nothing more, or only some of them: then what came is dropped. */
  async #turnPages(limit: number, most: number): Promise<void> {
    let cursor = this.replica.version
    for (let turned = 0; turned < most; turned += 1) {
      const page = await this.#ask({ since: cursor, limit: String(limit) })
      this.#apply(page)
      if (page.next === undefined) break
      cursor = page.next
    }
    this.replica.disconnected()
  }

  /** Until what is known to have changed has come; then leaves. */
  async #listen(): Promise<void> {
    const { version } = this.replica
    const target = await this.#ask({ since: version })
    const isCurrent = target.changes.length === 0 && !target.reset
    const reader = await openStream(`${server.url}/v1/channels/items/stream${this.#query({})}`, version === null ? {} : { 'Last-Event-ID': version }, (delta) => this.#apply(delta))
    if (!isCurrent) await reader.delta((delta) => !delta.more && numberOf(delta.version) >= numberOf(target.version))
    reader.close()
    await reader.ended
    this.replica.disconnected()
  }

  #apply(delta: Delta): void {
    const from = this.replica.version
    if (delta.reset ? delta.since !== null : delta.since !== from) this.faults.push(`${String(delta.since)} to one at ${String(from)}`)
    if (numberOf(delta.version) < numberOf(from)) this.faults.push(`${delta.version} to one at ${String(from)}`)
    this.replica.apply(delta)
  }
}

const numberOf = (version: string | null): number => Number(version?.split('.')[1] ?? 0)

const id = fc.integer({ min: 1, max: 25 })
const sql = fc.oneof(
  fc.tuple(id, fc.constantFrom('a', 'b')).map(([at, grp]) => `insert into items values (${at}, '${grp}') on conflict (id) do update set grp = excluded.grp, n = items.n + 1`),
  id.map((at) => `delete from items where id = ${at}`),
  id.map((at) => `update items set n = n + 1 where id < ${at}`),
  id.map((at) => `update items set grp = case grp when 'a' then 'b' else 'a' end where id % 5 = ${at % 5}`),
  id.map((at) => `begin; delete from items where id = ${at}; insert into items values (${at}, 'a'); savepoint s; delete from items; rollback to s; commit`),
  id.map((at) => `begin; delete from items where id > ${at}; rollback`),
  fc.constant('truncate items'),
)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('write'), sql }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constantFrom('afresh', 'since', 'etag', 'wait', 'stream', 'foreign') }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('pages'), limit: fc.integer({ min: 1, max: 8 }), most: fc.integer({ min: 1, max: 6 }) }) },
)
const walk = fc.record({ filter: fc.constantFrom(null, 'a', 'b'), steps: fc.array(step, { minLength: 4, maxLength: 14 }) })

describe('a walk through the transports', () => {
  it('ends in what SELECT returns, whatever it was and whoever wrote meanwhile', { timeout: 60_000 }, async () => {
    await fc.assert(fc.asyncProperty(fc.array(walk, { minLength: 3, maxLength: 3 }), async (walks) => {
      const walkers = walks.map(({ filter }) => ({ filter, walker: new Walker(filter) }))
      await Promise.all(walkers.map(({ walker }, index) => walker.walk(walks[index]?.steps ?? [])))
      for (const { filter, walker } of walkers) {
        const truth = await server.database.query('select id, grp, n from items where grp = $1 or $1 is null order by id', [filter])
        await expect.poll(() => walker.rows(), { interval: 5 }).toEqual(truth)
        expect(walker.faults).toEqual([])
      }
    }), { seed: 20_260_302, numRuns: 25, interruptAfterTimeLimit: 15_000 })
  })
})
