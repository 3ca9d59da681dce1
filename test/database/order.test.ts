/** The place in the log: of one key always the order of commits, and nothing of it shows in the session of the host. */
import { describe, expect, it } from 'vitest'
import { fromLines, LATER_CHANGES, parseSnapshot } from '../../src/clock/log.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { foldedBy, readFolded } from '../support/folded.ts'
import { delayOf, startLeader, tableIdOf } from '../support/node.ts'
import { expectReplayEqualsTable, linesOf, rowsOf } from '../support/replay.ts'

/** What was told of each key, in the order of the log, must count up as the row did. */
async function expectCounted(database: TestDatabase, table: string): Promise<void> {
  const told = new Map<string, number>()
  for (const { row } of await linesOf(database, table)) {
    if (row === null || !row.startsWith('{')) continue
    const { id, n } = JSON.parse(row) as { readonly id: number; readonly n: number }
    expect(n, `the count of ${id} in ${table}`).toBeGreaterThan(told.get(String(id)) ?? 0)
    told.set(String(id), n)
  }
}

const COUNTED = '(id int primary key, part text not null default \'a\', n int not null)'
const PARTED = '(id int, part text default \'a\', n int not null, primary key (id, part)) partition by list (part)'

describe.skipIf(!hasPostgres)('the place in the log', () => {
  it('Harmless: takes no number that lastval() would tell, for the owner and for a role without rights on anything of ours', async () => {
    const database = await createDatabase()
    const writer = `writer_${Date.now()}`
    await database.query(`create table public.t (id serial primary key, v text); create table public.p (id int generated always as identity, v text, primary key (id, v)) partition by list (v);
      create table public.p_all partition of public.p default; select freshet.watch('public.t'), freshet.watch('public.p');
      create role ${writer}; grant select, insert, update, delete on public.t, public.p to ${writer}; grant usage on all sequences in schema public to ${writer}`)
    for (const role of ['none', writer]) {
      const session = await database.connect()
      await session.query(`set role ${role}`)
      await session.query(`begin; update public.t set v = v; delete from public.t where id < 0`)
      await expect(session.query('select lastval()')).rejects.toThrow('lastval is not yet defined in this session')
      await session.query('rollback')
      const { rows: [inserted] } = await session.query<{ id: number }>(`insert into public.t (v) values ('a') returning id`)
      const lastval = async (): Promise<number> => Number((await session.query<{ lastval: string }>('select lastval()')).rows[0]?.lastval)
      expect(await lastval()).toBe(inserted?.id)
      await session.query(`update public.t set v = 'b' where id = ${inserted?.id ?? 0}; insert into public.t values (1000 + ${inserted?.id ?? 0}, 'c'); delete from public.t where id > 1000`)
      expect(await lastval()).toBe(inserted?.id)
      const { rows: [parted] } = await session.query<{ id: number }>(`insert into public.p (v) values ('a') returning id`)
      await session.query(`update public.p set v = 'b'; delete from public.p`)
      expect(await lastval()).toBe(parted?.id)
    }
    await database.query(`drop owned by ${writer}; drop role ${writer}`)
  })

  it('Ordered: is the order of commits of each key, whoever writes at once: upserts, moves between partitions, savepoints, prepared transactions', { timeout: 120_000 }, async () => {
    const database = await createDatabase()
    await database.query(`select freshet.configure('wake', 'poll'); create table public.plain ${COUNTED}; create table public.parted ${PARTED};
      create table public.parted_a partition of public.parted for values in ('a'); create table public.parted_b partition of public.parted for values in ('b');
      select freshet.watch('public.plain'), freshet.watch('public.parted'); insert into public.parted select i, 'a', 1 from generate_series(1, 4) i`)
    await Promise.all(Array.from({ length: 8 }, async (_, writer) => {
      const client = await database.connect()
      for (let round = 0; round < 30; round += 1) {
        const id = 1 + (writer + round) % 4
        const step = (writer * 7 + round) % 4
        const upsert = `insert into public.plain values (${id}, 'a', 1) on conflict (id) do update set n = plain.n + 1`
        const move = `update public.parted set n = n + 1, part = case part when 'a' then 'b' else 'a' end where id = ${id}`
        // In one order, so that nobody waits for each other.
        await client.query(`begin; ${upsert}; savepoint s; ${upsert}; ${move}; rollback to s; ${move}`)
        if (step === 0) await client.query('rollback')
        else if (step === 1) await client.query(`prepare transaction 'p${writer}'`)
        else await client.query('commit')
        if (step === 1) await client.query(`commit prepared 'p${writer}'`)
      }
    }))
    for (const table of ['public.plain', 'public.parted']) {
      await expectCounted(database, table)
      expect(await rowsOf(database, table)).toHaveLength(4)
      await expectReplayEqualsTable(database, table)
    }
  })

  it('Poll = stream: is shared by transactions that ran side by side, whose changes memory and log put in the same order', async () => {
    const database = await createDatabase()
    await database.query(`create table public.t (id text primary key); select freshet.watch('public.t', filters => '{id}')`)
    const [node, tableId] = [await startLeader(database), await tableIdOf(database, 'public.t')]
    await delayOf(node, tableId, () => database.query(`insert into public.t values ('before')`))
    const since = node.versions.at(-1)?.number ?? 0
    const [first, second] = [await database.connect(), await database.connect()]
    // As two backends would write that have read the same place; the one that took its id first has the greater key.
    const write = (key: string): string => `insert into freshet.changes_0 (lsn, table_id, key, new_row) values ('FF/1', ${tableId}, '{"id":"${key}"}', '{"id":"${key}"}')`
    await first.query(`begin; ${write('z')}`)
    await second.query(`begin; ${write('a')}; ${write('c')}`)
    // And later in the log, but numbered first.
    await delayOf(node, tableId, () => database.query(`insert into freshet.changes_0 (lsn, table_id, key, new_row) values ('FF/A', ${tableId}, '{"id":"last"}', null)`))
    await delayOf(node, tableId, () => second.query('commit'))
    await delayOf(node, tableId, () => first.query('commit'))
    for (const isFiltered of [true, false]) {
      const range = { since, version: node.versions.at(-1)?.number ?? 0, tableId, isFiltered }
      const folded = await readFolded(node.source, range)
      expect(folded.map(({ key }) => key)).toEqual(['z', 'a', 'c', 'last'].map((id) => `{"id":"${id}"}`))
      expect(folded).toEqual(foldedBy(node.versions, range))
    }
  })

  it('is shared by changes of several tables with equal keys, which are folded apart', async () => {
    const database = await createDatabase()
    await database.query(`create table public.one (id int primary key); create table public.two (id int primary key); select freshet.watch('public.one'), freshet.watch('public.two')`)
    const [one, two] = [await tableIdOf(database, 'public.one'), await tableIdOf(database, 'public.two')]
    const [before] = await database.query<{ snapshot: string }>('select pg_current_snapshot()::text as snapshot')
    const write = (lsn: string, tableId: number, row: string): string => `insert into freshet.changes_0 (lsn, table_id, key, new_row) values ('${lsn}', ${tableId}, '{"id":1}', '${row}')`
    await database.query(`${write('FF/1', one, 'early')}; ${write('FF/2', one, 'late')}; ${write('FF/2', two, 'early')}; ${write('FF/3', two, 'late')}`)
    const [after] = await database.query<{ snapshot: string }>('select pg_current_snapshot()::text as snapshot')
    const { xmax, inProgress } = parseSnapshot(before?.snapshot ?? '')
    const [later] = await database.query<{ lines: string }>(LATER_CHANGES, [xmax, inProgress, after?.snapshot, [one, two], []])
    expect(fromLines(later?.lines ?? null).map(({ tableId, newRow }) => [tableId, newRow])).toEqual([[one, 'late'], [two, 'late']])
  })

  it('may be forgotten, also where a publication has all tables', async () => {
    const database = await createDatabase()
    await database.query(`create table public.t (id int primary key); select freshet.watch('public.t'); create publication everything for all tables; insert into public.t values (1)`)
    for (const table of ['changes_0', 'changes_1', 'versions', 'touched']) await database.query(`delete from freshet.${table}`)
    expect(await linesOf(database, 'public.t')).toEqual([])
  })

  it('tells lines of an unknown kind from those of a row and from a reset', async () => {
    const database = await createDatabase()
    await database.query(`create table public.t (id int primary key); select freshet.watch('public.t')`)
    const [node, tableId] = [await startLeader(database), await tableIdOf(database, 'public.t')]
    await delayOf(node, tableId, () => database.query(`insert into public.t values (0)`))
    const since = node.versions.at(-1)?.number ?? 0
    await delayOf(node, tableId, () => database.query(`begin; insert into freshet.changes_0 (table_id, kind, new_row, trace) values (0, 'x', 'to come', 'somebody');
      insert into public.t values (1); commit`))
    expect(node.versions.at(-1)).toMatchObject({ reset: [] })
    expect((await readFolded(node.source, { since, version: node.versions.at(-1)?.number ?? 0, tableId })).map(({ key }) => key)).toEqual(['{"id":1}'])
  })
})
