/** A statement that fills or empties a table is a new beginning of it: everybody has the rows, and who is elsewhere notices nothing. */
import { afterAll, beforeAll, expect, it } from 'vitest'
import { createDatabase } from '../support/database.ts'
import { Following } from '../support/replica.ts'
import { startTestServer, type TestServer } from '../support/server.ts'
import { openStream, Replica } from '../support/sse.ts'

const SETUP = `
  create table public.items (id int primary key, grp text not null, v int not null default 0);
  create table public.beside (id int primary key);
  insert into items values (1, 'few'), (2, 'none');
  select freshet.watch('public.items', filters => '{grp}'); select freshet.watch('public.beside');`

let server: TestServer
const followings: Following[] = []
beforeAll(async () => {
  const database = await createDatabase()
  await database.query(`${SETUP} select freshet.configure('bulk_rows', '5000')`)
  server = await startTestServer({ database })
})
afterAll(() => Promise.all(followings.map((following) => following.stop())))

function follow(channel: string): Following {
  const following = new Following().start(() => server.url, channel)
  followings.push(following)
  return following
}

it('reaches streams, filtered streams and polls as one version with all that its transaction wrote', async () => {
  const [all, beside] = [follow('items'), follow('beside')]
  const few = new Replica()
  const filteredStream = await openStream(`${server.url}/v1/channels/items/stream?grp=few`, {}, (delta) => { few.apply(delta) })
  const many = new Replica()
  const manyStream = await openStream(`${server.url}/v1/stream?channels=items,beside`, {}, (delta) => { many.apply(delta) })
  await expect.poll(() => [all.replica, beside.replica, few, many].map(({ resets }) => resets)).toEqual([1, 1, 1, 1])
  const { version } = await server.poll('items')
  await server.database.query(`begin; insert into items select i, case when i % 1000 = 0 then 'few' else 'many' end from generate_series(1001, 21000) i;
    update items set v = 7 where id in (1, 5000); delete from items where id = 2; insert into beside values (-1); commit`)

  const { reset, changes } = await server.pollUntilChanged('items', version)
  expect([reset, changes.length]).toEqual([true, 20_001])
  await expect.poll(() => all.replica.rows.size).toBe(20_001)
  expect([...all.replica.rows.values()].filter(({ v }) => v === 7).map(({ id }) => id).sort()).toEqual([1, 5000])
  await expect.poll(() => few.rows.size).toBe(21)
  expect(few.rows.get('{"id":5000}')).toEqual({ id: 5000, grp: 'few', v: 7 })
  await expect.poll(() => many.rows.size).toBe(20_002)
  await expect.poll(() => beside.replica.rows.size).toBe(1)
  expect([all.replica.resets, few.resets, many.resets, beside.replica.resets]).toEqual([2, 2, 2, 1])

  await server.database.query(`delete from items where id <> 1`)
  await expect.poll(() => [all.replica, few, many].map(({ rows }) => rows.size)).toEqual([1, 1, 2])
  await server.database.query(`update items set v = 8`)
  await expect.poll(() => [all.replica, few].map(({ rows }) => rows.get('{"id":1}')?.['v'])).toEqual([8, 8])
  expect([all.replica.resets, few.resets, beside.replica.resets, all.faults, all.streams]).toEqual([3, 3, 1, [], 1])
  filteredStream.close()
  manyStream.close()
})
