/** The server as a process of its own, where its memory can be told from the test's. */
import { startServerProcess } from './server-process.ts'
import { closeAtEnd } from './cleanup.ts'

export interface ChildServer {
  readonly url: string
  /** Bytes resident now, by its own account. */
  residentBytes(): Promise<number>
  stop(): Promise<void>
}

export async function startChildServer(databaseUrl: string): Promise<ChildServer> {
  const server = await startServerProcess({ environment: { DATABASE_URL: databaseUrl, PORT: '0', RATE_LIMIT: '0', DRAIN_SECONDS: '0', LOG_LEVEL: 'warn' } })
  const { url } = server
  closeAtEnd(() => server.stop())
  return { url, stop: () => server.stop(), residentBytes: async () => Number(/^process_resident_memory_bytes (\d+)/m.exec(await (await fetch(`${url}/metrics`)).text())?.[1]) }
}
