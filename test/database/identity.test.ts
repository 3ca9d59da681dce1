import pg from 'pg'
import { describe, expect, it, onTestFinished } from 'vitest'
import { connect } from '../../src/database/pool.ts'
import { renewIdentity } from '../../src/clock/identity.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { delayOf, startLeader, startNode, tableIdOf } from '../support/node.ts'

async function epochOf(database: TestDatabase): Promise<string> {
  return (await database.query<{ epoch: string }>('select epoch from freshet.state'))[0]?.epoch ?? ''
}

async function linesIn(database: TestDatabase): Promise<readonly string[]> {
  return (await database.query<{ line: string }>(`select coalesce(key, new_row) as line from freshet.changes order by lsn, xid, key`)).map(({ line }) => line)
}

/** A database that a leader has served, and then has left. */
async function served(): Promise<{ database: TestDatabase; epoch: string; tableId: number }> {
  const database = await createDatabase()
  await database.query(`create table t (id int primary key); select freshet.watch('t')`)
  const tableId = await tableIdOf(database, 't')
  const node = await startLeader(database)
  await delayOf(node, tableId, () => database.query('insert into t values (1)'))
  await node.close()
  return { database, epoch: await epochOf(database), tableId }
}

/** As after a day without a server: the lease of the last one, a quarter of a second, has run out as well. */
const abandon = (database: TestDatabase): Promise<unknown> => database.query(`select setval('freshet.awake_until', 1), setval('freshet.abandoned_after', 1)`)

describe.skipIf(!hasPostgres)('the epoch', () => {
  it('stays when another leader comes, and its versions with it', async () => {
    const { database, epoch } = await served()
    const node = await startLeader(database)
    expect(node.hub.epoch).toBe(epoch)
    const [first] = await database.query<{ number: string }>('select min(number) as number from freshet.versions')
    expect(node.hub.wasIssued(Number(first?.number))).toBe(true)
    expect(await linesIn(database)).toEqual(['watch', '{"id":1}'])
  })

  it('Loud: is another in a copy of the database, whose log begins empty', async () => {
    const { database, epoch } = await served()
    const copy = await copyOf(database)
    const node = await startLeader(copy)
    expect(node.hub.epoch).not.toBe(epoch)
    expect(await linesIn(copy)).toEqual([])
    const window = await node.hub.window('t', new Map())
    const [old] = await database.query<{ number: string }>('select max(number) as number from freshet.versions')
    expect(await node.hub.answer([window], { epoch, number: Number(old?.number) })).toMatchObject({ kind: 'delta', since: null })
    expect(await epochOf(database)).toBe(epoch)
  })

  it('is not seen before every table has its beginning in it', async () => {
    const database = await createDatabase()
    await database.query(`create table t (id int primary key); select freshet.watch('t')`)
    const before = await epochOf(database)
    const [leader, other] = [await connect(database.url, 'clock', () => undefined), await database.connect()]
    onTestFinished(() => leader.end())
    await other.query('begin; lock table freshet.touched in exclusive mode')
    const renewed = renewIdentity(leader)
    await expect.poll(() => database.query(`select from pg_stat_activity where application_name = 'freshet:clock' and wait_event_type = 'Lock' and datname = current_database()`)).toHaveLength(1)
    expect(await epochOf(database)).toBe(before)
    await other.query('commit')
    await renewed
    expect(await epochOf(database)).not.toBe(before)
  })

  it('Bounded: is another after nobody served for so long that capture stopped, and capture goes on', async () => {
    const { database, epoch, tableId } = await served()
    await abandon(database)
    await database.query('insert into t values (2)')
    expect(await linesIn(database)).toEqual(['watch', '{"id":1}'])
    const node = await startLeader(database)
    expect(node.hub.epoch).not.toBe(epoch)
    // PostgreSQL tells of open transactions, not of which database: those of others may make every table start anew, too.
    const lines = async (): Promise<string[]> => (await linesIn(database)).filter((line) => line !== 'resumed')
    expect(await lines()).toEqual([])
    await delayOf(node, tableId, () => database.query('insert into t values (3)'))
    expect(await lines()).toEqual(['{"id":3}'])
  })

  it('No loss: begins at once though a writer is open, and starts every table anew when it ends, for it may not have been captured', async () => {
    const { database, tableId } = await served()
    await abandon(database)
    const open = await database.connect()
    await open.query('begin; insert into t values (2)')
    const node = await startLeader(database)
    const window = await node.hub.window('t', new Map())
    const before = await node.hub.answer([window], null)
    expect(rowsOf(before)).toEqual([{ id: 1 }])
    await delayOf(node, tableId, () => open.query('commit'))
    await expect.poll(() => node.versions.at(-1)?.reset).toEqual([tableId])
    await expect.poll(() => node.hub.head).toBe(node.versions.at(-1)?.number)
    const cursor = before.kind === 'delta' ? { epoch: node.hub.epoch, number: before.version } : null
    const after = await node.hub.answer([window], cursor)
    expect(after).toMatchObject({ kind: 'delta', since: null })
    expect(rowsOf(after)).toEqual([{ id: 1 }, { id: 2 }])
  })

  it('No loss: is another again when the leader that began it died before such a writer ended', async () => {
    const { database, tableId } = await served()
    await abandon(database)
    const open = await database.connect()
    await open.query('begin; insert into t values (2)')
    const connection = await connect(database.url, 'clock', () => undefined)
    expect(await renewIdentity(connection)).not.toBeNull()
    await connection.end()
    const epoch = await epochOf(database)
    const node = await startLeader(database)
    expect(node.hub.epoch).not.toBe(epoch)
    await delayOf(node, tableId, () => open.query('commit'))
    await node.close()
    const successor = await startLeader(database)
    expect(successor.hub.epoch).toBe(node.hub.epoch)
  })

  it('does not wait to empty a log that a writer has open, whose line is numbered when it commits', async () => {
    const { database, tableId } = await served()
    const open = await database.connect()
    await open.query('begin; insert into t values (2)')
    await abandon(database)
    const node = await startLeader(database)
    expect(await linesIn(database)).toEqual([])
    await delayOf(node, tableId, () => open.query('commit'))
    expect(await linesIn(database)).toContain('{"id":2}')
  })

  it('empties the log also where the host publishes all tables, ours among them', async () => {
    const { database, tableId } = await served()
    await database.query('create publication everything for all tables')
    const open = await database.connect()
    await open.query('begin; insert into t values (2)')
    await abandon(database)
    const node = await startLeader(database)
    expect(node.errors).toEqual([])
    expect(await linesIn(database)).toEqual([])
    await delayOf(node, tableId, () => open.query('commit'))
    expect(await linesIn(database)).toContain('{"id":2}')
  })

  it('reaches every node, which forgets the numbers of the old one', async () => {
    const { database, epoch } = await served()
    const follower = startNode(database, { neverLeads: true })
    const first = await startLeader(database)
    await expect.poll(() => follower.hub.head).toBe(first.hub.head)
    expect(follower.hub.epoch).toBe(epoch)
    await first.close()
    await abandon(database)
    const next = await startLeader(database)
    expect(next.hub.epoch).not.toBe(epoch)
    await expect.poll(() => follower.hub.epoch).toBe(next.hub.epoch)
    await expect.poll(() => follower.hub.head).toBe(next.hub.head)
    expect(follower.hub.wasIssued(first.hub.head)).toBe(false)
  })
})

/** What a client without anything holds after the answer. */
function rowsOf(answer: { readonly kind: string; readonly parts?: unknown }): readonly unknown[] {
  const parts = answer.parts as readonly { changes: Buffer }[]
  return (JSON.parse(`[${parts.map(({ changes }) => changes.toString()).join(',')}]`) as { row: { id: number } }[]).map(({ row }) => row).sort((a, b) => a.id - b.id)
}

/** The same database under another name, as `create database … template` makes it. */
async function copyOf(database: TestDatabase): Promise<TestDatabase> {
  const copy = await createDatabase({ migrated: false })
  const names = [database, copy].map(({ url }) => new URL(url).pathname.slice(1))
  const admin = new URL(database.url)
  admin.pathname = '/postgres'
  const client = new pg.Client({ connectionString: admin.href })
  await client.connect()
  onTestFinished(() => client.end())
  await client.query(`select pg_terminate_backend(pid) from pg_stat_activity where datname in ($1, $2)`, names)
  await client.query(`drop database ${names[1]} with (force)`)
  await client.query(`create database ${names[1]} template ${names[0]}`)
  return copy
}
