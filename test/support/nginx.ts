/** A real nginx in front of a test's server. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { startDaemon, temporaryDirectory } from './daemon.ts'
import { freePort } from './ports.ts'
import { findExecutable, requireTool } from './tools.ts'

export interface Nginx {
  /** `http://127.0.0.1:port`; for a listener with TLS put `https` in its place. */
  readonly url: string
  readonly port: number
  /** Has it read its configuration anew: new workers take over, old ones finish. */
  reload(): void
  /** What it has logged. */
  readonly log: string
  stop(): Promise<void>
}

/** Where an nginx is: what differs from any other. */
export interface NginxPlace {
  readonly port: number
  /** An empty directory; what the configuration names by a relative path is in it. */
  readonly directory: string
}

const program = findExecutable('nginx', ['/usr/sbin'])
/** `describe.skipIf(!hasNginx)` */
export const hasNginx = requireTool('nginx', program !== null)

/** Starts nginx with a whole configuration, which must not say `daemon` or `pid`. */
export async function startNginx(configure: (place: NginxPlace) => string | Promise<string>): Promise<Nginx> {
  if (program === null) throw new Error('nginx is not installed')
  const directory = await temporaryDirectory('nginx')
  const port = await freePort()
  const path = join(directory, 'nginx.conf')
  await writeFile(path, withPaths(await configure({ port, directory })))
  const daemon = await startDaemon(program, ['-p', directory, '-c', path, '-e', 'stderr', '-g', 'daemon off; pid nginx.pid;'], port)
  return { url: `http://127.0.0.1:${port}`, port, reload: () => daemon.signal('SIGHUP'), get log() { return daemon.output }, stop: () => daemon.stop() }
}

/** A configuration that is nginx's defaults around the inside of one `server { … }`: `location / { proxy_pass …; }` */
export function aroundServer(inside: string): (place: NginxPlace) => string {
  return ({ port }) => `events {}\nhttp {\n  access_log off;\n  server {\n    listen 127.0.0.1:${port};\n    ${inside}\n  }\n}\n`
}

/** Where nginx keeps what does not fit in memory: the built-in places are for root only. */
function withPaths(config: string): string {
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${name}_temp;`).join(' ')
  return config.replace(/^http \{$/m, `http {\n  ${paths}`)
}
