/** A transaction of a million rows, watched: by statement and by COPY. */
import { get } from 'node:http'
import type { Place } from './place.ts'
import { withPlace, type Account, type Outcome } from './outcome.ts'

const ROWS = 1_000_000
/** What the server may take for it beyond what it had: far less than the rows, which are some 70 MB as JSON. */
const MAX_GROWTH = 150e6

export function bulkInsert(): Promise<Outcome> {
  return withPlace({}, (place) => load(place, 'insert … select', `insert into big select n, 'row number ' || n from generate_series(1, ${ROWS}) n`))
}

export function bulkCopy(): Promise<Outcome> {
  return withPlace({}, (place) => load(place, 'copy … from program', `copy big from program 'seq -f "%.0f,a row that was copied" 1 ${ROWS}' with (format csv)`))
}

async function load(place: Place, how: string, statement: string): Promise<Account> {
  await place.addClients(20)
  place.write(20)
  await place.database.query(`create table big (id int primary key, label text not null); select freshet.watch('big')`)
  await place.untilServed('big')
  const before = await place.peakBytes()
  const received = countRows(`${place.server.url}/v1/channels/big/stream`)
  const startedMs = performance.now()
  const { rowCount } = await place.database.query(statement)
  if (rowCount !== ROWS) throw new Error(`the statement wrote ${rowCount ?? 0} rows`)
  const committedMs = performance.now()
  const arrivedMs = await received - committedMs
  const growth = await place.peakBytes() - before
  return {
    fault: `one transaction of ${ROWS.toLocaleString('en')} rows`, how, recoveries: await place.recovered(performance.now()),
    note: `the statement took ${seconds(committedMs - startedMs)}, its reader had all ${seconds(arrivedMs)} after the commit; the server grew by ${Math.round(growth / 1e6)} MB`,
    ...growth > MAX_GROWTH ? { complaint: `more than ${MAX_GROWTH / 1e6} MB` } : {},
  }
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(1)} s`
}

/** Reads a stream without keeping it; resolves to the time at which ROWS changes had come. */
function countRows(url: string): Promise<number> {
  const mark = '{"op":"upsert"'
  return new Promise((resolve, reject) => {
    const request = get(url, { agent: false }, (response) => {
      let [count, rest] = [0, '']
      response.on('data', (chunk: Buffer) => {
        const text = rest + chunk.toString('latin1')
        count += text.split(mark).length - 1
        // A mark may lie across two chunks.
        rest = text.slice(text.lastIndexOf(mark) + 1).slice(1 - mark.length)
        if (count < ROWS) return
        request.destroy()
        resolve(performance.now())
      })
      response.on('end', () => reject(new Error(`the stream ended after ${count} rows`)))
    })
    request.on('error', (error) => reject(error))
  })
}
