/** `freshet check` on real databases, each with one thing wrong. */
import { createServer, connect as connectSocket, type Socket } from 'node:net'
import { once } from 'node:events'
import { afterEach, describe, expect, it } from 'vitest'
import { inspect } from '../../src/commands/check.ts'
import { describeFinding, type Finding } from '../../src/commands/findings.ts'
import { grantScript } from '../../src/commands/grants.ts'
import { readConfig, type Environment } from '../../src/config.ts'
import { migrate } from '../../src/database/migrate.ts'
import { createPool } from '../../src/database/pool.ts'
import { createDatabase, hasPostgres, postgresMajor, type TestDatabase } from '../support/database.ts'

const cleanups: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean()
})

async function check(url: string, environment: Environment = {}): Promise<readonly Finding[]> {
  const pool = createPool({ url, max: 2, onError: () => undefined })
  try {
    return await inspect({ pool, url, config: readConfig({ DATABASE_URL: url, ...environment }) })
  } finally {
    await pool.end()
  }
}

/** Warnings and problems as the command prints them. */
async function complaints(url: string, environment: Environment = {}): Promise<string> {
  const found = (await check(url, environment)).filter(({ level }) => level !== 'ok')
  return found.map((finding) => describeFinding(finding, (_style, text) => text)).join('\n')
}

/** A database whose cluster allows prepared transactions has one warning that most tests are not about. */
async function quiet(database: TestDatabase): Promise<TestDatabase> {
  await database.query(`select freshet.configure('wake', 'poll')`)
  return database
}

/** The URL of a new role that may log in, and its name. */
async function createRole(database: TestDatabase, attributes = ''): Promise<{ readonly name: string; readonly url: string }> {
  const name = `role_${Math.random().toString(36).slice(2)}`
  await database.query(`create role ${name} login password 'secret' ${attributes}`)
  cleanups.push(async () => {
    await database.query(`reassign owned by ${name} to current_user; drop owned by ${name}; drop role ${name}`)
  })
  const url = new URL(database.url)
  url.username = name
  url.password = 'secret'
  return { name, url: url.href }
}

describe.skipIf(!hasPostgres)('check', () => {
  it('Harmless: names a publication of all tables, whose subscribers would stop at ours, before and after they are there', async () => {
    const database = await createDatabase({ migrated: false })
    await database.query('create table public.items (id int primary key); create publication everything for all tables; create publication items for table public.items')
    const said = `warning  publication everything is FOR ALL TABLES and publishes Freshet's own tables as well: native subscribers, which have none of them, stop replicating\n`
      + '         cure: publish by schema or by table (create publication … for tables in schema public, or for table …, then on each subscriber: alter subscription … set publication …) and drop publication everything'
    expect(await complaints(database.url)).toContain(said)
    const slot = `freshet_${Math.random().toString(36).slice(2)}`
    await database.query(`select pg_create_logical_replication_slot('${slot}', 'pgoutput')`)
    cleanups.push(() => database.query(`select pg_drop_replication_slot('${slot}')`))
    expect(await complaints(database.url)).toContain(said.replace('warning', 'problem'))
    await database.query('drop publication everything')
    expect(await complaints(database.url)).not.toContain('publication')
  })

  it('names a publication that has been given a table of ours', async () => {
    const database = await createDatabase()
    await database.query('create publication ours for table freshet.versions')
    expect(await complaints(database.url)).toContain(`publication ours publishes Freshet's own tables as well`)
  })

  it('has nothing to complain of in a database that is as it should be', async () => {
    const database = await quiet(await createDatabase())
    await database.query(`create table public.items (id int primary key); select freshet.watch('public.items')`)
    const findings = await check(database.url)
    expect(findings.filter(({ level }) => level !== 'ok')).toEqual([])
    const texts = findings.map(({ text }) => text)
    expect(texts).toContain('public.items is captured for items')
    expect(texts).toContain('sessions stay whole on DATABASE_URL')
    expect(texts).toContain('notifications arrive on DATABASE_URL')
    expect(texts).toContain('the schema is up to date')
    expect(texts.some((text) => text.startsWith(`PostgreSQL ${postgresMajor}.`))).toBe(true)
  })

  it('looks at a database where nothing is installed, and changes nothing there', async () => {
    const database = await createDatabase({ migrated: false })
    const findings = await check(database.url)
    expect(findings.filter(({ level }) => level === 'problem')).toEqual([])
    expect(findings.at(-1)?.text).toContain('is not installed yet, and role postgres may create it')
    expect(await database.query(`select from pg_namespace where nspname = 'freshet'`)).toHaveLength(0)
  })

  it('warns of prepared transactions only while writers notify', async () => {
    const database = await createDatabase()
    expect(await complaints(database.url)).toContain(`cure: if one does: select freshet.configure('wake', 'poll')`)
    await quiet(database)
    expect(await complaints(database.url)).toBe('')
  })

  it('names the grant that a role lacks to install', async () => {
    const database = await createDatabase({ migrated: false })
    const { name, url } = await createRole(database)
    expect(await complaints(url)).toMatch(new RegExp(`problem {2}the schema freshet is not installed, and role ${name} may not create it\n +cure: grant create on database test_\\w+ to ${name}, or create schema freshet authorization ${name}`))
  })

  it('installs into a schema that an administrator made for a role without the right to create one', async () => {
    const database = await createDatabase({ migrated: false })
    const { name, url } = await createRole(database)
    await database.query('create schema freshet')
    expect(await complaints(url)).toContain(`cure: alter schema freshet owner to ${name}`)
    await database.query(`alter schema freshet owner to ${name}`)
    expect((await check(url)).filter(({ level }) => level === 'problem')).toEqual([])
    const pool = createPool({ url, max: 1, onError: () => undefined })
    cleanups.push(() => pool.end())
    await migrate(pool)
    expect((await check(url)).filter(({ level }) => level === 'problem')).toEqual([])
  })

  it('sees a schema of the same name that is not ours', async () => {
    const database = await createDatabase({ migrated: false })
    await database.query('create schema freshet; create table freshet.fish (id int primary key)')
    expect(await complaints(database.url)).toContain(`a schema called freshet is there, and it is not Freshet's`)
  })

  it('sees a schema that another role has made, and judges nothing by what is in it', async () => {
    const [empty, trapped] = [await createDatabase({ migrated: false }), await createDatabase({ migrated: false })]
    const { name } = await createRole(empty)
    await empty.query(`create schema freshet authorization ${name}`)
    await trapped.query(`create schema freshet authorization ${name}; create view freshet.migrations as select 1 as id; create table freshet.settings (name text); alter table freshet.settings owner to ${name}`)
    cleanups.push(async () => { await trapped.query(`drop schema freshet cascade; reassign owned by ${name} to current_user; drop owned by ${name}`) })
    expect(await complaints(empty.url)).toContain(`problem  the schema freshet belongs to role ${name}, and what it holds would run with the rights of role postgres\n         cure: run Freshet as role ${name}`)
    expect(await complaints(trapped.url)).toContain(`the schema freshet belongs to role ${name}`)
    await trapped.query('drop view freshet.migrations; create table freshet.migrations (id int, name text, checksum text)')
    expect(await complaints(trapped.url)).toContain(`the schema freshet belongs to role ${name}`)
    await expect(grantScript(trapped.pool, name)).rejects.toThrow(`the schema freshet belongs to role ${name}`)
  })

  it('sees migrations that are not applied, and ones that a newer version applied', async () => {
    const database = await quiet(await createDatabase())
    await database.query('create table kept as select * from freshet.migrations; delete from freshet.migrations where id = (select max(id) from kept)')
    expect(await complaints(database.url)).toMatch(/warning {2}not applied yet: \d{4}_\w+\.sql\n +cure: start the server, or run "freshet migrate"$/)
    expect(await complaints(database.url, { MIGRATE: '0' })).toMatch(/problem {2}not applied yet/)
    await database.query(`insert into freshet.migrations select * from kept where id = (select max(id) from kept);
      insert into freshet.migrations values (9999, '9999_future.sql', '')`)
    expect(await complaints(database.url)).toContain('the database has migration 9999_future.sql')
  })

  it('finds channels and filters whose names are reserved by now', async () => {
    const database = await quiet(await createDatabase())
    await database.query(`create table public.items (id int primary key, token text); select freshet.watch('public.items');
      update freshet.channels set name = 'freshet.items', filters = '{token}'`)
    expect(await complaints(database.url)).toMatch(/^problem {2}channel freshet\.items: names that begin with freshet\. are reserved\n.*\nproblem {2}channel freshet\.items filters by token, which is a parameter of the API/)
  })

  it('needs to ask for the place in the WAL', async () => {
    const database = await quiet(await createDatabase())
    const { name, url } = await createRole(database)
    expect(await complaints(url)).not.toContain('place in the WAL')
    await database.query('revoke execute on function pg_current_wal_insert_lsn() from public')
    expect(await complaints(url)).toMatch(new RegExp(`problem {2}the place in the WAL cannot be asked for, .*: permission denied for function pg_current_wal_insert_lsn\n +cure: grant execute on function pg_current_wal_insert_lsn\\(\\) to ${name}`))
  })

  it('gives the statement that mends a disabled or missing trigger, and the statement does', async () => {
    const database = await quiet(await createDatabase())
    await database.query(`create table public.items (id int primary key, "group" text, note text);
      select freshet.watch('public.items', channel => 'things', filters => '{group}', columns => '{note}', public => false)`)
    for (const harm of ['alter table public.items disable trigger freshet_update_1', 'drop trigger freshet_truncate_1 on public.items']) {
      await database.query(harm)
      const found = (await check(database.url)).filter(({ level }) => level === 'problem')
      expect(found).toHaveLength(1)
      expect(found[0]?.text).toMatch(/^channel things does not capture public\.items: trigger freshet_(update_1 on public\.items is disabled|truncate_1 is missing on public\.items)$/)
      const cure = found[0] !== undefined && 'cure' in found[0] ? found[0].cure : ''
      await database.query(cure.slice(cure.indexOf('select ')))
      expect(await complaints(database.url)).toBe('')
    }
    expect(await database.query(`select columns, filters, public from freshet.channels`)).toEqual([{ columns: ['id', 'note'], filters: ['group'], public: false }])
  })

  it('names parked channels with their reason, and tables that are gone', async () => {
    const database = await quiet(await createDatabase())
    await database.query(`create table public.items (id int primary key); select freshet.watch('public.items'); create table public.gone (id int primary key); select freshet.watch('public.gone')`)
    await database.query('alter table public.items enable row level security; drop table public.gone')
    await database.query('select freshet.detect_drift()')
    const text = await complaints(database.url)
    expect(text).toMatch(/problem {2}channel items does not capture public\.items: .*row-level security.*\(parked\)/)
    expect(text).toContain('problem  channel gone: the table public.gone was dropped\n         cure: freshet unwatch gone')
    await database.query('alter table public.items disable row level security')
    expect(await complaints(database.url)).toMatch(/warning {2}channel items is parked: .*which is mended by now/)
  })

  it('names every grant that a role of a server lacks, one at a time', async () => {
    const database = await quiet(await createDatabase())
    await database.query(`create schema shop; create table shop.items (id int primary key); select freshet.watch('shop.items')`)
    const { name, url } = await createRole(database)
    expect(await complaints(url)).toContain(`problem  role ${name} may not use the schema freshet\n         cure: run "freshet check --grants ${name}" as its owner, for all that the role needs`)
    const grants = (await grantScript(database.pool, name)).filter((line) => line.startsWith('grant '))
    await database.query(grants.join('\n'))
    expect(await complaints(url)).toBe('')
    // Connecting is everybody's, and the schema itself was tried above.
    for (const grant of grants.filter((line) => !line.includes(' on database ') && !line.includes('on schema freshet'))) {
      await database.query(grant.replace('grant ', 'revoke ').replace(/ to (\S+);$/, ' from $1, public;'))
      const found = (await check(url)).filter(({ level }) => level === 'problem')
      expect(found, grant).toHaveLength(1)
      expect(found[0], grant).toMatchObject({ cure: expect.stringContaining(grant.replace(';', '')) as string })
      await database.query(grant)
    }
  })

  it('counts the connections that a server may take', async () => {
    const database = await quiet(await createDatabase())
    const { name, url } = await createRole(database, 'connection limit 8')
    expect(await complaints(database.url, { POOL_MAX: '900' })).toMatch(/problem {2}max_connections leaves \d+ connections, and one server takes up to 902 \(POOL_MAX \+ 2\)/)
    expect(await complaints(url)).toContain(`role ${name} may have 8 connections, and one server takes up to 12\n         cure: alter role ${name} connection limit 12, or lower POOL_MAX`)
    await database.query(`alter role ${name} connection limit -1; alter database ${new URL(database.url).pathname.slice(1)} connection limit 9`)
    expect(await complaints(url)).toContain('takes 9 connections, and one server up to 12')
  })

  it('complains of a role whose transactions are read only', async () => {
    const database = await quiet(await createDatabase())
    const { name, url } = await createRole(database)
    await database.query(`alter role ${name} set default_transaction_read_only = on`)
    expect(await complaints(url)).toContain(`cure: alter role ${name} set default_transaction_read_only = off`)
  })

  it('warns of a role called like the schema until its search_path is set', async () => {
    const database = await quiet(await createDatabase())
    await database.query('create role freshet login')
    cleanups.push(() => database.query('drop role freshet'))
    expect(await complaints(database.url)).toContain('cure: alter role freshet set search_path = public')
    await database.query('alter role freshet set search_path = public')
    expect(await complaints(database.url)).toBe('')
  })

  it('refuses a database whose text may be of any encoding', async () => {
    const database = await createDatabase({ migrated: false })
    await database.query(`create database ascii_${postgresMajor} template template0 encoding 'SQL_ASCII' locale 'C'`)
    cleanups.push(() => database.query(`drop database ascii_${postgresMajor} with (force)`))
    const url = new URL(database.url)
    url.pathname = `/ascii_${postgresMajor}`
    expect(await complaints(url.href)).toContain('cure: use a database with the encoding UTF8')
  })

  it('says how large the log is, and what keeps it large', async () => {
    const database = await quiet(await createDatabase())
    await database.query(`create table public.items (id int primary key, note text); select freshet.watch('public.items')`)
    await database.query(`insert into public.items select i, repeat(md5(i::text), 50) from generate_series(1, 3000) i`)
    expect((await check(database.url)).map(({ text }) => text)).toContainEqual(expect.stringMatching(/^the log holds \d\.\d MB \(RETENTION_BYTES 1000 MB\)$/))
    expect(await complaints(database.url, { RETENTION_BYTES: '1000000' })).toContain('far more than RETENTION_BYTES (1.0 MB)')
    const writer = await database.connect()
    await writer.query('begin; select pg_current_xact_id()')
    await database.query('update freshet.state set turn_fence = pg_current_xact_id()')
    expect(await complaints(database.url, { RETENTION_BYTES: '1000000' })).toMatch(/an open transaction keeps it from being emptied \(process \d+, open since .*\)\n +cure: end that transaction/)
    await writer.query('rollback')
    await database.query(`select setval('freshet.abandoned_after', 1)`)
    expect(await complaints(database.url)).toContain('no server has run for a day, so changes are no longer captured')
  })

  it('knows that a subscription writes a watched table', async () => {
    const [publisher, database] = [await createDatabase({ migrated: false }), await quiet(await createDatabase())]
    await publisher.query('create table public.items (id int primary key); create publication everything for all tables')
    await database.query(`create table public.items (id int primary key); select freshet.watch('public.items')`)
    // Nothing need flow: the catalog says it.
    const name = `subscription_${Math.random().toString(36).slice(2)}`
    await publisher.query(`select pg_create_logical_replication_slot('${name}', 'pgoutput')`)
    const source = new URL(publisher.url)
    await database.query(`create subscription ${name} connection 'host=${source.hostname} port=${source.port} user=${source.username} password=${source.password} dbname=${source.pathname.slice(1)}'
      publication everything with (create_slot = false, copy_data = false)`)
    cleanups.push(() => database.query(`drop subscription ${name}`))
    expect((await check(database.url)).map(({ text }) => text)).toContain(`public.items is captured for items; rows that subscription ${name} applies are captured one by one`)
  })

  it('finds a transaction pooler in the way, of the pool and of LISTEN', async () => {
    const database = await quiet(await createDatabase())
    const pooled = await startForgetfulProxy(database.url)
    const text = await complaints(pooled)
    expect(text).toContain('settings and prepared statements of a session do not survive from one statement to the next on DATABASE_URL: a transaction pooler is in between')
    expect(text).toContain('a notification did not arrive within 1 s on DATABASE_URL')
    expect(await complaints(database.url, { LISTEN_URL: pooled })).toBe('problem  a notification did not arrive within 1 s on LISTEN_URL: a transaction pooler is in between\n         cure: let LISTEN_URL point at PostgreSQL itself')
  })
})

/**
 * What a transaction pooler does to a session, without the pooler: whenever no transaction is open, the session is handed on,
 * so that nothing set in it is there for the next statement.
 */
async function startForgetfulProxy(databaseUrl: string): Promise<string> {
  const target = new URL(databaseUrl)
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = connectSocket(Number(target.port), target.hostname)
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => undefined).on('close', () => { client.destroy(); upstream.destroy() })
    }
    forgetBetweenTransactions(client, upstream)
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  cleanups.push(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  const address = server.address()
  const url = new URL(databaseUrl)
  url.host = `127.0.0.1:${typeof address === 'object' ? address?.port ?? 0 : 0}`
  return url.href
}

function forgetBetweenTransactions(client: Socket, upstream: Socket): void {
  const statement = Buffer.from('discard all\0')
  const discard = Buffer.concat([Buffer.from('Q'), Buffer.alloc(4), statement])
  discard.writeInt32BE(statement.length + 4, 1)
  let isForgetting = false
  let pending = Buffer.alloc(0)
  client.on('data', (chunk) => upstream.write(chunk))
  upstream.on('data', (chunk: Buffer) => {
    pending = Buffer.concat([pending, chunk])
    while (pending.length >= 5 && pending.length > pending.readInt32BE(1)) {
      const message = pending.subarray(0, pending.readInt32BE(1) + 1)
      pending = pending.subarray(message.length)
      const isReady = message[0] === 0x5a
      if (isForgetting) {
        // The answer to our own statement is ours, but for the last message, which the client has been waiting for.
        if (!isReady) continue
        isForgetting = false
        client.write(message)
      } else if (isReady && message[5] === 0x49) {
        isForgetting = true
        upstream.write(discard)
      } else client.write(message)
    }
  })
}

describe.skipIf(!hasPostgres)('the way to the server', () => {
  it('tells a standby from a primary', async () => {
    const database = await createDatabase()
    // One that only says so: a real one would take longer to make than all other tests together.
    const pool = createPool({ url: database.url, max: 2, onError: () => undefined })
    cleanups.push(() => pool.end())
    const query = pool.query.bind(pool)
    Object.assign(pool, { query: (text: string) => query(text.replace('pg_is_in_recovery()', 'true')) })
    const findings = await inspect({ pool, url: database.url, config: readConfig({ DATABASE_URL: database.url }) })
    expect(findings.at(-1)).toEqual({ level: 'problem', text: 'this server is a standby: nothing can be written, and LISTEN does not work', cure: 'point DATABASE_URL at the primary' })
  })
})
