/** Servers that keep streams and can be told something for all of them: Freshet, its floors and its peers, all asked the same way. */
import { setTimeout as delay } from 'node:timers/promises'
import type pg from 'pg'
import type { OpenOptions } from './crowd.ts'
import type { HttpFloor } from './floors/http.ts'
import type { NetFloor } from './floors/net.ts'
import type { Today } from './floors/today.ts'
import type { Lab, Postgres } from './lab.ts'
import { sum } from './statistics.ts'
import { cpuMs } from './usage.ts'

export interface Subject {
  readonly name: string
  readonly processId: number
  readonly isNode: boolean
  readonly streams: Pick<OpenOptions, 'port' | 'path' | 'ready'>
  /** One message for every stream, with `text` in it; resolves when the server has it. */
  tell(text: string): Promise<unknown>
  /** At a steady pace, as far as the server can; resolves to how many. */
  tellOften(pace: Pace): Promise<number>
  /** User and system time so far of all processes that take part, PostgreSQL's too. */
  cpuMs(): Promise<number>
}

export interface Pace {
  readonly everyMs: number
  readonly forMs: number
}

/** Does `work` each time when it is due, for so long; what could not be done in time is left out. Answers how often it was done. */
export async function keepPace({ everyMs, forMs }: Pace, work: (number: number) => Promise<unknown>): Promise<number> {
  const startedMs = performance.now()
  let number = 0
  let due = 0
  for (; performance.now() < startedMs + forMs; number += 1) {
    await work(number)
    // A timer may fire up to a millisecond early: what is done by then must not be done again for the same moment.
    due = Math.max(due + 1, Math.ceil((performance.now() - startedMs) / everyMs))
    const waitMs = startedMs + due * everyMs - performance.now()
    if (waitMs > 0) await delay(waitMs)
  }
  return number
}

/** A table of one row that is rendered as 160 bytes. */
export async function createRows(client: pg.Client, table: string): Promise<void> {
  await client.query(`create table ${table} (id int primary key, label text not null, filling text not null default '${FILLING}')`)
  await client.query(`insert into ${table} values (1, 'none')`)
}

/** A trigger with a NOTIFY, called like the table, that bears the row. */
export async function notifyUpdates(client: pg.Client, table: string): Promise<void> {
  await client.query(`
    create or replace function tell() returns trigger language plpgsql as $$ begin perform pg_notify(tg_table_name, row_to_json(new)::text); return null; end $$;
    create trigger tell after update on ${table} for each row execute function tell()`)
}

export function updateRow(client: pg.Client, table: string, label: string): Promise<unknown> {
  return client.query({ name: table, text: `update ${table} set label = $1 where id = 1`, values: [label] })
}

export async function freshetSubject(lab: Lab, postgres: Postgres): Promise<Subject> {
  const { client } = postgres
  await createRows(client, 'rows')
  const server = await lab.freshet(postgres)
  await client.query(`select freshet.watch('rows')`)
  await server.serves('rows')
  return {
    name: 'Freshet', processId: server.processId, isNode: true,
    streams: { port: server.port, path: '/v1/channels/rows/stream', ready: '"more":false' },
    tell: (text) => updateRow(client, 'rows', text),
    tellOften: (pace) => keepPace(pace, (number) => updateRow(client, 'rows', `message ${number}`)),
    cpuMs: async () => sum(await Promise.all([server.cpuMs(), postgres.cpuMs()])),
  }
}

export async function netSubject(lab: Lab): Promise<Subject> {
  const floor = lab.child<NetFloor>('floors/net.ts')
  return {
    name: 'bare net', processId: floor.processId, isNode: true,
    streams: { port: await floor.ask('listen'), path: '/stream', ready: ':\n\n' },
    tell: (text) => floor.ask('write', { event: eventWith(text), everyMs: 0, forMs: 0 }),
    tellOften: (pace) => floor.ask('write', { event: eventWith('message 100'), ...pace }),
    cpuMs: () => cpuMs(floor.processId),
  }
}

export async function httpSubject(lab: Lab): Promise<Subject> {
  const floor = lab.child<HttpFloor>('floors/http.ts')
  const tell = (text: string): Promise<unknown> => floor.ask('write', { event: eventWith(text) })
  return {
    name: 'node:http', processId: floor.processId, isNode: true,
    streams: { port: await floor.ask('listen'), path: '/stream', ready: ':\n\n' },
    tell, tellOften: (pace) => keepPace(pace, (number) => tell(`message ${number}`)),
    cpuMs: () => cpuMs(floor.processId),
  }
}

export async function nchanSubject(lab: Lab): Promise<Subject> {
  const server = await lab.nchan()
  const tell = (text: string): Promise<unknown> => server.publish(deltaWith(text))
  return {
    name: 'nchan', processId: server.processId, isNode: false,
    streams: { port: server.port, path: '/stream', ready: '\r\n\r\n' },
    tell, tellOften: (pace) => keepPace(pace, (number) => tell(`message ${number}`)),
    cpuMs: () => cpuMs(server.processId),
  }
}

/** Express, better-sse and pg-listen, with the row in the payload of a trigger's NOTIFY. */
export async function todaySubject(lab: Lab, postgres: Postgres): Promise<Subject> {
  const { client } = postgres
  await createRows(client, 'notifying')
  await notifyUpdates(client, 'notifying')
  const floor = lab.child<Today>('floors/today.ts')
  return {
    name: 'better-sse', processId: floor.processId, isNode: true,
    streams: { port: await floor.ask('listen', { databaseUrl: postgres.url, channel: 'notifying' }), path: '/stream', ready: '\r\n\r\n' },
    tell: (text) => updateRow(client, 'notifying', text),
    tellOften: (pace) => keepPace(pace, (number) => updateRow(client, 'notifying', `message ${number}`)),
    cpuMs: async () => sum(await Promise.all([cpuMs(floor.processId), postgres.cpuMs()])),
  }
}

const FILLING = 'x'.repeat(100)

/** An event like those of Freshet for the row above, as long to a byte or two. */
function eventWith(text: string): string {
  return `id: ${VERSION}\ndata: ${deltaWith(text)}\n\n`
}

const VERSION = 'k3f9k3f9.1764000000000'

function deltaWith(text: string): string {
  return `{"channel":"rows","since":"${VERSION}","version":"${VERSION}","reset":false,"more":false,`
    + `"changes":[{"op":"upsert","key":{"id":1},"row":{"id":1,"label":"${text}","filling":"${FILLING}"}}]}`
}
