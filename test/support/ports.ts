/** Ports of this machine. Knows no test runner. */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'

/** A port that nobody has, a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

export async function isListening(port: number): Promise<boolean> {
  const socket = connect({ host: '127.0.0.1', port })
  const isThere = await once(socket, 'connect').then(() => true, () => false)
  socket.destroy()
  return isThere
}
