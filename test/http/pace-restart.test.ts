/** The advice is the channel's, not the process's: it outlives one and is nearly the same on every other. */
import { describe, expect, it } from 'vitest'
import { readRecentCommits } from '../../src/clock/commits.ts'
import { createDatabase, hasPostgres, type TestDatabase } from '../support/database.ts'
import { startTestServer, type TestServer } from '../support/server.ts'

const SETUP = `
  create table public.calm (id int primary key, v int not null);
  create table public.busy (id int primary key, v int not null);
  insert into calm values (1, 0); insert into busy values (1, 0);
  select freshet.watch('public.calm'); select freshet.watch('public.busy');`

/** A past, on the table of versions: `busy` changed every ten seconds or so until just now, `calm` every ten minutes. */
async function addPast(database: TestDatabase): Promise<void> {
  await database.query(`
    with past as (
      select now() - make_interval(secs => 10 * i + 4 * sin(i * i)) as at, 'busy' as name from generate_series(1, 600) i
      union all
      select now() - make_interval(secs => 600 * i + 200 * sin(i * i)), 'calm' from generate_series(1, 60) i
    )
    insert into freshet.versions (number, snapshot, minted_at, touched, changes)
    select row_number() over (order by at), '3:3:', at, array[table_id], 1 from past join freshet.channels using (name)`)
}

async function advised(node: TestServer, channel: string): Promise<number> {
  // A first answer would carry a phase.
  const { version } = await node.poll(channel)
  return (await node.poll(channel, `?since=${version}`)).poll_after_ms
}

describe.skipIf(!hasPostgres)('the advice after a restart', () => {
  it('is about that of before, and on every node', async () => {
    const database = await createDatabase()
    await database.query(SETUP)
    // The watches are numbered by the first node that leads: commits like any other.
    await (await startTestServer({ database })).close()
    await addPast(database)
    const before = await startTestServer({ database })
    const neighbour = await startTestServer({ database })
    const [busy, calm] = [await advised(before, 'busy'), await advised(before, 'calm')]
    // A node that knew nothing of the past would say 5 seconds of both.
    expect(calm).toBeGreaterThan(10_000)
    await before.close()
    const after = await startTestServer({ database })
    // Each may have been moved by half its length, to a moment that is free.
    for (const node of [neighbour, after]) {
      expect(Math.abs(Math.log(await advised(node, 'busy') / busy))).toBeLessThan(Math.log(3.1))
      expect(Math.abs(Math.log(await advised(node, 'calm') / calm))).toBeLessThan(Math.log(3.1))
    }
  })

  it('needs no more of the past than a bounded part of it, oldest first', async () => {
    const database = await createDatabase()
    await database.query(SETUP)
    await addPast(database)
    const commits = await readRecentCommits(database.pool)
    expect(commits.filter(({ channel }) => channel === 'busy')).toHaveLength(400)
    expect(commits.filter(({ channel }) => channel === 'calm')).toHaveLength(60)
    expect(commits.map(({ ageMs }) => ageMs)).toEqual(commits.map(({ ageMs }) => ageMs).toSorted((a, b) => b - a))
    expect(commits.at(-1)?.ageMs).toBeLessThan(60_000)
  })
})
