/**
 * Whether something between us and PostgreSQL takes sessions apart. Seen from two connections at once: a transaction pooler
 * gives the session of the one, and what was set in it, to the other as soon as the first has no transaction open.
 */
import { connect, sqlState, type Connection } from '../database/pool.ts'
import { ok, problem, type Finding, type Subject } from './findings.ts'

const CHANNEL = 'freshet_check'
const ECHO_MS = 1_000

interface Probe {
  /** One session served both connections, or one connection met two sessions. */
  readonly isShared: boolean
  readonly keepsSettings: boolean
  readonly keepsStatements: boolean
  readonly hears: boolean
}

export async function checkPooler({ url, config }: Subject): Promise<readonly Finding[]> {
  const { listenUrl } = config
  const main = await probe(url)
  if (listenUrl === null) return judgeMain(main, 'DATABASE_URL').concat(judgeListening(main, 'DATABASE_URL', 'set LISTEN_URL to a direct connection'))
  return judgeMain(main, 'DATABASE_URL').concat(judgeListening(await probe(listenUrl), 'LISTEN_URL', 'let LISTEN_URL point at PostgreSQL itself'))
}

function judgeMain({ isShared, keepsSettings, keepsStatements }: Probe, name: string): Finding[] {
  const cure = `let ${name} point at PostgreSQL itself, or at a pooler in session mode`
  const lost = [...keepsSettings ? [] : ['settings'], ...keepsStatements ? [] : ['prepared statements']]
  if (lost.length > 0) return [problem(`${lost.join(' and ')} of a session do not survive from one statement to the next on ${name}: a transaction pooler is in between`, cure)]
  if (isShared) return [problem(`sessions are shared between connections on ${name}: a transaction pooler is in between`, cure)]
  return [ok(`sessions stay whole on ${name}`)]
}

function judgeListening({ hears }: Probe, name: string, cure: string): Finding[] {
  return [hears ? ok(`notifications arrive on ${name}`)
    : problem(`a notification did not arrive within ${ECHO_MS / 1_000} s on ${name}: a transaction pooler is in between`, cure)]
}

async function probe(url: string): Promise<Probe> {
  const connections: Connection[] = []
  const open = async (): Promise<Connection> => {
    // What breaks on the way shows in the statement that needed it.
    const connection = await connect(url, 'listener', () => undefined)
    connections.push(connection)
    return connection
  }
  try {
    const listening = await open()
    return await observe(listening, await open())
  } finally {
    await Promise.all(connections.map((connection) => connection.end()))
  }
}

async function observe(listening: Connection, other: Connection): Promise<Probe> {
  const echo = hear(listening)
  await listening.query(`listen ${CHANNEL}`)
  await listening.query(`select set_config('freshet.check', 'kept', false)`)
  await prepared(listening)
  const before = await processOf(listening)
  // An open transaction holds on to its session: now a pooler must give the first connection another one.
  await other.query('begin')
  const held = await processOf(other)
  const after = await processOf(listening)
  const keepsSettings = await hasSetting(listening)
  const keepsStatements = await prepared(listening)
  await other.query('rollback')
  await other.query('select pg_notify($1, $2)', [CHANNEL, echo.payload])
  return { isShared: before !== after || before === held, keepsSettings, keepsStatements, hears: await echo.arrived }
}

async function processOf(connection: Connection): Promise<number> {
  const { rows } = await connection.query<{ id: number }>('select pg_backend_pid() as id')
  return rows[0]?.id ?? 0
}

async function hasSetting(connection: Connection): Promise<boolean> {
  const { rows } = await connection.query<{ value: string | null }>(`select current_setting('freshet.check', true) as value`)
  return rows[0]?.value === 'kept'
}

/** The first time it is prepared, the second time only its name is sent. */
async function prepared(connection: Connection): Promise<boolean> {
  try {
    await connection.query({ name: 'freshet-check', text: 'select 1' })
    return true
  } catch (error) {
    if (sqlState(error) === '26000') return false
    throw error
  }
}

function hear(connection: Connection): { readonly payload: string; readonly arrived: Promise<boolean> } {
  const payload = `${process.pid}.${performance.now()}`
  let timer: NodeJS.Timeout | undefined
  const heard = new Promise<boolean>((resolve) => {
    connection.on('notification', (notification) => { if (notification.payload === payload) resolve(true) })
  })
  return {
    payload,
    get arrived() {
      const silence = new Promise<boolean>((resolve) => { timer = setTimeout(() => resolve(false), ECHO_MS) })
      return Promise.race([heard, silence]).finally(() => clearTimeout(timer))
    },
  }
}
