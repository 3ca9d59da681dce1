/** What people write today: Express, better-sse's broadcast, and pg-listen with the row in the payload. It promises nothing of what Freshet does. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createChannel, createSession } from 'better-sse'
import express from 'express'
import pgListen from 'pg-listen'
import { serve } from '../child.ts'

const today = {
  /** `channel`: of NOTIFY, with a row as JSON in each payload. */
  async listen({ databaseUrl, channel }: { readonly databaseUrl: string; readonly channel: string }): Promise<number> {
    const broadcast = createChannel()
    const subscriber = pgListen.default({ connectionString: databaseUrl })
    subscriber.notifications.on(channel, (row) => broadcast.broadcast(row))
    await subscriber.connect()
    await subscriber.listenTo(channel)
    const app = express()
    app.get('/stream', async (request, response) => {
      broadcast.register(await createSession(request, response))
    })
    const server = createServer(app).listen({ port: 0, host: '127.0.0.1', backlog: 4_096 })
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  },
}

export type Today = typeof today

serve(today)
