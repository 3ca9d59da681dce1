/** The server as a process of its own, as it would be deployed: started by its command, ended by signals. Knows no test runner. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'

export interface ServerProcess {
  /** Where it listens, `http://127.0.0.1:8080`. */
  readonly url: string
  readonly processId: number
  /** Null while it runs; then how it ended. */
  readonly ending: string | null
  signal(name: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): void
  /** SIGTERM, and waits until it is gone. Safe to call twice. */
  stop(): Promise<void>
  /** SIGKILL, and waits until it is gone. Safe to call twice. */
  kill(): Promise<void>
  /** The most bytes it ever had resident, by the kernel's account; 0 where there is none. */
  peakBytes(): Promise<number>
}

export interface ServerProcessOptions {
  /** Beside PATH and HOME; see the configuration table. */
  readonly environment: Readonly<Record<string, string>>
  /** A file descriptor for its log. Default: that of this process. */
  readonly log?: number
  /** What Node is to run, with options of Node's before it. Default: the sources. */
  readonly program?: readonly string[]
}

const SOURCES = ['--import', 'tsx', 'src/main.ts']

/** Resolves when it listens. Throws what it said if it ends before. */
export async function startServerProcess({ environment, log, program = SOURCES }: ServerProcessOptions): Promise<ServerProcess> {
  const child = spawn(process.execPath, [...program, 'start'], {
    env: { PATH: process.env['PATH'], HOME: process.env['HOME'], ...environment },
    stdio: ['ignore', 'pipe', log ?? 'inherit'],
  })
  const exited = once(child, 'exit')
  const { pid: processId = 0 } = child
  const url = await new Promise<string>((resolve, reject) => {
    let text = ''
    child.stdout?.on('data', (chunk: Buffer) => {
      text += chunk.toString()
      const found = /http:\/\/127\.0\.0\.1:\d+/.exec(text)?.[0]
      if (found !== undefined) resolve(found)
    })
    child.once('error', reject)
    child.once('exit', () => reject(new Error(`the server ended without saying where it listens: ${text}`)))
  })
  const hasEnded = (): boolean => child.exitCode !== null || child.signalCode !== null
  const end = async (signal: 'SIGTERM' | 'SIGKILL'): Promise<void> => {
    if (!hasEnded()) child.kill(signal)
    await exited
  }
  return {
    url, processId,
    get ending() { return hasEnded() ? child.signalCode ?? `exit code ${child.exitCode ?? 'unknown'}` : null },
    signal: (name) => { child.kill(name) },
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
    async peakBytes() {
      const status = await readFile(`/proc/${processId}/status`, 'utf8').catch(() => '')
      return Number(/^VmHWM:\s*(\d+) kB/m.exec(status)?.[1] ?? 0) * 1_024
    },
  }
}
