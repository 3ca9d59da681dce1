/**
 * The first state of a large table, by poll and by stream: rows a second and what it costs the server in memory.
 * Floor, in the same run: COPY of the same JSON to a client that throws it away.
 */
import { once } from 'node:events'
import { spawn } from 'node:child_process'
import { peakMemory, readChunks, startBench, waitForChannel } from './harness.ts'

const ROWS = Number(process.argv[2] ?? 1_000_000)

const bench = await startBench()
try {
  await bench.database.query(`create table big (id int primary key, label text not null, amount numeric not null)`)
  await bench.database.query(`insert into big select i, 'row number ' || i, i * 1.25 from generate_series(1, ${ROWS}) i`)
  await bench.database.query(`vacuum analyze big`)
  await bench.database.query(`select freshet.watch('big')`)
  await waitForChannel(bench.url, 'big')
  const before = await peakMemory(bench.server)
  const floor = await time(copyOut)
  const poll = await time(async () => { await drain(`${bench.url}/v1/channels/big/changes`, null) })
  const stream = await time(async () => { await drain(`${bench.url}/v1/channels/big/stream`, '"more":false') })
  const after = await peakMemory(bench.server)
  console.log(`${ROWS} rows`)
  for (const [name, seconds] of [['COPY of the JSON', floor], ['poll', poll], ['stream', stream]] as const) {
    console.log(`${name.padEnd(18)} ${seconds.toFixed(2)} s   ${(floor / seconds).toFixed(2)} of the floor's rate`)
  }
  console.log(`peak memory of the server: ${(after / 1e6).toFixed(0)} MB, ${((after - before) / 1e6).toFixed(0)} MB more than before`)
} finally {
  await bench.close()
}

async function copyOut(): Promise<void> {
  const psql = spawn('psql', [bench.databaseUrl, '-c', `copy (select row_to_json(t.*) from big t) to stdout`], { stdio: ['ignore', 'pipe', 'inherit'] })
  psql.stdout.resume()
  await once(psql, 'close')
}

/** Reads to the end, or until `last` has been seen. */
async function drain(url: string, last: string | null): Promise<number> {
  let bytes = 0
  let done: () => void = () => undefined
  const finished = new Promise<void>((resolve) => { done = resolve })
  const response = await readChunks(url, (chunk) => {
    bytes += chunk.length
    if (last !== null && chunk.includes(last)) done()
  })
  if (last === null) await once(response, 'end')
  else await finished
  response.destroy()
  return bytes
}

async function time(work: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now()
  await work()
  return (performance.now() - startedMs) / 1_000
}
