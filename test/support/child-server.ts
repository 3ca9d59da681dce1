/** The server as a process of its own, where its memory can be told from the test's. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterAll } from 'vitest'

export interface ChildServer {
  readonly url: string
  /** Bytes resident now, by its own account. */
  residentBytes(): Promise<number>
  stop(): Promise<void>
}

export async function startChildServer(databaseUrl: string): Promise<ChildServer> {
  const child = spawn(process.execPath, ['--import', 'tsx', 'src/main.ts', 'start'], {
    env: { PATH: process.env['PATH'], HOME: process.env['HOME'], DATABASE_URL: databaseUrl, PORT: '0', RATE_LIMIT: '0', DRAIN_SECONDS: '0', LOG_LEVEL: 'warn' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const stop = async (): Promise<void> => {
    if (child.exitCode !== null) return
    const exited = once(child, 'exit')
    child.kill('SIGTERM')
    await exited
  }
  afterAll(stop)
  let text = ''
  for await (const chunk of child.stdout) {
    text += String(chunk)
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(text)?.[0]
    if (url !== undefined) {
      child.stdout.resume()
      return { url, stop, residentBytes: async () => Number(/^process_resident_memory_bytes (\d+)/m.exec(await (await fetch(`${url}/metrics`)).text())?.[1]) }
    }
  }
  throw new Error(`the server ended without saying where it listens: ${text}`)
}
