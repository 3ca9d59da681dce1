import { beforeAll, describe, expect, it, vi } from 'vitest'
import { DatabaseSource } from '../../src/clock/source.ts'
import { RangeLost, type StateReading, type Window } from '../../src/contract/change.ts'
import { createPool, dropConnections, type Pool, type PoolClient } from '../../src/database/pool.ts'
import { toApiError } from '../../src/errors.ts'
import { WindowRenderer } from '../../src/hub/fold.ts'
import { oneLine, splitChanges } from '../../src/hub/render.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { foldedBy, readFolded } from '../support/folded.ts'
import { startLeader } from '../support/node.ts'
import { Ticker } from '../support/ticker.ts'

describe.skipIf(!hasPostgres)('the source', () => {
  let database: TestDatabase
  let ticker: Ticker
  let pool: Pool
  let source: DatabaseSource
  /** However late the clock is, it keeps what it has locked. */
  let patient: DatabaseSource

  beforeAll(async () => {
    database = await createDatabase()
    ticker = await Ticker.start(database)
    // The smallest pool that may be configured.
    pool = createPool({ url: database.url, max: 6, onError: () => undefined })
    source = new DatabaseSource(pool)
    patient = new DatabaseSource(pool, { maxLockedMs: 60_000 })
    return () => pool.end()
  })

  let tables = 0

  /** A watched table of its own, (id int primary key, v int), with rows 1 to 5, all numbered. */
  async function watchedTable(): Promise<{ name: string; window: Window }> {
    tables += 1
    const name = `t${tables}`
    await database.query(`create table ${name} (id int primary key, v int not null); insert into ${name} select i, 0 from generate_series(1, 5) i`)
    await database.query('select freshet.watch($1::regclass)', [name])
    await ticker.tick()
    return { name, window: await windowOf(name) }
  }

  async function windowOf(name: string): Promise<Window> {
    const channel = (await source.readCatalog()).channels.find((candidate) => candidate.name === name)
    if (channel === undefined) throw new Error(`no channel ${name}`)
    return { channel, filters: new Map() }
  }

  async function runsOfLog(range: Parameters<DatabaseSource['readRuns']>[0]): Promise<readonly string[]> {
    const runs: string[] = []
    for await (const run of source.readRuns(range)) runs.push(run)
    return runs
  }

  /** The rows of a state, with what came later folded in, and closes it. */
  async function rowsOf(reading: StateReading, window: Window): Promise<readonly string[]> {
    const rows = new Map<string, string>()
    for await (const batch of reading.rows(window)) {
      for (const [key, row] of batch) rows.set(key, row)
    }
    for (const [key, { newRow }] of reading.later.get(window.channel.table.id) ?? []) {
      if (newRow === null) rows.delete(key)
      else rows.set(key, newRow)
    }
    await reading.close()
    return [...rows.values()].sort()
  }

  async function selected(name: string): Promise<readonly string[]> {
    return (await database.query<{ row: string }>(`select row_to_json(t.*)::text as row from ${name} t`)).map(({ row }) => row).sort()
  }

  /** Whether a promise is still waiting after the database has been asked twice more. */
  async function isWaiting(promise: Promise<unknown>): Promise<boolean> {
    let waits = true
    void promise.then(() => { waits = false }, () => { waits = false })
    await vi.waitUntil(async () => (await database.query(`select from pg_stat_activity where application_name = 'freshet:pool' and state = 'idle in transaction' and datname = current_database()`)).length > 0, { timeout: 20_000 })
    await database.query('select pg_sleep(0.02)')
    return waits
  }

  it('answers a state at once where everything it saw is numbered', async () => {
    const { name, window } = await watchedTable()
    const reading = await source.openState([window], ticker.versionAfter)
    expect(reading.version).toBe(ticker.head)
    expect(await rowsOf(reading, window)).toEqual(await selected(name))
  })

  it('Whole: waits with a state for the version of what it saw, and folds in what that version sees beyond', async () => {
    const { name, window } = await watchedTable()
    await database.query(`update ${name} set v = 1 where id = 1`)
    const opening = source.openState([window], ticker.versionAfter)
    expect(await isWaiting(opening)).toBe(true)
    await database.query(`update ${name} set v = 2 where id in (1, 2); delete from ${name} where id = 3; insert into ${name} values (6, 6)`)
    await database.query(`update ${name} set id = 7 where id = 4`)
    const version = await ticker.tick()
    const truth = await selected(name)
    const reading = await opening
    expect(reading.version).toBe(version?.number)
    expect(await rowsOf(reading, window)).toEqual(truth)
  })

  it('Independent: does not wait for a transaction whose rows it does not see, which comes in a later version', async () => {
    const { name, window } = await watchedTable()
    const open = await database.connect()
    await open.query(`begin; update ${name} set v = 9 where id = 1`)
    await database.query(`update ${name} set v = 1 where id = 2`)
    await ticker.tick()
    const truth = await selected(name)
    const reading = await source.openState([window], ticker.versionAfter)
    await open.query('commit')
    await ticker.tick()
    expect(await rowsOf(reading, window)).toEqual(truth)
    expect(await readFolded(source, { since: reading.version, version: ticker.head, tableId: window.channel.table.id })).toMatchObject([{ newRow: '{"id":1,"v":9}' }])
  })

  it('Whole: reads several tables at one version', async () => {
    const [one, two] = [await watchedTable(), await watchedTable()]
    await database.query(`begin; update ${one.name} set v = 1; update ${two.name} set v = 1; commit`)
    const opening = source.openState([one.window, two.window], ticker.versionAfter)
    expect(await isWaiting(opening)).toBe(true)
    await database.query(`begin; update ${one.name} set v = 2; update ${two.name} set v = 2; commit`)
    await ticker.tick()
    const reading = await opening
    const later = [one, two].map(({ window }) => [...reading.later.get(window.channel.table.id)?.values() ?? []].map(({ newRow }) => newRow).sort())
    expect(later).toEqual([await selected(one.name), await selected(two.name)])
    await reading.close()
  })

  it('reads every row behind an ALTER that rewrites the table', async () => {
    const { name, window } = await watchedTable()
    const altering = await database.connect()
    await altering.query(`begin; alter table ${name} alter column v type int using v + 0`)
    const opening = source.openState([window], ticker.versionAfter)
    await vi.waitUntil(async () => (await database.query(`select from pg_stat_activity where application_name = 'freshet:pool' and wait_event_type = 'Lock' and datname = current_database()`)).length > 0, { timeout: 20_000 })
    await altering.query(`insert into ${name} values (6, 6); commit`)
    expect(await isWaiting(opening)).toBe(true)
    await ticker.tick()
    expect(await rowsOf(await opening, window)).toEqual(await selected(name))
  })

  it('Harmless: lets the host alter and empty the table while a state waits for the clock', async () => {
    const { name, window } = await watchedTable()
    await database.query(`update ${name} set v = 1`)
    const opening = source.openState([window], ticker.versionAfter)
    expect(await isWaiting(opening)).toBe(true)
    await database.query(`truncate ${name}`)
    await database.query(`alter table ${name} alter column v type int using v + 0; insert into ${name} values (1, 7)`)
    await ticker.tick()
    expect(await rowsOf(await opening, window)).toEqual(['{"id":1,"v":7}'])
  })

  it('Bounded: does not hold in memory what a bulk load wrote while a state waited', async () => {
    const { name, window } = await watchedTable()
    await database.query(`update ${name} set v = 1`)
    const opening = source.openState([window], ticker.versionAfter)
    expect(await isWaiting(opening)).toBe(true)
    await database.query(`insert into ${name} select i, 0 from generate_series(10, 6000) i`)
    await ticker.tick()
    const outcome = await opening.then((reading) => rowsOf(reading, window), (error: unknown) => error)
    if (outcome instanceof RangeLost) expect(outcome.message).toContain('too much changed')
    else expect(outcome).toEqual(await selected(name))
    expect(await rowsOf(await source.openState([window], ticker.versionAfter), window)).toEqual(await selected(name))
  })

  it('Harmless: gives way rather than deadlock with a host that locks the tables the other way round', async () => {
    const [one, two] = [await watchedTable(), await watchedTable()]
    const host = await database.connect()
    await host.query(`begin; lock table ${two.name} in access exclusive mode`)
    const opening = source.openState([one.window, two.window], ticker.versionAfter)
    await vi.waitUntil(async () => (await database.query(`select from pg_stat_activity where application_name = 'freshet:pool' and wait_event_type = 'Lock' and datname = current_database()`)).length > 0, { timeout: 20_000 })
    await host.query(`lock table ${one.name} in access exclusive mode`)
    await host.query('commit')
    await (await opening).close()
  })

  it('Loud: refuses a state of a table that has started anew, was dropped, or whose name another one bears by now', async () => {
    const { name, window } = await watchedTable()
    await database.query(`update ${name} set v = 1`)
    const opening = patient.openState([window], ticker.versionAfter)
    expect(await isWaiting(opening)).toBe(true)
    await database.query(`select freshet.watch($1::regclass, filters => '{v}')`, [name])
    await ticker.tick()
    await expect(opening).rejects.toThrow('started anew')
    await database.query(`begin; alter table ${name} rename to old_${name}; create table ${name} (id int primary key, v int); insert into ${name} values (1, 666); commit`)
    await expect(source.openState([window], ticker.versionAfter)).rejects.toThrow(RangeLost)
    await database.query(`drop table ${name}`)
    await expect(source.openState([window], ticker.versionAfter)).rejects.toThrow(RangeLost)
  })

  it('reads four states at once and lets the others wait their turn, without a deadlock in the smallest pool', async () => {
    const tables = [await watchedTable(), await watchedTable(), await watchedTable()]
    for (const { name } of tables) await database.query(`update ${name} set v = 1`)
    // Each holds a connection, waits for a version and needs another connection to look for it.
    const openings = tables.flatMap((of) => Array.from({ length: 6 }, () => ({ of, opening: patient.openState([of.window], ticker.versionAfter) })))
    await vi.waitUntil(() => pool.totalCount - pool.idleCount === 4, { timeout: 20_000 })
    for (const { name } of tables) await database.query(`update ${name} set v = 2`)
    await ticker.tick()
    const truth = await selected(tables[0]?.name ?? '')
    expect(await Promise.all(openings.map(async ({ of, opening }) => rowsOf(await opening, of.window)))).toEqual(Array(18).fill(truth))
    await expect.poll(() => pool.idleCount).toBe(pool.totalCount)
  })

  it('Independent: answers another channel while readings of one are held up, of its state and of its log', async () => {
    const [busy, other] = [await watchedTable(), await watchedTable()]
    await database.query(`insert into ${busy.name} select i, 0 from generate_series(10, 3000) i`)
    await ticker.tick()
    const range = { since: ticker.head - 1, version: ticker.head, tableId: busy.window.channel.table.id, isFiltered: true }
    const logs = Array.from({ length: 10 }, () => source.readChanges(range)[Symbol.asyncIterator]())
    const asked = logs.map((log) => log.next())
    const states = Array.from({ length: 10 }, () => source.openState([busy.window], ticker.versionAfter))
    await asked[0]
    const reading = await source.openState([other.window], ticker.versionAfter)
    expect(await rowsOf(reading, other.window)).toEqual(await selected(other.name))
    const finished = states.map(async (state) => rowsOf(await state, busy.window))
    for (const [index, log] of logs.entries()) {
      await asked[index]
      await log.return?.()
    }
    expect((await Promise.all(finished)).map(({ length }) => length)).toEqual(Array(10).fill(2_996))
  })

  it('gives its place back when a state cannot be opened, or a reader leaves in the middle', async () => {
    const { name, window } = await watchedTable()
    const gone = { ...window, channel: { ...window.channel, table: { ...window.channel.table, name: 'public.no_such_table' } } }
    for (let attempt = 0; attempt < 6; attempt += 1) await expect(source.openState([gone], ticker.versionAfter)).rejects.toThrow(RangeLost)
    await database.query(`insert into ${name} select i, 0 from generate_series(10, 3000) i`)
    await ticker.tick()
    for (let attempt = 0; attempt < 6; attempt += 1) {
      for await (const batch of source.readChanges({ since: ticker.head - 1, version: ticker.head, tableId: window.channel.table.id, isFiltered: true })) {
        expect(batch.length).toBeGreaterThan(0)
        break
      }
    }
    const reading = await source.openState([window], ticker.versionAfter)
    expect(await rowsOf(reading, window)).toHaveLength(2_996)
  })

  it('Loud: a reading whose connection was given up between two questions has lost the database, which is no failure of ours', async () => {
    const { window } = await watchedTable()
    const own = createPool({ url: database.url, max: 6, onError: () => undefined })
    const reading = await new DatabaseSource(own).openState([window], () => Promise.reject(new Error('everything is numbered')))
    dropConnections(own)
    const error = await rowsOf(reading, window).catch((thrown: unknown) => thrown)
    expect(toApiError(error)).toMatchObject({ code: 'database_unreachable', cause: { message: 'Client was closed and is not queryable' } })
    await reading.close()
    await own.end()
  })

  it('Up: is not cut off by the host’s idle_session_timeout between two questions of one reading, however busy this process is', async () => {
    const { name, window } = await watchedTable()
    const since = ticker.head
    await database.query(`insert into ${name} select i, 0 from generate_series(10, 4000) i`)
    await ticker.tick()
    await database.query(`do $$ begin execute format('alter database %I set idle_session_timeout = 100', current_database()); end $$`)
    const own = createPool({ url: database.url, max: 6, onError: () => undefined })
    await own.query('select')
    const busy = setInterval(() => {
      const startedMs = performance.now()
      while (performance.now() - startedMs < 200);
    }, 1)
    try {
      const runs: string[] = []
      for await (const run of new DatabaseSource(own).readRuns({ since, version: ticker.head, tableId: window.channel.table.id })) runs.push(run)
      expect(changesOf(runs)).toHaveLength(3_991)
    } finally {
      clearInterval(busy)
      await database.query(`do $$ begin execute format('alter database %I reset idle_session_timeout', current_database()); end $$`)
      await own.end()
    }
  })

  it('reads the same changes from the log as memory folds, whatever the rows hold, and old filter values only where they are asked for', async () => {
    await database.query(`
      create table odd (id text primary key, v int not null, doc json, body text);
      insert into odd select 'row ' || i, i % 3 from generate_series(1, 40) i;
      select freshet.watch('odd', filters => '{v}')`)
    await ticker.tick()
    const { channel } = await windowOf('odd')
    const since = ticker.head
    const statements = [
      // What separates changes in a run, as text and in JSON; line breaks that a json column keeps.
      `update odd set body = e'\\x1e and \\x1f' where v = 0`, `update odd set doc = e'{"a" :\n [1,\t2], "b": "\\\\u001e"}' where v = 1`,
      `update odd set v = v + 1`, `update odd set v = v + 1 where v > 1`, `delete from odd where v = 2`, `insert into odd values (e'new \\x1f"', 1, null, '')`,
      // Longer than a run.
      `update odd set body = repeat('long ', 20000) where id < 'row 13'`, `update odd set id = 'other ' || id where v = 3`,
      // Of one insert, in the order of the keys.
      `insert into odd select k, 1 from unnest(array['z', 'B', 'a', 'ä', '"']) k`,
    ]
    for (const sql of statements) {
      await database.query(sql)
      await ticker.tick()
    }
    await ticker.tick()
    for (const isFiltered of [true, false]) {
      const range = { since, version: ticker.head, tableId: channel.table.id, isFiltered }
      const folded = await readFolded(source, range)
      expect(folded.map((change) => ({ ...change, oldFilters: [...change.oldFilters].sort() })))
        .toEqual(foldedBy(ticker.versions, range).map((change) => ({ ...change, oldFilters: [...change.oldFilters].sort() })))
      expect(folded.length).toBeGreaterThan(40)
      expect(folded.some(({ newRow }) => newRow === null)).toBe(true)
      expect(folded.some(({ oldFilters }) => oldFilters.length > 1)).toBe(isFiltered)
    }
    // What PostgreSQL writes as the contract has it is what is rendered here.
    const range = { since, version: ticker.head, tableId: channel.table.id }
    const renderer = new WindowRenderer({ channel, filters: new Map() })
    expect(renderer.takesLoggedRuns).toBe(true)
    expect((await runsOfLog(range)).map(oneLine).join(',')).toBe(foldedBy(ticker.versions, range).map((change) => renderer.change(change)).join(','))
  })

  it('Loud: rejects a range below the floor, an unknown version, and one that leaves the log while it is read', async () => {
    const { name, window } = await watchedTable()
    const since = ticker.head
    await database.query(`insert into ${name} select i, 0 from generate_series(10, 3000) i`)
    await ticker.tick()
    const range = { since, version: ticker.head, tableId: window.channel.table.id, isFiltered: true }
    expect(await readFolded(source, range)).toHaveLength(2_991)
    await expect(readFolded(source, { ...range, version: ticker.head + 1 })).rejects.toThrow(RangeLost)
    const read = async (): Promise<void> => {
      for await (const batch of source.readChanges(range)) {
        expect(batch.length).toBeGreaterThan(0)
        await database.query('update freshet.state set floor = $1', [ticker.head])
      }
    }
    await expect(read()).rejects.toThrow(RangeLost)
    await expect(readFolded(source, range)).rejects.toThrow(RangeLost)
    expect(await readFolded(source, { ...range, since: ticker.head })).toEqual([])
    await database.query('update freshet.state set floor = 0')
  })

  it('refuses a state whose log turned while the table was read', async () => {
    const { name, window } = await watchedTable()
    await database.query(`update ${name} set v = 1`)
    const opening = patient.openState([window], ticker.versionAfter)
    expect(await isWaiting(opening)).toBe(true)
    await database.query('update freshet.state set floor = $1', [ticker.head + 1])
    await ticker.tick()
    await expect(opening).rejects.toThrow('turned')
    await database.query('update freshet.state set floor = 0')
    await (await source.openState([window], ticker.versionAfter)).close()
  })

  describe('runs that PostgreSQL has written hold what the rows do', () => {
    /** Null: there are none. */
    async function runsOf(name: string): Promise<{ readonly runs: readonly string[]; readonly rows: readonly string[] } | null> {
      await ticker.tick()
      const window = await windowOf(name)
      const reading = await source.openState([window], ticker.versionAfter)
      const rows: string[] = []
      const opened = await reading.runs(window)
      const runs: string[] = []
      for await (const run of opened ?? []) runs.push(run)
      for await (const batch of reading.rows(window)) rows.push(...batch.map(([key, row]) => `{"op":"upsert","key":${key},"row":${row}}`))
      await reading.close()
      return opened === null ? null : { runs, rows }
    }

    it.each([
      ['of no rows', 'id int primary key', 'select where false'],
      ['of many pages', 'id int primary key, label text', `select i, 'row number ' || i from generate_series(1, 20000) i`],
      ['of the smallest rows', 'id int2 primary key', 'select i from generate_series(1, 5000) i'],
      ['of a key in parts, with names that must be quoted', `"a ""b'" text, t int, published int, "%s" int, primary key ("a ""b'", t)`, `select 'x"y' || i, i, null, 1 from generate_series(1, 10) i`],
      ['of numbers and times', 'id int8 primary key, n numeric, f float8, at timestamptz, d date, b bytea, j json, a int8[]',
        `select 9007199254740993 + i, 1.10, 'NaN', '-infinity', 'infinity', '\\xff00', E'{"a":\n1}', '{9007199254740993}' from generate_series(1, 10) i`],
    ])('%s', async (_, columns, rows) => {
      tables += 1
      const name = `runs${tables}`
      await database.query(`create table ${name} (${columns})`)
      await database.query('select freshet.watch($1::regclass)', [name])
      await ticker.tick()
      const since = ticker.head
      await database.query(`insert into ${name} ${rows}`)
      const read = await runsOf(name)
      expect(read?.runs.join(',')).toBe(read?.rows.join(','))
      const logged = await runsOfLog({ since, version: ticker.head, tableId: (await windowOf(name)).channel.table.id })
      // In another order: the log has the rows of one statement by their keys.
      expect(changesOf(logged).sort()).toEqual(changesOf(read?.rows ?? []).sort())
      for (const run of [...read?.runs ?? [], ...logged]) expect((JSON.parse(`[${run}]`) as unknown[]).length).toBeLessThanOrEqual(1_000)
    })

    it('after most rows were deleted, a column dropped and others moved', async () => {
      const name = 'runs_with_holes'
      await database.query(`create table ${name} (id int primary key, gone text, label text); insert into ${name} select i, 'x', repeat('y', i % 50) from generate_series(1, 9000) i`)
      await database.query(`alter table ${name} drop column gone; select freshet.watch('${name}'); delete from ${name} where id between 100 and 8000; update ${name} set label = 'moved' where id < 50`)
      const read = await runsOf(name)
      expect(read?.rows).toHaveLength(1_099)
      expect(read?.runs.join(',')).toBe(read?.rows.join(','))
    })

    describe('of so many pages that two connections read them', () => {
      const rows = Array.from({ length: 45_000 }, (_, index) => `{"op":"upsert","key":{"id":${index + 1}},"row":{"id":${index + 1},"label":"row ${index + 1}"}}`)
      let window: Window
      let clients: PoolClient[] = []
      const remember = (client: PoolClient): void => { clients.push(client) }

      beforeAll(async () => {
        await database.query(`create table spread (id int primary key, label text) with (fillfactor = 10);
          insert into spread select i, 'row ' || i from generate_series(1, 45000) i; select freshet.watch('spread')`)
        await ticker.tick()
        window = await windowOf('spread')
      })

      /** What is read while `meanwhile` happens after the first run, and which connections read. */
      async function read(meanwhile: (reader: PoolClient | undefined) => unknown = () => undefined): Promise<string> {
        const reading = await source.openState([window], ticker.versionAfter)
        clients = []
        pool.on('acquire', remember)
        const runs: string[] = []
        for await (const run of await reading.runs(window) ?? []) {
          runs.push(run)
          if (runs.length === 1) await meanwhile(clients[0])
        }
        pool.off('acquire', remember)
        await reading.close()
        return runs.join(',')
      }

      it('in order, with one snapshot', async () => {
        const other = await database.connect()
        expect(await read(() => other.query('delete from spread where id > 40000'))).toBe(rows.join(','))
        expect(clients).toHaveLength(1)
        await other.query(`insert into spread select i, 'row ' || i from generate_series(40001, 45000) i`)
        await ticker.tick()
        expect(splitChanges(await read()).sort()).toEqual(rows.toSorted())
        expect(pool.idleCount).toBe(pool.totalCount)
      })

      it('by the first alone where the second breaks, there is none to spare, or somebody waits to alter the table', async () => {
        const sorted = rows.toSorted()
        expect(splitChanges(await read((second) => database.query('select pg_terminate_backend($1)', [(second as unknown as { processID: number }).processID]))).sort()).toEqual(sorted)
        const taken = await Promise.all([1, 2].map(() => pool.connect()))
        expect(splitChanges(await read()).sort()).toEqual(sorted)
        expect(clients).toEqual([])
        for (const client of taken) client.release()
        const altering = await database.connect()
        const reading = await source.openState([window], ticker.versionAfter)
        const altered = altering.query('begin; lock table spread in access exclusive mode; commit')
        await vi.waitUntil(async () => (await database.query(`select from pg_locks where relation = 'spread'::regclass and not granted`)).length > 0, { timeout: 20_000 })
        const runs: string[] = []
        for await (const run of await reading.runs(window) ?? []) runs.push(run)
        await reading.close()
        await altered
        expect(changesOf(runs).sort()).toEqual(sorted)
        expect(pool.idleCount).toBe(pool.totalCount)
      })
    })

    it('of few pages where the pages are larger as JSON than on disk', async () => {
      // A page holds some fifty of these, and is half a megabyte of JSON.
      await database.query(`create table packed (id int primary key, label text); select freshet.watch('packed'); insert into packed select i, repeat('x', 10000) from generate_series(1, 1000) i`)
      const read = await runsOf('packed')
      expect(read?.runs.join(',')).toBe(read?.rows.join(','))
      const sizes = read?.runs.map(({ length }) => length) ?? []
      expect(sizes.length).toBeGreaterThan(3)
      expect(Math.max(...sizes), 'none of three pages').toBeLessThan(2.5 * (sizes[0] ?? 0))
    })

    it('but are not written where a value may be larger than a page, nor of a table in parts, nor through a filter', async () => {
      await database.query(`create table wide (id int primary key, label text); alter table wide alter label set storage external; select freshet.watch('wide')`)
      expect(await runsOf('wide')).not.toBeNull()
      await database.query(`insert into wide values (1, repeat('x', 100000))`)
      expect(await runsOf('wide')).toBeNull()
      await database.query(`create table parted (id int primary key) partition by range (id); create table parted_1 partition of parted for values from (0) to (10); select freshet.watch('parted')`)
      expect(await runsOf('parted')).toBeNull()
      await database.query(`create table sorted (id int primary key, grp text); select freshet.watch('sorted', filters => '{grp}')`)
      await ticker.tick()
      const window = { ...await windowOf('sorted'), filters: new Map([['grp', '"a"']]) }
      const reading = await source.openState([window], ticker.versionAfter)
      expect(await reading.runs(window)).toBeNull()
      await reading.close()
    })
  })
})

describe.skipIf(!hasPostgres)('under writers', () => {
  it('Whole: every state of a bank holds what it was founded with, and memory and log agree about every change', { timeout: 60_000 }, async () => {
    const database = await createDatabase()
    await database.query(`create table account (id int primary key, v int not null); insert into account select i, 100 from generate_series(1, 40) i; select freshet.watch('account')`)
    const node = await startLeader(database)
    const [channel] = (await node.source.readCatalog()).channels
    if (channel === undefined) throw new Error('no channel')
    const window = { channel, filters: new Map<string, string>() }
    let isOver = false
    const writers = Array.from({ length: 6 }, async (_, writer) => {
      const client = await database.connect()
      for (let round = writer * 7; !isOver; round += 13) {
        const [from, to] = [1 + round % 40, 1 + (round * 3 + 1) % 40].sort((a, b) => a - b)
        if (from === to) continue
        await client.query('begin')
        await client.query('update account set v = v - 1 where id = $1', [from])
        if (round % 5 === 0) await client.query('select pg_sleep(0.01)')
        await client.query('update account set v = v + 1 where id = $1', [to])
        await client.query(round % 7 === 0 ? 'rollback' : 'commit')
      }
    })
    const sums: number[] = []
    const versions: number[] = []
    for (let state = 0; state < 40; state += 1) {
      const reading = await node.source.openState([window], (number) => waitFor(node, number))
      const rows = new Map<string, number>()
      for await (const batch of reading.rows(window)) for (const [, row] of batch) add(rows, row)
      for (const { newRow } of reading.later.get(channel.table.id)?.values() ?? []) add(rows, newRow ?? '{}')
      await reading.close()
      sums.push([...rows.values()].reduce((sum, v) => sum + v, 0))
      versions.push(reading.version)
    }
    isOver = true
    await Promise.all(writers)
    expect(sums).toEqual(Array(40).fill(4_000))
    // A state read while nothing happened would prove nothing.
    expect(new Set(versions).size).toBeGreaterThan(10)
    expect(versions).toEqual([...versions].sort((a, b) => a - b))
    const known = [...new Set(versions)]
    for (const [index, since] of known.entries()) {
      const version = known[Math.min(known.length - 1, index + 1 + index % 5)] ?? since
      const range = { since, version, tableId: channel.table.id }
      expect(await readFolded(node.source, range)).toEqual(foldedBy(node.versions, range))
    }
  })
})

function changesOf(runs: readonly string[]): string[] {
  return runs.flatMap((run) => splitChanges(run))
}

function add(rows: Map<string, number>, row: string): void {
  const { id, v } = JSON.parse(row) as { id: number; v: number }
  rows.set(String(id), v)
}

async function waitFor(node: { readonly hub: { readonly head: number } }, number: number): Promise<number> {
  await vi.waitUntil(() => node.hub.head > number, { interval: 1, timeout: 30_000 })
  return node.hub.head
}
