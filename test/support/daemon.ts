/** A program from outside npm that serves on a port: started in the foreground, awaited, and ended with the test file. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { closeAtEnd } from './cleanup.ts'
import { isListening } from './ports.ts'

export interface Daemon {
  signal(name: NodeJS.Signals): void
  /** What it has said so far, on either stream. */
  readonly output: string
  /** Safe to call twice. */
  stop(): Promise<void>
}

const DEADLINE_MS = 20_000

/** A directory for a program's files, gone with the test file. */
export async function temporaryDirectory(name: string): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), `freshet-${name}-`))
  // Programs that begin as root go on as another user.
  await chmod(directory, 0o711)
  closeAtEnd(() => rm(directory, { recursive: true, force: true }))
  return directory
}

/** Resolves once `port` is listened on; rejects with the program's last words if it ends before. */
export async function startDaemon(program: string, args: readonly string[], port: number): Promise<Daemon> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => { output = (output + String(chunk)).slice(-20_000) })
  const exited = once(child, 'exit').catch((error: unknown) => { output += String(error) })
  const hasEnded = (): boolean => child.pid === undefined || child.exitCode !== null || child.signalCode !== null
  const stop = async (): Promise<void> => {
    if (!hasEnded()) child.kill('SIGTERM')
    await exited
  }
  closeAtEnd(stop)
  const deadlineMs = performance.now() + DEADLINE_MS
  while (!await isListening(port)) {
    if (hasEnded() || performance.now() > deadlineMs) {
      await stop()
      throw new Error(`${program} does not listen:\n${output}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return { signal: (name) => { child.kill(name) }, get output() { return output }, stop }
}

/** A configuration with each of the given texts replaced by another; all have to be there. */
export function adapt(config: string, changes: Readonly<Record<string, string>>): string {
  return Object.entries(changes).reduce((text, [before, after]) => {
    if (!text.includes(before)) throw new Error(`the configuration has no ${before}`)
    return text.replaceAll(before, after)
  }, config)
}
