/**
 * A host application: one transaction after another, each planned by chance beforehand and tried again as PostgreSQL wants it
 * (serialization failures, deadlocks). It keeps writing through whatever happens, and leaves no prepared transaction behind.
 */
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import type { History, Outcome, TransactionRecord } from './history.ts'
import type { Random } from './random.ts'
import { GHOST } from './schema.ts'
import { LARGE_STEPS, LONE_STEPS, SMALL_STEPS, type Step, type Transaction } from './steps.ts'

export interface WriterOptions {
  readonly name: string
  readonly url: string
  readonly kind: 'small' | 'large' | 'slow'
  readonly history: History
  readonly random: (actor: string) => Random
  /** Whether PREPARE TRANSACTION is allowed just now. */
  readonly mayPrepare: () => boolean
  /** A transaction failed for a reason that is none of its own, nor of what was done to PostgreSQL. */
  readonly onHarm: (error: pg.DatabaseError) => void
}

interface Plan {
  readonly isolation: string
  readonly steps: readonly { readonly step: Step; readonly isGhost: boolean }[]
  readonly ending: 'commit' | 'rollback' | 'prepare'
  readonly isAsynchronous: boolean
  /** Between having an id and the first step, and between the last and the end, ms. */
  readonly idleMs: number
  readonly holdMs: number
  readonly restMs: number
}

const RETRIES = 4
const RETRIED = ['40001', '40P01']
/** Their own doing: a key that is taken, a lock that is not to be had in time, a NOTIFY before the trigger knew of `wake = poll`. */
const EXPECTED = [...RETRIED, '23505', '55P03', '57014', '0A000']

export class Writer {
  readonly #options: WriterOptions
  #client: pg.Client | undefined
  #isOver = false
  #running: Promise<void> | undefined

  constructor(options: WriterOptions) {
    this.#options = options
  }

  start(): void {
    this.#running ??= this.#run()
  }

  /** Resolves when its last transaction has ended, a prepared one too. */
  async stop(): Promise<void> {
    this.#isOver = true
    await this.#running
    await this.#client?.end().catch(() => undefined)
  }

  async #run(): Promise<void> {
    const { name, random } = this.#options
    for (let number = 1; !this.#over(); number += 1) {
      const plan = this.#plan(random(`${name}.${number}`))
      for (let attempt = 0; attempt <= RETRIES && await this.#attempt(plan, number) === 'again'; attempt += 1);
      if (!this.#over()) await delay(plan.restMs)
    }
    // What was prepared before a crash is still there after it, and holds its locks.
    while (!await this.#settlePrepared().catch(() => false)) await delay(100)
  }

  #plan(random: Random): Plan {
    const { kind, mayPrepare } = this.#options
    const isSlow = kind === 'slow'
    const choice = kind === 'large' ? LARGE_STEPS : isSlow ? LONE_STEPS : SMALL_STEPS
    const steps = Array.from({ length: random.pick([1, 1, 1, 2, 3, 5]) }, () => ({ step: random.pick(choice), isGhost: random.chance(0.15) }))
    const ending = random.chance(0.12) ? 'rollback' : random.chance(0.3) && mayPrepare() ? 'prepare' : 'commit'
    return {
      isolation: random.pick(['read committed', 'read committed', 'read committed', 'repeatable read', 'serializable']), steps, ending,
      isAsynchronous: random.chance(0.2), idleMs: isSlow ? random.between(0, 6_000) : 0, holdMs: isSlow ? random.between(0, 2_000) : 0,
      restMs: kind === 'large' ? random.between(200, 1_500) : random.between(2, 40),
    }
  }

  /** Tells whether PostgreSQL asks for another try. */
  async #attempt(plan: Plan, number: number): Promise<'done' | 'again'> {
    const { name, history, random, onHarm } = this.#options
    const record = history.begin(`${plan.ending === 'rollback' ? GHOST : ''}${name}.${number}`, plan.isolation)
    const progress = { isEnding: false }
    try {
      const client = this.#client ??= await this.#connect()
      const outcome = await this.#perform(client, { plan, record, progress, random: random(`${name}.${number} steps`) })
      history.end(record, outcome)
    } catch (error) {
      const code = error instanceof pg.DatabaseError ? error.code ?? '' : ''
      const isLost = code === '' || code.startsWith('57P')
      const isOurs = error instanceof pg.DatabaseError && !isLost && (!EXPECTED.includes(code) || (code !== '40001' && error.where?.includes('freshet.') === true))
      if (isOurs) onHarm(error)
      // A commit whose answer never came may have happened.
      history.end(record, isLost && progress.isEnding ? 'unknown' : 'failed', error instanceof Error ? error.message : String(error))
      if (isLost) await this.#disconnect()
      else await this.#client?.query('rollback').catch(() => this.#disconnect())
      if (RETRIED.includes(code)) return 'again'
      if (isLost) await delay(50)
    }
    return 'done'
  }

  async #perform(client: pg.Client, { plan, record, progress, random }: { plan: Plan; record: TransactionRecord; progress: { isEnding: boolean }; random: Random }): Promise<Outcome> {
    await client.query(`begin isolation level ${plan.isolation}; set local synchronous_commit = ${plan.isAsynchronous ? 'off' : 'on'}`)
    if (plan.idleMs > 0) {
      await client.query('select pg_current_xact_id()')
      await this.#sleep(plan.idleMs)
    }
    for (const { step, isGhost } of plan.steps) {
      if (!isGhost) {
        await step(transactionOf(client, record.stamp, random, record))
        continue
      }
      await client.query('savepoint ghost')
      await step(transactionOf(client, `${GHOST}${record.stamp}`, random, record))
      await client.query('rollback to savepoint ghost')
    }
    await this.#sleep(plan.holdMs)
    progress.isEnding = true
    if (plan.ending !== 'prepare') {
      await client.query(plan.ending)
      return plan.ending === 'commit' ? 'committed' : 'rolled back'
    }
    await client.query(`prepare transaction '${record.stamp}'`)
    await this.#sleep(random.between(0, 500))
    await client.query(`commit prepared '${record.stamp}'`)
    return 'committed'
  }

  async #connect(): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: this.#options.url, application_name: `host:${this.#options.name}`, connectionTimeoutMillis: 5_000 })
    client.on('error', () => undefined)
    await client.connect()
    this.#client = client
    await client.query(`set lock_timeout = '3s'; set statement_timeout = '30s'`)
    await this.#settlePrepared()
    return client
  }

  async #disconnect(): Promise<void> {
    const client = this.#client
    this.#client = undefined
    await client?.end().catch(() => undefined)
  }

  /** Commits what an earlier connection left prepared. */
  async #settlePrepared(): Promise<boolean> {
    const client = this.#client ?? await this.#connect()
    const { rows } = await client.query<{ gid: string }>('select gid from pg_prepared_xacts where gid like $1', [`${this.#options.name}.%`])
    for (const { gid } of rows) await client.query(`commit prepared '${gid}'`)
    return true
  }

  /** Cut short when it is over. */
  async #sleep(ms: number): Promise<void> {
    for (let left = ms; left > 0 && !this.#over(); left -= 100) await delay(Math.min(left, 100))
  }

  #over(): boolean {
    return this.#isOver
  }
}

function transactionOf(client: pg.Client, stamp: string, random: Random, record: TransactionRecord): Transaction {
  return {
    stamp, random,
    query: async <Row extends Readonly<Record<string, unknown>>>(sql: string, values: readonly unknown[] = []) => (await client.query<Row>(sql, [...values])).rows,
    copy: (sql, lines) => new Promise((resolve, reject) => {
      client.query(new CopyIn(sql, lines.map((line) => `${line}\n`).join(''), (error) => error === undefined || error === null ? resolve() : reject(error)))
    }),
    note: (subject, what) => record.notes.push(`${subject}: ${what}${stamp.startsWith(GHOST) ? ' (rolled back)' : ''}`),
  }
}

/** COPY … FROM STDIN of a text in one piece. */
class CopyIn extends pg.Query {
  readonly #text: string

  constructor(sql: string, text: string, done: (error?: Error | null) => void) {
    super(sql, done)
    this.#text = text
  }

  /** Called by the driver when the server is ready to take it. */
  handleCopyInResponse(connection: { sendCopyFromChunk(chunk: Buffer): void; endCopyFrom(): void }): void {
    connection.sendCopyFromChunk(Buffer.from(this.#text))
    connection.endCopyFrom()
  }
}
