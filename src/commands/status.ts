/** `freshet status`: whether a server is ready, why not, and how lively its channels are. */
import type { Channel, Readiness } from '../contract/names.ts'
import { StartupError } from '../errors.ts'
import { readChannels } from './channels.ts'
import type { Command } from './command.ts'
import { ask, explainRefusal, isProblem, isReadiness, serverUrl, URL_OPTION } from './http.ts'
import { printable, table, type Terminal } from './terminal.ts'

export const command: Command = {
  name: 'status',
  parameters: [],
  summary: 'say whether a server is ready, and how lively its channels are',
  options: { url: URL_OPTION },
  notes: 'Exit code 1 when it is not ready. In a pipe: one line of JSON.',
  async run(input, { config, terminal }) {
    const server = serverUrl(config, input.text('url'))
    const readiness = await readReadiness(server)
    const channels = await channelsOf(server)
    terminal.print(terminal.isInteractive ? describeStatus(server, readiness, channels, terminal.paint) : JSON.stringify({ ...readiness, channels: channels ?? [] }))
    return readiness.status === 'ready' ? 0 : 1
  },
}

async function readReadiness(server: URL): Promise<Readiness> {
  const url = new URL('readyz', server)
  const { status, body } = await ask(url)
  // 503 with the causes when it is not ready.
  if ((status === 200 || status === 503) && isReadiness(body)) return body
  throw explainRefusal(url, status, isProblem(body) ? body : null)
}

/** Null: it cannot say; the checks tell why. */
async function channelsOf(server: URL): Promise<readonly Channel[] | null> {
  try {
    return await readChannels(server)
  } catch (error) {
    if (error instanceof StartupError) return null
    throw error
  }
}

const STATUS_STYLES = { ready: 'green', draining: 'yellow', unready: 'red' } as const

export function describeStatus(server: URL, readiness: Readiness, channels: readonly Channel[] | null, paint: Terminal['paint']): string {
  const { status, version, checks } = readiness
  const lines = [
    `${server.origin}  ${paint(STATUS_STYLES[status], status)}  ${version ?? 'no version yet'}`, '',
    ...Object.entries(checks).map(([name, { ok, detail }]) => `${ok ? paint('green', 'ok     ') : paint('red', 'problem')}  ${name.padEnd(10)}  ${printable(detail)}`),
  ]
  if (channels !== null && channels.length > 0) lines.push('', ...channelLines(channels, paint))
  return lines.join('\n')
}

function channelLines(channels: readonly Channel[], paint: Terminal['paint']): readonly string[] {
  const [head = '', ...lines] = table([
    ['CHANNEL', 'VERSION', 'CHANGES/MIN', 'STATUS'],
    ...channels.map(({ name, version, changes_per_minute, status, parked_reason }) =>
      [name, version, String(Math.round(changes_per_minute * 10) / 10), parked_reason === undefined ? status : `${status}: ${parked_reason}`].map(printable)),
  ]).split('\n')
  return [paint('bold', head), ...lines]
}
