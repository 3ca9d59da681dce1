/**
 * Ports of 127.0.0.1 for servers that have to come back under the same address. Promise: none that the system gives to outgoing
 * connections (from 32768 on Linux, from 49152 elsewhere), each of which would keep a server from listening there again.
 */
import { createServer } from 'node:net'

const FIRST = 20_000
const LAST = 32_767
const TRIES = 100

/** One that nobody has, a moment ago; undefined where hardly any is free. */
export async function freePort(): Promise<number | undefined> {
  for (let tried = 0; tried < TRIES; tried += 1) {
    const port = FIRST + Math.floor(Math.random() * (LAST - FIRST + 1))
    if (await isFree(port)) return port
  }
  return undefined
}

/** Whether a server could listen there now. */
export function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer()
    probe.once('error', () => resolve(false))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)))
  })
}
