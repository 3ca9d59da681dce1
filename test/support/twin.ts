/**
 * A host's sessions as the host sees them: scripts of SQL, and the transcript of what came back. Run on a database where everything
 * is watched and on one that has never heard of Freshet, the transcripts must be the same text.
 *
 * A script is plain SQL. A statement ends with its line's `;` (outside of `$$`). Beside that:
 *   `b: …`         runs in a second session, `b` (statements without a letter run in `a`);
 *   `b waits: …`   is blocked by another session: it is left waiting, and `b resumes` shows how it ended;
 *   `-- fails CODE` before a statement: it must fail so, or the script would say nothing;
 *   `-- from 15`   before a statement: left out where PostgreSQL is older;
 *   `twin_…`       is a name of the whole cluster (a role, a prepared transaction): each side has its own.
 */
import pg from 'pg'
import type { TestDatabase } from './database.ts'

export interface Step {
  readonly session: string
  readonly kind: 'runs' | 'waits' | 'resumes'
  readonly sql: string
  readonly copyData: string
  /** The SQLSTATE that it must end with; null: success. */
  readonly fails: string | null
  readonly fromMajor: number
}

export function parseScript(text: string): readonly Step[] {
  const steps: Step[] = []
  const lines = text.split('\n')
  let [sql, fails, fromMajor, opening]: [string, string | null, number, RegExpExecArray | null] = ['', null, 0, null]
  for (let line = lines.shift(); line !== undefined; line = lines.shift()) {
    if (sql === '') {
      const note = /^-- (?:fails (\w+)|from (\d+))$/.exec(line)
      if (note !== null) [fails, fromMajor] = [note[1] ?? fails, Number(note[2] ?? fromMajor)]
      opening = /^([a-z])(?: (waits|resumes))?(?:: |$)/.exec(line)
      if (note !== null || line.startsWith('--') || line === '') continue
      line = line.slice(opening?.[0].length ?? 0)
    }
    sql += (sql === '' ? '' : '\n') + line
    const isOver = opening?.[2] === 'resumes' || line.endsWith(';') && sql.split('$$').length % 2 === 1
    if (!isOver) continue
    const copyData = /^copy .* from stdin/i.test(sql) ? lines.splice(0, lines.indexOf('\\.') + 1).slice(0, -1).map((row) => `${row}\n`).join('') : ''
    steps.push({ session: opening?.[1] ?? 'a', kind: (opening?.[2] ?? 'runs') as Step['kind'], sql, copyData, fails, fromMajor })
    ;[sql, fails, fromMajor] = ['', null, 0]
  }
  if (sql !== '') throw new Error(`not a whole statement: ${sql}`)
  return steps
}

interface CopyConnection { sendCopyFromChunk(chunk: Buffer): void; endCopyFrom(): void }

/** One message to the server, that knows COPY. */
class Message extends pg.Query {
  readonly copied: string[] = []
  readonly tags: string[] = []
  readonly #copyData: string

  constructor(config: pg.QueryConfig & { readonly rowMode: 'array'; readonly queryMode?: 'extended' }, copyData: string, onEnd: (error: ServerMessage | null, results: unknown) => void) {
    super(config, undefined, onEnd as never)
    this.#copyData = copyData
  }

  handleCopyInResponse(connection: CopyConnection): void {
    if (this.#copyData !== '') connection.sendCopyFromChunk(Buffer.from(this.#copyData))
    connection.endCopyFrom()
  }

  handleCommandComplete(message: { readonly text: string }, connection: pg.Connection): void {
    this.tags.push(message.text)
    ;(pg.Query.prototype as unknown as Message).handleCommandComplete.call(this, message, connection)
  }

  handleCopyData(message: { readonly chunk: Buffer }): void {
    this.copied.push(message.chunk.toString())
  }
}

/** A notice or an error. */
type ServerMessage = { readonly [Field in typeof FIELDS[number] | 'severity' | 'code' | 'message']?: string | undefined }
const FIELDS = ['detail', 'hint', 'position', 'where', 'schema', 'table', 'column', 'dataType', 'constraint', 'routine'] as const

export type Protocol = 'simple' | 'extended'

/** What the host's session can see of itself, without changing it. */
const SETTINGS = 'select name, setting from pg_catalog.pg_settings order by name'
const DIGEST = `select pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat(name, '=', setting), ',')) as digest from pg_catalog.pg_settings`

export class Session {
  readonly #client: pg.Client
  readonly #protocol: Protocol
  #lines: string[] = []
  readonly #settings = new Map<string, string>()
  #digest: string | undefined
  #ending: Promise<string | null> | undefined

  constructor(client: pg.Client, protocol: Protocol) {
    this.#client = client
    this.#protocol = protocol
    client.on('notice', (notice) => this.#lines.push(describeMessage('notice', notice)))
    client.on('notification', ({ channel, payload }) => this.#lines.push(`notification ${channel} ${payload ?? ''}`))
    client.connection.on('parameterStatus', (status: { parameterName: string; parameterValue: string }) =>
      this.#lines.push(`parameter ${status.parameterName} ${status.parameterValue}`))
  }

  static async open(database: TestDatabase, protocol: Protocol): Promise<Session> {
    const client = new pg.Client({ connectionString: database.url, types: { getTypeParser: () => (value: unknown) => value } })
    client.on('error', () => undefined)
    await client.connect()
    // Its settings appear when the first function in it is called, the host's or ours.
    await client.query(`load 'plpgsql'`)
    const session = new Session(client, protocol)
    await session.#probe()
    session.#lines = []
    return session
  }

  get isIdle(): boolean {
    return this.#client.getTransactionStatus() === 'I' && this.#ending === undefined
  }

  get processId(): number {
    return (this.#client as unknown as { processID: number }).processID
  }

  start({ sql, copyData }: Pick<Step, 'sql' | 'copyData'>): void {
    // Neither several statements in one message nor the rows of a COPY go through it.
    const isPlain = sql.includes('$$') || sql.indexOf(';') === sql.length - 1 && !sql.startsWith('copy')
    const extended = this.#protocol === 'extended' && isPlain
    this.#ending = new Promise((resolve) => {
      const message: Message = new Message({ text: sql, rowMode: 'array', ...extended ? { queryMode: 'extended' } : {} }, copyData, (error, results) => {
        this.#lines.push(...message.tags, ...message.copied.map((line) => `copied ${line.trimEnd()}`))
        if (error !== null) this.#lines.push(describeMessage('error', error))
        else this.#lines.push(...(Array.isArray(results) ? results as pg.QueryArrayResult[] : [results as pg.QueryArrayResult]).flatMap(describeRows))
        const end = (): void => resolve(error === null ? null : error.code ?? error.message ?? '?')
        // An error comes before the server has said in what state it leaves the transaction.
        if (error === null) end()
        else this.#client.connection.once('readyForQuery', end)
      })
      this.#client.query(message as never)
    })
  }

  /** The SQLSTATE of what was started, null for success, and what the session saw of it. */
  async finish(): Promise<{ readonly code: string | null; readonly lines: readonly string[] }> {
    const code = await this.#ending ?? null
    this.#ending = undefined
    await this.#probe()
    return { code, lines: this.#lines.splice(0) }
  }

  /** Notes what changed of the session's settings and, between transactions, the last value of a sequence. */
  async #probe(): Promise<void> {
    if (this.#client.getTransactionStatus() !== 'I') {
      this.#lines.push(`in a transaction: ${this.#client.getTransactionStatus() ?? ''}`)
      return
    }
    await this.#compareSettings()
    await this.#client.query<{ lastval: string }>('select pg_catalog.lastval()').then(
      ({ rows: [row] }) => this.#lines.push(`lastval ${row?.lastval ?? ''}`), (error: unknown) => this.#lines.push(`lastval ${(error as Error).message}`))
  }

  async #compareSettings(): Promise<void> {
    const { rows: [row] } = await this.#client.query<{ digest: string }>(DIGEST)
    if (row?.digest === this.#digest) return
    this.#digest = row?.digest
    const { rows } = await this.#client.query<{ name: string; setting: string }>(SETTINGS)
    for (const { name, setting } of rows) {
      // Some are shown to superusers alone.
      const isOther = this.#settings.has(name) && this.#settings.get(name) !== setting
      if (isOther) this.#lines.push(`setting ${name} = ${setting}`)
      this.#settings.set(name, setting)
    }
  }

  async close(): Promise<void> {
    await this.#client.end()
  }
}

function describeRows({ fields, rows }: pg.QueryArrayResult): string[] {
  const columns = fields.map(({ name, dataTypeID, format }) => `${name}:${dataTypeID < 16384 ? dataTypeID : 'own'}:${format}`)
  return [...columns.length > 0 ? [columns.join(' ')] : [],
    ...(rows as (string | null)[][]).map((row) => `| ${row.map((value) => value ?? 'null').join(' | ')}`)]
}

function describeMessage(kind: string, message: ServerMessage): string {
  const rest = FIELDS.map((name) => message[name] === undefined ? '' : `\n    ${name}: ${message[name]}`)
  return `${kind} ${message.severity ?? ''} ${message.code ?? ''} ${message.message ?? ''}${rest.join('')}`
}
