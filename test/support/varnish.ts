/** A real Varnish in front of a test's server. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { startDaemon, temporaryDirectory } from './daemon.ts'
import { freePort } from './ports.ts'
import { findExecutable, requireTool } from './tools.ts'

export interface Varnish {
  /** `http://127.0.0.1:port` */
  readonly url: string
  stop(): Promise<void>
}

const program = findExecutable('varnishd', ['/usr/sbin'])
/** `describe.skipIf(!hasVarnish)` */
export const hasVarnish = requireTool('varnish', program !== null)

/** Starts Varnish with a whole configuration. */
export async function startVarnish(vcl: string): Promise<Varnish> {
  if (program === null) throw new Error('varnish is not installed')
  const directory = await temporaryDirectory('varnish')
  const port = await freePort()
  const path = join(directory, 'default.vcl')
  await writeFile(path, vcl)
  const daemon = await startDaemon(program, ['-F', '-n', join(directory, 'work'), '-f', path, '-a', `127.0.0.1:${port}`, '-s', 'malloc,64m', '-p', 'timeout_idle=75'], port)
  return { url: `http://127.0.0.1:${port}`, stop: () => daemon.stop() }
}
