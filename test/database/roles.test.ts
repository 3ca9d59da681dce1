import { describe, expect, it } from 'vitest'
import { hasExtension, hasPostgres } from '../support/database.ts'
import { captured, expectReplayEqualsTable, linesOf } from '../support/replay.ts'
import { createRoleDatabase } from '../support/roles.ts'

describe.skipIf(!hasPostgres)('roles', async () => {
  if (!hasPostgres) return
  const { database, server, app, stranger, connectAs } = await createRoleDatabase()
  const owner = await connectAs(app)
  const attacker = await connectAs(stranger)
  const hasCitext = await hasExtension(database, 'citext')
  await owner.query(`create table app.orders (id int primary key, v text, secret text)`)
  await attacker.query(`create table lair.bait (id int primary key, v text, secret text)`)

  it('a table owner who owns nothing of Freshet watches and unwatches with the documented grant', async () => {
    await owner.query(`select freshet.watch('app.orders', filters => '{v}', columns => '{v}', public => false)`)
    expect(await captured(database, 'app.orders', () => owner.query(`insert into app.orders values (1, 'a', 's')`))).toEqual(['{"id":1} → {"id":1,"v":"a"}'])
    await owner.query(`create table app.brief (id int primary key); select freshet.watch('app.brief'), freshet.unwatch('brief'); drop table app.brief`)
  })

  it('a writer needs no right on anything of Freshet, and gains none', async () => {
    await owner.query(`grant usage on schema app to ${stranger}; grant insert on app.orders to ${stranger}`)
    expect(await captured(database, 'app.orders', () => attacker.query(`insert into app.orders values (2, 'b', 's')`))).toHaveLength(1)
    for (const sql of ['select from freshet.changes', 'select from freshet.channels', 'delete from freshet.changes_0', `select setval('freshet.slot', 1)`]) {
      await expect(attacker.query(sql)).rejects.toThrow('permission denied')
    }
  })

  it('a role that lacks select for the schema owner is told the grants', async () => {
    await owner.query(`create table app.closed (id int primary key); revoke all on app.closed from ${server}`)
    await expect(owner.query(`select freshet.watch('app.closed')`)).rejects.toMatchObject({
      code: '42501', message: `cannot watch app.closed: role ${server} may not read it`,
      hint: `grant usage on schema app to ${server}; grant select on app.closed to ${server};`,
    })
  })

  it('a role that does not own the table is refused, also by the helper functions called directly', async () => {
    const before = await database.query('select channels, tables.fingerprint, tables.parked from freshet.channels join freshet.tables on tables.id = table_id')
    const lines = await linesOf(database, 'app.orders')
    const { rows: [table] } = await database.pool.query<{ id: number }>(`select id from freshet.tables where relation = 'app.orders'::regclass`)
    const id = table?.id ?? 0
    for (const call of [
      `watch('app.orders')`, `watch('app.orders', 'mine')`, `unwatch('orders')`, `define_channel('app.orders', 'orders', '{}', null, true)`,
      `prepare_capture('app.orders')`, `seal('app.orders')`, `forget_channel('orders')`, `forget_table('app.orders')`,
      `regenerate(${id})`, `mark(${id}, 'x')`, `insert_reset(${id}, 'x')`, `create_triggers('app.orders', ${id})`, `create_truncate_trigger('app.orders', ${id})`,
      `drop_triggers('app.orders')`, `lock_table('app.orders', 'access exclusive', 1)`, `generate_capture(t) from (values (row(${id},'app.orders'::regclass,'x','{id}',null,'{}','{}','',null)::freshet.tables)) v (t)`,
      `configure('wake', 'poll')`, `uninstall()`, `detect_drift()`, `trust('${stranger}')`, `distrust('${app}')`,
    ]) {
      await expect(attacker.query(`select freshet.${call}`), call).rejects.toMatchObject({ code: '42501' })
    }
    expect(await database.query('select channels, tables.fingerprint, tables.parked from freshet.channels join freshet.tables on tables.id = table_id')).toEqual(before)
    expect(await linesOf(database, 'app.orders')).toEqual(lines)
  })

  it('an owner of another table cannot redefine, publish or take the channel of this one', async () => {
    const before = await database.query('select * from freshet.channels')
    for (const call of [`define_channel('lair.bait', 'orders', '{}', null, true)`, `watch('lair.bait', 'orders')`]) {
      await expect(attacker.query(`select freshet.${call}`)).rejects.toThrow(`channel 'orders' is taken by app.orders`)
    }
    expect(await database.query('select * from freshet.channels')).toEqual(before)
  })

  it('an owner who may use the schema but not watch cannot do so through the helpers', async () => {
    const guest = `guest_${app}`
    await database.query(`create role ${guest}; create schema inn authorization ${guest}; grant usage on schema freshet to ${guest}; grant usage on schema inn to ${server}`)
    const client = await connectAs(guest)
    await database.query(`select freshet.trust('${guest}')`)
    await client.query(`create table inn.room (id int primary key); grant select on inn.room to ${server}`)
    for (const call of [`watch('inn.room')`, `define_channel('inn.room', 'room', '{}', null, true)`]) {
      await expect(client.query(`select freshet.${call}`)).rejects.toMatchObject({ code: '42501' })
    }
    await database.query(`drop schema inn cascade; revoke usage on schema freshet from ${guest}; select freshet.distrust('${guest}'); drop role ${guest}`)
  })

  it('the trigger function of a table cannot be called, and hung on another table it does nothing', async () => {
    const { rows: [table] } = await database.pool.query<{ id: number }>(`select id from freshet.tables where relation = 'app.orders'::regclass`)
    const name = `freshet.capture_row_${table?.id ?? 0}`
    await expect(owner.query(`select ${name}()`)).rejects.toThrow('trigger functions can only be called as triggers')
    const before = await database.query('select * from freshet.changes')
    await attacker.query(`create trigger forged after insert on lair.bait for each row execute function ${name}()`)
    await attacker.query('insert into lair.bait values (99); drop trigger forged on lair.bait')
    expect(await database.query('select * from freshet.changes')).toEqual(before)
  })

  it.skipIf(!hasCitext)('a key of an extension is watched only where its equality may be used', async () => {
    await database.query(`create schema ext; create extension citext schema ext; grant usage on schema ext to ${app}`)
    await owner.query(`create table app.named (id ext.citext primary key, v int); grant select on app.named to ${server}`)
    await expect(owner.query(`select freshet.watch('app.named')`)).rejects.toMatchObject({ code: '42501', hint: `grant usage on schema ext to ${server};` })
    await database.query(`grant usage on schema ext to ${server}`)
    await owner.query(`select freshet.watch('app.named'); insert into app.named values ('a', 1)`)
    await owner.query(`insert into app.named values ('A', 1) on conflict (id) do update set v = 2; update app.named set id = 'A'; update app.named set id = 'a'`)
    await expectReplayEqualsTable(database, 'app.named')
  })

  it('SET ROLE counts, in both directions', async () => {
    await database.query(`grant ${app} to ${stranger}`)
    const member = await connectAs(stranger)
    await member.query(`set role ${app}; create table app.shared (id int primary key); select freshet.watch('app.shared')`)
    await database.query(`revoke ${app} from ${stranger}`)
    await expect(attacker.query(`select freshet.watch('app.shared', 'again')`)).rejects.toMatchObject({ code: '42501' })
    const admin = await database.connect()
    await admin.query(`set role ${stranger}`)
    await expect(admin.query(`select freshet.watch('app.shared', 'again')`)).rejects.toMatchObject({ code: '42501' })
  })

  it('the owner of the schema uninstalls although the tables are not theirs', async () => {
    const client = await connectAs(server)
    await client.query('select freshet.uninstall()')
    await owner.query(`insert into app.orders values (9, 'z', 's')`)
    expect(await database.query(`select from pg_trigger where tgname ~ '^freshet_'`)).toEqual([])
  })
})
