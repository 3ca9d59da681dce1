/** A whole server over a cluster of its own, with the channel `t` of `t (id, v)`: for tests that break the cluster. */
import { expect, onTestFinished } from 'vitest'
import { Cluster, type ClusterOptions } from './cluster.ts'
import { openDatabase, type TestDatabase } from './database.ts'
import { startTestServer, type TestServer, type TestServerOptions } from './server.ts'

export interface Place {
  readonly cluster: Cluster
  readonly database: TestDatabase
  readonly test: TestServer
}

/** Gone with the test that asked for it. */
export async function startPlace(options: ClusterOptions = {}): Promise<Place> {
  const cluster = await startCluster(options)
  const database = openHere(cluster.url)
  await database.query('create table t (id int primary key, v int not null)')
  const test = await serve(database)
  await database.query(`select freshet.watch('t')`)
  await expect.poll(async () => (await test.get('/v1/channels/t')).status).toBe(200)
  return { cluster, database, test }
}

export async function startCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const cluster = await Cluster.start(options)
  onTestFinished(() => cluster.remove())
  return cluster
}

/** A pool on a database that outlives it. */
export function openHere(url: string): TestDatabase {
  const database = openDatabase(url)
  onTestFinished(() => database.drop())
  return database
}

export async function serve(database: TestDatabase, options: TestServerOptions = {}): Promise<TestServer> {
  const test = await startTestServer({ database, streams: { heartbeatMs: 1_000 }, ...options })
  onTestFinished(() => test.close())
  return test
}
