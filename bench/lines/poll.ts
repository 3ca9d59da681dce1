/**
 * Polls as fast as 32 connections can ask: with nothing new, and with a delta of ten rows that many have asked for before.
 * Floor: node:http giving the same status, headers and bytes without looking at the request.
 */
import type { Askers } from '../asker.ts'
import type { HttpFloor } from '../floors/http.ts'
import type { Lab } from '../lab.ts'
import { atLeast, type Figure, type Line, type Scale } from '../line.ts'
import { median } from '../statistics.ts'
import { cpuMs } from '../usage.ts'
import { rawGet, type RawAnswer } from '../../test/support/raw.ts'

const CONNECTIONS = 32
const ROUNDS: Readonly<Record<Scale, number>> = { full: 5, guard: 3 }
const ROUND_MS = 1_200
/** Node writes these by itself. */
const NODES_OWN = ['date', 'connection', 'keep-alive', 'transfer-encoding']

interface Target {
  readonly port: number
  readonly path: string
  readonly processId: number
}

interface Round {
  readonly rate: number
  readonly cpuMicroseconds: number
}

export const pollNothingNew: Line = {
  name: 'poll-304',
  measure: (lab, scale) => measure(lab, scale, '304s, nothing new', async (url) => {
    const { headers } = await rawGet(url, CHANGES)
    return { path: CHANGES, headers: { 'If-None-Match': headers.get('etag') ?? '' }, status: 304 }
  }),
}

export const pollCachedDelta: Line = {
  name: 'poll-200',
  measure: (lab, scale) => measure(lab, scale, '200s, ten rows', async (url, change) => {
    const { headers } = await rawGet(url, CHANGES)
    const version = /"(.*)"/.exec(headers.get('etag') ?? '')?.[1] ?? ''
    await change()
    const path = `${CHANGES}?since=${version}`
    // Held until the version is there.
    const { body } = await rawGet(url, `${path}&wait=10`)
    if (body.split('"upsert"').length !== 11) throw new Error(`not ten changes: ${body}`)
    return { path, headers: {}, status: 200 }
  }),
}

const CHANGES = '/v1/channels/rows/changes'

type Asking = (url: string, change: () => Promise<unknown>) => Promise<{ readonly path: string; readonly headers: Readonly<Record<string, string>>; readonly status: number }>

async function measure(lab: Lab, scale: Scale, work: string, prepare: Asking): Promise<readonly Figure[]> {
  const { client, ...postgres } = await lab.postgres()
  await client.query(`create table rows (id int primary key, n int not null, label text not null)`)
  await client.query(`insert into rows select i, 0, 'a label of some length' from generate_series(1, 10) i`)
  const server = await lab.freshet({ client, ...postgres })
  await client.query(`select freshet.watch('rows')`)
  await server.serves('rows')
  const asking = await prepare(server.url, () => client.query('update rows set n = n + 1'))
  const floor = lab.child<HttpFloor>('floors/http.ts')
  const floorPort = await floor.ask('listen')
  await floor.ask('answer', same(await rawGet(server.url, asking.path, Object.entries(asking.headers).map((pair) => pair.join(': '))), asking.status))
  const targets: readonly Target[] = [
    { port: server.port, path: asking.path, processId: server.processId },
    { port: floorPort, path: asking.path, processId: floor.processId },
  ]
  const askers = lab.child<Askers>('asker.ts')
  const rounds: Round[][] = targets.map(() => [])
  // The first round is for the compiler.
  for (let round = 0; round <= ROUNDS[scale]; round += 1) {
    for (const [index, { port, path, processId }] of targets.entries()) {
      const before = await cpuMs(processId)
      const { answers, tookMs } = await askers.ask('ask', { ...asking, path, port, connections: CONNECTIONS, forMs: ROUND_MS })
      if (round > 0) rounds[index]?.push({ rate: answers * 1_000 / tookMs, cpuMicroseconds: (await cpuMs(processId) - before) * 1_000 / answers })
    }
  }
  const middle = (index: number, of: (round: Round) => number): number => median((rounds[index] ?? []).map(of))
  return [
    { work, measured: middle(0, ({ rate }) => rate), unit: 'a second', against: { name: 'node:http', measured: middle(1, ({ rate }) => rate) }, judged: 'ratio', bound: atLeast(0.6, 0.85) },
    { work: `${work}, CPU`, measured: middle(0, ({ cpuMicroseconds }) => cpuMicroseconds), unit: 'µs an answer', against: { name: 'node:http', measured: middle(1, ({ cpuMicroseconds }) => cpuMicroseconds) }, judged: 'ratio', bound: null },
  ]
}

function same({ status, headers, body }: RawAnswer, expected: number): { readonly status: number; readonly headers: readonly string[]; readonly body: string } {
  if (status !== expected) throw new Error(`answered ${status}, not ${expected}`)
  return { status, headers: [...headers].filter(([name]) => !NODES_OWN.includes(name)).flat(), body }
}
