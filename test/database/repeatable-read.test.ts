import { describe, it } from 'vitest'
import { createDatabase, hasPostgres } from '../support/database.ts'
import { expectReplayEqualsTable } from '../support/replay.ts'

const TWICE = `update public.t set v = '51' where v = '50'; select from public.t where v = '51' for update; update public.t set v = '52' where v = '51'`

describe.skipIf(!hasPostgres)('a snapshot that still sees what another has deleted', () => {
  for (const level of ['repeatable read', 'serializable']) {
    it(`Harmless: does not fail the host's insert of the same key (${level})`, async () => {
      const database = await createDatabase()
      await database.query(`create table public.t (id int primary key, v text);
        create function again() returns trigger language plpgsql as $$ begin return null; end $$;
        create trigger again after insert on public.t for each statement execute function again();
        select freshet.watch('public.t'); insert into public.t values (1, 'old'), (2, 'two')`)
      const host = await database.connect()
      await host.query(`begin isolation level ${level}; select from public.t`)
      await database.query('delete from public.t where id = 1')
      await host.query(`insert into public.t values (1, 'new')`)
      await host.query('commit')
      await expectReplayEqualsTable(database, 'public.t')
    })

    it(`No ghost: does not bring it back when the same key comes and goes (${level})`, async () => {
      const database = await createDatabase()
      await database.query(`create table public.t (id int primary key, v text); select freshet.watch('public.t'); insert into public.t values (1, 'old'), (2, 'two')`)
      const host = await database.connect()
      await host.query(`begin isolation level ${level}; select from public.t`)
      await database.query('delete from public.t where id = 1')
      await host.query(`savepoint s; insert into public.t values (1, 'new'); release s; update public.t set id = 3 where v = 'new'; commit`)
      await expectReplayEqualsTable(database, 'public.t')
    })
  }

  it.each([
    ['another has deleted', `insert into public.t values (1, 50)`, `select from public.t where v = '50' for update; update public.t set v = '51' where v = '50'`],
    ['another has deleted, twice', `insert into public.t values (1, 50)`, `delete from public.t where v = '50'; insert into public.t values (1, 60); delete from public.t where v = '60'`],
    ['comes and goes', `insert into public.t values (1, 50)`, `insert into public.t values (2, 60); delete from public.t where v = '50'`],
    // Locked, so that the trigger cannot tell by the row that it is the last one.
    ['is ours', `insert into public.t values (1, 50)`, TWICE], ['is ours by a savepoint', `savepoint s; insert into public.t values (1, 50)`, `${TWICE}; release s`],
  ])('Harmless, No ghost: nor where the transaction had its id before its snapshot, so that younger ones are seen: a key that %s', async (_, first, last) => {
    const database = await createDatabase()
    await database.query(`create table public.t (id int primary key, v text); create table public.other (); select freshet.watch('public.t')`)
    const host = await database.connect()
    await host.query('begin isolation level repeatable read; lock table public.other in access exclusive mode')
    await database.query(`insert into public.t values (1, 'theirs')`)
    await host.query('select from public.t')
    await database.query('delete from public.t where id = 1')
    await host.query(first)
    await host.query(`${last}; commit`)
    await expectReplayEqualsTable(database, 'public.t')
  })
})
