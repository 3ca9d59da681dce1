/** nchan, a stream server in C inside nginx, with one worker. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { Agent, request, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { freePort, isListening } from '../../test/support/ports.ts'
import { findExecutable } from '../../test/support/tools.ts'
import { childrenOf } from '../usage.ts'

const MODULE = '/usr/lib/nginx/modules/ngx_nchan_module.so'
const program = existsSync(MODULE) ? findExecutable('nginx', ['/usr/sbin']) : null
/** Debian: nginx-light and libnginx-mod-nchan. */
export const hasNchan = program !== null

export interface Nchan {
  readonly port: number
  /** The worker, which does the work. */
  readonly processId: number
  /** Resolves when nginx has taken the message. */
  publish(message: string): Promise<void>
  stop(): Promise<void>
}

/** `isRoot`: the worker stays who it is, for the files here are root's. */
const configuration = (port: number, directory: string, isRoot: boolean): string => `
load_module ${MODULE};
${isRoot ? 'user root;' : ''}
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
pid ${directory}/pid;
error_log ${directory}/error.log crit;
events { worker_connections 19000; }
http {
  access_log off;
  keepalive_requests 1000000000;
  ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${directory}/${name};`).join(' ')}
  nchan_max_reserved_memory 512m;
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location = /publish { nchan_publisher; nchan_channel_id bench; nchan_message_buffer_length 100000; nchan_message_timeout 60s; }
    location = /stream { nchan_subscriber eventsource; nchan_channel_id bench; nchan_subscriber_first_message newest; }
  }
}
`

export async function startNchan(): Promise<Nchan> {
  if (program === null) throw new Error('nchan is not installed')
  const directory = await mkdtemp(join(tmpdir(), 'freshet-nchan-'))
  const port = await freePort()
  const path = join(directory, 'nginx.conf')
  await writeFile(path, configuration(port, directory, process.getuid?.() === 0))
  const nginx = spawn(program, ['-p', directory, '-c', path, '-e', join(directory, 'error.log')], { stdio: ['ignore', 'ignore', 'inherit'] })
  const exited = once(nginx, 'exit')
  let processId: number | undefined
  // It listens before it has a worker.
  while (processId === undefined || !await isListening(port)) {
    if (nginx.exitCode !== null) throw new Error('nginx ended at once')
    await delay(20);
    [processId] = await childrenOf(nginx.pid ?? 0)
  }
  const agent = new Agent({ keepAlive: true })
  return {
    port, processId,
    async publish(message) {
      const publishing = request({ agent, host: '127.0.0.1', port, path: '/publish', method: 'POST', headers: { 'Content-Length': Buffer.byteLength(message) } })
      publishing.end(message)
      const [response] = await once(publishing, 'response') as [IncomingMessage]
      response.resume()
      await once(response, 'end')
      if (response.statusCode !== 201 && response.statusCode !== 202) throw new Error(`nchan answered ${String(response.statusCode)}`)
    },
    async stop() {
      agent.destroy()
      nginx.kill('SIGTERM')
      await exited
      await rm(directory, { recursive: true, force: true })
    },
  }
}
