/**
 * From the call of commit to the message in a stream's reader: one update every 8 ms.
 * Floor, in the same run: LISTEN/NOTIFY with the row as the payload, received by a bare pg client.
 */
import pg from 'pg'
import { percentile, readChunks, startBench, waitForChannel, type Bench } from './harness.ts'

const UPDATES = 500
const EVERY_MS = 8

const bench = await startBench()
try {
  await bench.database.query(`
    create table rows (id int primary key, n int not null, label text not null default 'a label of some length');
    insert into rows values (1, 0);
    create table plain (like rows including all);
    insert into plain values (1, 0);
    create function tell() returns trigger language plpgsql as $$ begin perform pg_notify('plain', row_to_json(new)::text); return null; end $$;
    create trigger tell after update on plain for each row execute function tell();
    select freshet.watch('rows')`)
  await waitForChannel(bench.url, 'rows')
  const floor = await measureFloor(bench)
  const stream = await measureStream(bench)
  for (const [name, values] of [['LISTEN/NOTIFY', floor], ['stream', stream]] as const) {
    console.log(`${name.padEnd(14)} p50 ${percentile(values, 0.5).toFixed(2)} ms   p99 ${percentile(values, 0.99).toFixed(2)} ms`)
  }
  console.log(`ratio          p50 ${(percentile(stream, 0.5) / percentile(floor, 0.5)).toFixed(2)}      p99 ${(percentile(stream, 0.99) / percentile(floor, 0.99)).toFixed(2)}`)
} finally {
  await bench.close()
}

async function measureFloor({ databaseUrl, database }: Bench): Promise<readonly number[]> {
  const listener = new pg.Client({ connectionString: databaseUrl })
  await listener.connect()
  await listener.query('listen plain')
  const arrived = new Map<number, number>()
  listener.on('notification', ({ payload }) => {
    arrived.set((JSON.parse(payload ?? '{}') as { n: number }).n, performance.now())
  })
  const latencies = await update(database, 'plain', arrived)
  await listener.end()
  return latencies
}

async function measureStream({ url, database }: Bench): Promise<readonly number[]> {
  const arrived = new Map<number, number>()
  let pending = ''
  const response = await readChunks(`${url}/v1/channels/rows/stream`, (chunk) => {
    pending += chunk.toString()
    for (let end = pending.indexOf('\n\n'); end >= 0; end = pending.indexOf('\n\n')) {
      const n = /"row":\{"id":1,"n":(\d+)/.exec(pending.slice(0, end))?.[1]
      if (n !== undefined) arrived.set(Number(n), performance.now())
      pending = pending.slice(end + 2)
    }
  })
  while (!arrived.has(0)) await new Promise((resolve) => setTimeout(resolve, 5))
  const latencies = await update(database, 'rows', arrived)
  response.destroy()
  return latencies
}

async function update(database: pg.Client, table: string, arrived: Map<number, number>): Promise<readonly number[]> {
  const sent = new Map<number, number>()
  for (let n = 1; n <= UPDATES; n += 1) {
    const next = new Promise((resolve) => setTimeout(resolve, EVERY_MS))
    await database.query('begin')
    await database.query(`update ${table} set n = $1 where id = 1`, [n])
    sent.set(n, performance.now())
    await database.query('commit')
    await next
  }
  while (!arrived.has(UPDATES)) await new Promise((resolve) => setTimeout(resolve, 5))
  // A version may hold several updates: the row of the last one tells of all.
  return [...sent].flatMap(([n, at]) => { const then = arrived.get(n); return then === undefined ? [] : [then - at] }).slice(UPDATES / 10)
}
