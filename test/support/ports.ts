/** Ports of this machine. Knows no test runner. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { freePort as find } from '../../src/database/free-port.ts'

/** One that nobody has, a moment ago, and that no outgoing connection takes: for what is told its port, or comes back to it. */
export async function freePort(): Promise<number> {
  const port = await find()
  if (port === undefined) throw new Error('no port is free')
  return port
}

export async function isListening(port: number): Promise<boolean> {
  const socket = connect({ host: '127.0.0.1', port })
  const isThere = await once(socket, 'connect').then(() => true, () => false)
  socket.destroy()
  return isThere
}
