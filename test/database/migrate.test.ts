import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { migrate, pendingMigrations, readMigrations } from '../../src/database/migrate.ts'
import { createPool, type Pool } from '../../src/database/pool.ts'
import { StartupError } from '../../src/errors.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'

async function withPool<T>(url: string, work: (pool: Pool) => Promise<T>): Promise<T> {
  const pool = createPool({ url, max: 2, onError: () => undefined })
  try {
    return await work(pool)
  } finally {
    await pool.end()
  }
}

const run = (database: TestDatabase) => withPool(database.url, migrate)

/** The refusal as the operator reads it. */
async function refusal(promise: Promise<unknown>): Promise<StartupError> {
  const error = await promise.then(() => undefined, (reason: unknown) => reason)
  if (!(error instanceof StartupError)) throw new Error(`expected a StartupError, got ${String(error)}`)
  return error
}

describe.skipIf(!hasPostgres)('migrate', async () => {
  if (!hasPostgres) return
  const names = (await readMigrations()).map(({ name }) => name)

  it('applies every migration once, and says which', async () => {
    const database = await createDatabase({ migrated: false })
    expect(await withPool(database.url, pendingMigrations)).toEqual(names)
    expect(await run(database)).toEqual(names)
    expect(await withPool(database.url, pendingMigrations)).toEqual([])
    expect(await run(database)).toEqual([])
    expect(await database.query('select name from freshet.migrations order by id')).toEqual(names.map((name) => ({ name })))
  })

  it('three at once apply each migration once', async () => {
    const database = await createDatabase({ migrated: false })
    const applied = await Promise.all([run(database), run(database), run(database)])
    expect(applied.flat().sort()).toEqual([...names].sort())
    expect(await database.query('select from freshet.migrations')).toHaveLength(names.length)
  })

  it('goes on where an older version stopped', async () => {
    const database = await createDatabase({ migrated: false })
    const [first] = await readMigrations()
    await database.query(first?.sql ?? '')
    await database.query('create table freshet.migrations (id int primary key, name text not null, checksum text not null)')
    await database.query('insert into freshet.migrations values ($1, $2, $3)', [first?.id, first?.name, first?.checksum])
    expect(await run(database)).toEqual(names.slice(1))
    expect(await withPool(database.url, pendingMigrations)).toEqual([])
  })

  it('a start that fails leaves nothing behind', async () => {
    const database = await createDatabase({ migrated: false })
    // The last of several: all of them are undone.
    await database.query(`create function public.forbid() returns event_trigger language plpgsql as $$ begin
      if exists (select from pg_event_trigger_ddl_commands() where object_identity like 'freshet.detect_drift%') then raise exception 'no such function here'; end if; end $$;
      create event trigger forbidding on ddl_command_end execute function public.forbid()`)
    const error = await refusal(run(database))
    expect(error.message).toContain('failed: no such function here')
    expect(error.message).toMatch(/^migration \d{4}_\w+\.sql failed/)
    expect(await database.query(`select from pg_namespace where nspname = 'freshet'`)).toEqual([])
    await database.query('drop event trigger forbidding')
    expect(await run(database)).toEqual(names)
  })

  it('is written in ASCII, and installs in a database of the encoding LATIN1', async () => {
    for (const { name, sql } of await readMigrations()) expect(sql, name).not.toMatch(/[^\x00-\x7f]/)
    const database = await createDatabase({ migrated: false })
    const latin = `latin_${Date.now()}`
    await database.query(`create database ${latin} template template0 encoding 'LATIN1' locale_provider 'libc' locale 'C'`)
    const url = new URL(database.url)
    url.pathname = `/${latin}`
    expect(await withPool(url.href, migrate)).toEqual(names)
    await database.query(`drop database ${latin}`)
  })

  it('with nothing to apply it waits for no open transaction, and writes nothing', async () => {
    const database = await createDatabase()
    const other = await database.connect()
    await other.query(`begin; lock table freshet.tables, freshet.changes_0, freshet.versions in access exclusive mode;
      select pg_advisory_xact_lock(hashtextextended('freshet.migrate', 0)), pg_advisory_xact_lock(hashtextextended('freshet.watch', 0)); lock table freshet.migrations in exclusive mode`)
    await expect(run(database)).resolves.toEqual([])
    await other.query('rollback')
  })

  it('refuses a database whose applied migrations read differently, and changes nothing', async () => {
    const database = await createDatabase()
    await database.query(`update freshet.migrations set checksum = 'other' where id = 2`)
    const error = await refusal(run(database))
    expect(error.message).toContain(`migration ${names[1] ?? ''} was applied with a different text`)
    expect(error.message).toContain('run the version of Freshet that applied it')
    expect(await database.query(`select from freshet.migrations where checksum = 'other'`)).toHaveLength(1)
  })

  it('refuses a database that is newer than the program', async () => {
    const database = await createDatabase()
    await database.query(`insert into freshet.migrations (id, name, checksum) values (9999, '9999_future.sql', 'x')`)
    const error = await refusal(run(database))
    expect(error.message).toContain('the database has migration 9999_future.sql, which this version of Freshet does not know')
    expect(error.message).toContain('run the newer version of Freshet')
  })

  it('a role that may not create the schema is told so, and what to do', async () => {
    const database = await createDatabase({ migrated: false })
    const role = `poor_${Date.now()}`
    await database.query(`create role ${role} login password 'poor'`)
    const url = new URL(database.url)
    url.username = role
    url.password = 'poor'
    const error = await refusal(withPool(url.href, migrate))
    expect(error.message).toContain('this role may not create the schema freshet (permission denied for database')
    expect(error.message).toContain('grant create on the database to it')
    expect(error.cause).toMatchObject({ code: '42501' })
    await database.query(`grant create on database ${url.pathname.slice(1)} to ${role}`)
    await expect(withPool(url.href, migrate)).resolves.toEqual(names)
    await database.query(`drop owned by ${role}; drop role ${role}`)
  })

  it('a database of the encoding SQL_ASCII is refused', async () => {
    const database = await createDatabase({ migrated: false })
    const name = `ascii_${Date.now()}`
    await database.query(`create database ${name} template template0 encoding 'SQL_ASCII' locale 'C'`)
    const url = new URL(database.url)
    url.pathname = `/${name}`
    const error = await refusal(withPool(url.href, migrate))
    expect(error.message).toContain('SQL_ASCII')
    await database.query(`drop database ${name}`)
  })

  describe('what others made under our name is refused before anything of it is called:', () => {
    const suffix = randomBytes(4).toString('hex')
    const squatter = `squatter_${suffix}`

    /** A database in which the squatter may create schemas, with what he made there; and what he made is not superuser afterwards. */
    async function squatted(sql: string): Promise<TestDatabase> {
      const database = await createDatabase({ migrated: false })
      await database.query(`do $$ begin
          if to_regrole('${squatter}') is null then create role ${squatter}; end if;
          execute format('grant create on database %I to ${squatter}', current_database());
        end $$`)
      await database.query(`set role ${squatter}; ${sql}; reset role`)
      return database
    }

    const TRAP = `create function freshet.trap() returns trigger language plpgsql as 'begin execute ''alter role ${squatter} superuser''; return new; end'`
    it.each([
      ['a schema of his own with a table of ours and a trigger', `create schema freshet; create table freshet.migrations (id int primary key, name text, checksum text, applied_at timestamptz default now()); ${TRAP};
        create trigger trap before insert on freshet.migrations for each row execute function freshet.trap()`],
      ['an empty schema', 'create schema freshet'],
      ['a view in the place of a table', `create schema freshet; create function freshet.evil() returns int language plpgsql as 'begin execute ''alter role ${squatter} superuser''; return 1; end';
        create view freshet.migrations as select freshet.evil() as id, ''::text as name, ''::text as checksum`],
    ])('%s', async (_, sql) => {
      const database = await squatted(sql)
      for (const question of [migrate, pendingMigrations]) {
        const error = await refusal(withPool(database.url, question))
        expect(error.message).toContain(`the schema freshet belongs to role ${squatter}`)
        expect(error.message + error.cure).toContain(`run Freshet as role ${squatter}`)
      }
      expect(await database.query(`select rolsuper from pg_roles where rolname = '${squatter}'`)).toEqual([{ rolsuper: false }])
    })

    it.each([
      ['a table', 'create table freshet.migrations (id int primary key, name text, checksum text)', 'table freshet.migrations'],
      ['a function', `create function freshet.mark(int, varchar) returns void language sql as ''`, 'function freshet.mark(integer,character varying)'],
      ['a type', `create type freshet.t as enum ('a')`, 'type freshet.t'],
      ['an operator', 'create operator freshet.= (function = int4eq, leftarg = int, rightarg = int)', 'operator freshet.=(integer,integer)'],
    ])('%s in a schema that an administrator made', async (_, sql, object) => {
      const database = await squatted('select')
      await database.query(`create schema freshet; grant create, usage on schema freshet to ${squatter}; set role ${squatter}; ${sql}; reset role; revoke create on schema freshet from ${squatter}`)
      const error = await refusal(run(database))
      expect(error.message).toContain(`the schema freshet holds ${object} of role ${squatter}, which Freshet did not make`)
      // Also later, where it may have been made while it was allowed.
      const installed = await createDatabase()
      await installed.query(`grant create, usage on schema freshet to ${squatter}`)
      expect((await refusal(withPool(installed.url, pendingMigrations))).message).toContain(`role ${squatter} may create objects in the schema freshet`)
    })

    it('a table of our own role that is none of ours', async () => {
      const database = await createDatabase({ migrated: false })
      await database.query('create schema freshet; create table freshet.state (id int)')
      expect((await refusal(run(database))).message).toContain('the schema freshet holds table freshet.state of role')
    })

    it('a superuser runs nothing of a schema that another role installed, who goes on', async () => {
      const database = await createDatabase({ migrated: false })
      const owner = `owner_${suffix}`
      await database.query(`create role ${owner} login password 'secret'; create schema freshet authorization ${owner}`)
      const url = new URL(database.url)
      url.username = owner
      url.password = 'secret'
      expect(await withPool(url.href, migrate)).toEqual(names)
      expect((await refusal(run(database))).message).toContain(`the schema freshet belongs to role ${owner}, and what it holds would run with the rights of role`)
      expect(await withPool(url.href, migrate)).toEqual([])
      await database.query('drop schema freshet cascade')
      await database.query(`drop role ${owner}`)
    })

    it('an advisory lock of a stranger keeps nobody from installing', async () => {
      const database = await createDatabase({ migrated: false })
      const other = await database.connect()
      await other.query(`select pg_advisory_lock(hashtextextended('freshet.migrate', 0)), pg_advisory_lock(hashtextextended('freshet.watch', 0))`)
      expect(await run(database)).toEqual(names)
    })
  })
})
