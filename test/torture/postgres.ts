/** A PostgreSQL of the machine's own, in a directory of its own, that can be crashed and started again under the same address. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startEmbedded, type EmbeddedServer } from '../../src/database/embedded.ts'

const SETTINGS = {
  // A crash of PostgreSQL alone loses nothing that the operating system has been given.
  fsync: 'off', deadlock_timeout: '200ms', max_connections: '120', max_prepared_transactions: '20', superuser_reserved_connections: '10',
}

export class Postgres {
  readonly #directory: string
  #server: EmbeddedServer

  private constructor(directory: string, server: EmbeddedServer) {
    this.#directory = directory
    this.#server = server
  }

  static async start(): Promise<Postgres> {
    const directory = await mkdtemp(join(tmpdir(), 'freshet-torture-'))
    return new Postgres(directory, await startEmbedded({ directory, settings: SETTINGS }))
  }

  get url(): string {
    return this.#server.url
  }

  /** The immediate shutdown: what was not written is lost. */
  async crash(): Promise<void> {
    process.kill(this.#server.processId, 'SIGQUIT')
    await this.#server.stop()
  }

  async stop(): Promise<void> {
    await this.#server.stop()
  }

  async restart(): Promise<void> {
    const { url } = this
    this.#server = await startEmbedded({ directory: this.#directory, settings: SETTINGS })
    if (this.url !== url) throw new Error(`PostgreSQL was at ${url}, now it is at ${this.url}: another program took its port`)
  }

  async remove(): Promise<void> {
    await this.stop()
    await rm(this.#directory, { recursive: true, force: true })
  }
}
