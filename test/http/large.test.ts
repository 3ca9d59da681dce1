/** Large answers cost the server their stream, not their size. LARGE_ROWS=1000000 LARGE_TEXT=150 LARGE_CHANGED=0.7 measures more than the suite does. */
import { expect, it } from 'vitest'
import { startChildServer, type ChildServer } from '../support/child-server.ts'
import { createDatabase } from '../support/database.ts'
import { openStream, type Delta } from '../support/sse.ts'

const rows = Number(process.env['LARGE_ROWS'] ?? 60_000)
const text = Number(process.env['LARGE_TEXT'] ?? 2_500)
const changed = Math.round(rows * Number(process.env['LARGE_CHANGED'] ?? 0.25))

/** Reads without keeping; resolves to the bytes and changes at the end, which of a stream is the end of its first whole delta. */
async function drain(url: string): Promise<{ readonly bytes: number; readonly changes: number }> {
  const abort = new AbortController()
  const response = await fetch(url, { signal: abort.signal })
  const decoder = new TextDecoder()
  let [bytes, changes, rest] = [0, 0, '']
  let isLast = false
  for await (const chunk of response.body ?? []) {
    bytes += (chunk as Uint8Array).length
    const text = rest + decoder.decode(chunk as Uint8Array, { stream: true })
    changes += text.split('{"op":"').length - 1
    // A mark may lie across two chunks.
    rest = text.slice(text.lastIndexOf('{"op":"') + 7).slice(-200)
    const lastAt: number = isLast ? 0 : text.indexOf('"more":false')
    isLast ||= lastAt >= 0
    // A heartbeat may come in the same chunk as the end.
    if (isLast && text.includes(']}\n\n', lastAt)) break
  }
  abort.abort()
  return { bytes, changes }
}

/** Runs `work` and resolves to how much more memory than before the server took at most. */
async function growth(server: ChildServer, work: () => Promise<unknown>): Promise<number> {
  const before = await server.residentBytes()
  let peak = before
  const state = { isWorking: true }
  const working = work().finally(() => { state.isWorking = false })
  working.catch(() => undefined)
  while (state.isWorking) peak = Math.max(peak, await server.residentBytes())
  await working
  return peak - before
}

it(`a state of ${rows} rows and a transaction of ${changed} pass through a server that never holds them`, { timeout: 300_000 }, async () => {
  const database = await createDatabase()
  await database.query(`create table items (id int primary key, n int not null default 0, label text not null);
    insert into items (id, label) select n, 'row ' || n || ' ' || repeat('x', ${text}) from generate_series(1, ${rows}) n; select freshet.watch('public.items')`)
  const server = await startChildServer(database.url)
  const changes = `${server.url}/v1/channels/items/changes`
  await expect.poll(async () => (await fetch(`${server.url}/readyz`)).status).toBe(200)
  // The first large answer brings the process to its working size.
  await drain(changes)

  let size = 0
  const startedMs = performance.now()
  const stateGrowth = await growth(server, async () => {
    const answers = await Promise.all([drain(changes), drain(changes), drain(`${server.url}/v1/channels/items/stream`)])
    expect(answers.map((answer) => answer.changes)).toEqual([rows, rows, rows])
    size = answers[0].bytes
  })
  const stateMs = performance.now() - startedMs

  const { version } = await (await fetch(`${changes}?limit=1`)).json() as { readonly version: string }
  const bulkMs = performance.now()
  const bulkGrowth = await growth(server, async () => {
    const live = drain(`${server.url}/v1/channels/items/stream?since=${version}`)
    await database.query(`update items set n = n + 1 where id <= ${changed}`)
    expect((await live).changes).toBe(changed)
    expect((await drain(`${changes}?since=${version}`)).changes).toBe(changed)
  })
  const megabytes = (bytes: number): string => `${Math.round(bytes / 1e6)} MB`
  console.log(`state of ${megabytes(size)} to three at once: +${megabytes(stateGrowth)}, ${Math.round(stateMs)} ms; a transaction of ${changed}: +${megabytes(bulkGrowth)}, ${Math.round(performance.now() - bulkMs)} ms`)
  expect(size).toBeGreaterThan(rows * text)
  // Three read it at once.
  expect(stateGrowth).toBeLessThan(size * 0.9)
  expect(bulkGrowth).toBeLessThan(size * 0.9)
  await server.stop()
})

it('a state of rows that are small on disk and large as JSON comes in parts of the usual size', async () => {
  const columns = Array.from({ length: 200 }, (_, index) => `a_column_of_a_long_name_${index} text`)
  const database = await createDatabase()
  await database.query(`create table sparse (id int primary key, ${columns.join(', ')}); insert into sparse (id) select generate_series(1, 1000); select freshet.watch('public.sparse');
    create table packed (id int primary key, label text); insert into packed select n, repeat(chr(1), 100000) from generate_series(1, 40) n; select freshet.watch('public.packed')`)
  const server = await startChildServer(database.url)
  await expect.poll(async () => (await fetch(`${server.url}/readyz`)).status).toBe(200)
  for (const [name, count, mostBytes] of [['sparse', 1_000, 150_000], ['packed', 40, 700_000]] as const) {
    const stream = await openStream(`${server.url}/v1/channels/${name}/stream`)
    await stream.delta(({ more }) => !more)
    const deltas = stream.events.filter(({ event }) => event === undefined)
    const changes = deltas.reduce((sum, { data }) => sum + (JSON.parse(data) as Delta).changes.length, 0)
    const sizes = deltas.map(({ data }) => data.length)
    stream.close()
    expect(changes).toBe(count)
    expect(Math.max(...sizes)).toBeLessThan(mostBytes)
  }
})
