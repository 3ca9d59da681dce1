/** A server that answers what no PostgreSQL would, or what no string can hold. */
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { connect, createPool } from '../../src/database/pool.ts'

const uncaught: unknown[] = []
const note = (error: unknown): void => { uncaught.push(error) }

afterEach(() => {
  process.off('uncaughtExceptionMonitor', note)
  uncaught.length = 0
})

function message(code: string, ...body: readonly (string | number)[]): Buffer {
  const bytes = Buffer.concat(body.map((part) => typeof part === 'string' ? Buffer.from(part, 'latin1') : Buffer.from([part >>> 24, part >>> 16, part >>> 8, part])))
  const head = Buffer.alloc(5, code)
  head.writeUInt32BE(bytes.length + 4, 1)
  return Buffer.concat([head, bytes])
}

const READY = message('Z', 'I')
const GREETING = Buffer.concat([message('R', 0), READY])
const ONE_COLUMN = message('T', '\0\x01a\0', 0, '\0\0', 25, '\xff\xff', -1, '\0\0')

/** Answers every question before the one that says "nonsense" as if it were a SET; that one with the bytes given. */
async function startNonsense(answer: Buffer): Promise<string> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    let isGreeted = false
    socket.on('error', () => undefined)
    socket.on('data', (data) => {
      if (!isGreeted) {
        isGreeted = true
        socket.write(GREETING)
      } else if (data.includes('nonsense')) {
        socket.end(answer)
      } else {
        socket.write(Buffer.concat([message('C', 'SET\0'), READY]))
      }
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return `postgres://nobody@127.0.0.1:${(server.address() as AddressInfo).port}/none`
}

/** (A text without an end would keep pg's parser for ever: that no PostgreSQL sends.) */
const ANSWERS: Readonly<Record<string, Buffer>> = {
  'half a description of rows': message('T'),
  'a row of columns that are not there': Buffer.concat([ONE_COLUMN, message('D', '\0\x05')]),
  'a row without a description': message('D', '\0\x01', 1, 'x'),
  'a demand for another password': message('R', 77),
  'half a demand': message('R'),
  'a message of no kind': message('\x01', 'what is this'),
  'a copy that was not asked for': message('G', '\0'),
  'an end of what was not begun': Buffer.concat([message('C', '\0'), READY, READY, message('s'), message('I'), message('1'), message('n')]),
}

describe('an answer that cannot be read', () => {
  for (const [name, answer] of Object.entries(ANSWERS)) {
    it(`Up: ${name} ends the connection, and the question`, async () => {
      process.on('uncaughtExceptionMonitor', note)
      const url = await startNonsense(answer)
      const pool = createPool({ url, max: 1, onError: () => undefined })
      await pool.query('nonsense').then(() => undefined, (error: unknown) => { expect(error).toBeInstanceOf(Error) })
      const client = await connect(url, 'listener', () => undefined)
      await client.query('nonsense').then(() => undefined, (error: unknown) => { expect(error).toBeInstanceOf(Error) })
      await Promise.all([client.end().catch(() => undefined), pool.end()])
      expect(uncaught).toEqual([])
    })
  }
})
