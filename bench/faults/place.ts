/** Where faults happen: a PostgreSQL that can be stopped, a server in a process of its own, a writer, and clients that check. */
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { Cluster } from '../../test/support/cluster.ts'
import { freePort } from '../../test/support/ports.ts'
import { startServerProcess, type ServerProcess } from '../../test/support/server-process.ts'
import { FaultClient } from './client.ts'

const ROWS = 10

export class Place {
  readonly cluster: Cluster
  readonly database: pg.Pool
  readonly clients: FaultClient[] = []
  server: ServerProcess
  /** The most of all the servers there were. */
  #peakBytes = 0
  #mark = 0
  #isWriting = false
  #writing: Promise<void> | undefined
  readonly #environment: Readonly<Record<string, string>>

  private constructor(cluster: Cluster, database: pg.Pool, server: ServerProcess, environment: Readonly<Record<string, string>>) {
    this.cluster = cluster
    this.database = database
    this.server = server
    this.#environment = environment
  }

  static async start(environment: Readonly<Record<string, string>> = {}): Promise<Place> {
    const cluster = await Cluster.start()
    const database = new pg.Pool({ connectionString: cluster.url, max: 5 })
    database.on('error', () => undefined)
    const all = { DATABASE_URL: cluster.url, PORT: String(await freePort()), LOG_LEVEL: 'fatal', RATE_LIMIT: '0', ...environment }
    const place = new Place(cluster, database, await startServerProcess({ environment: all }), all)
    await database.query(`create table t (id int primary key, v int not null, mark int not null default 0);
      insert into t select id, 0 from generate_series(0, ${ROWS}) id; select freshet.watch('t')`)
    await place.untilServed('t')
    return place
  }

  /** Resolves when every client has the state. */
  async addClients(count: number): Promise<void> {
    const { port } = new URL(this.server.url)
    for (let made = 0; made < count; made += 200) {
      const some = Array.from({ length: Math.min(200, count - made) }, () => new FaultClient(Number(port)))
      this.clients.push(...some)
      await Promise.all(some.map((client) => client.saw(0)))
    }
  }

  /** Moves amounts between two rows, so that the sum stays, every `everyMs`; refused transactions are left out. */
  write(everyMs: number): void {
    this.#isWriting = true
    this.#writing = (async () => {
      for (let round = 0; this.#goesOn(); round += 1) {
        const [from, to] = [1 + round % ROWS, 1 + (round * 7 + 3) % ROWS]
        await this.database.query(`update t set v = v + case id when ${from} then 1 else -1 end where id in (${from}, ${to}) and ${from} <> ${to}`).catch(() => undefined)
        await delay(everyMs)
      }
    })()
  }

  async stopWriting(): Promise<void> {
    this.#isWriting = false
    await this.#writing
  }

  /** Commits a mark as soon as PostgreSQL takes it, and resolves to when each client had it, ms from `sinceMs`. */
  async recovered(sinceMs: number): Promise<readonly number[]> {
    this.#mark += 1
    const mark = this.#mark
    while (!await this.database.query('update t set mark = $1 where id = 0', [mark]).then(() => true, () => false)) await delay(10)
    return (await Promise.all(this.clients.map((client) => client.saw(mark)))).map((atMs) => atMs - sinceMs)
  }

  /** A server that has ended, started again at its old address. */
  async restartServer(): Promise<void> {
    this.server = await startServerProcess({ environment: this.#environment })
  }

  async endServer(how: 'stop' | 'kill'): Promise<void> {
    this.#peakBytes = await this.peakBytes()
    await this.server[how]()
  }

  async peakBytes(): Promise<number> {
    return Math.max(this.#peakBytes, await this.server.peakBytes())
  }

  /** Clients whose rows are not those of the table, in the end. */
  async different(): Promise<number> {
    await this.stopWriting()
    await this.recovered(0)
    const { rows } = await this.database.query<{ row: string }>('select row_to_json(t.*)::text as row from t order by id')
    const truth = rows.map(({ row }) => row).join()
    return this.clients.filter((client) => [...client.rows.values()].sort((a, b) => a.id - b.id).map((row) => JSON.stringify(row)).join() !== truth).length
  }

  async untilServed(channel: string): Promise<void> {
    while ((await fetch(`${this.server.url}/v1/channels/${channel}`)).status !== 200) await delay(20)
  }

  async close(): Promise<void> {
    await this.stopWriting()
    for (const client of this.clients) client.close()
    await this.server.stop()
    await this.database.end()
    await this.cluster.remove()
  }

  #goesOn(): boolean {
    return this.#isWriting
  }
}
