/** `freshet channels`: what there is to read on a server. */
import type { Channel } from '../contract/names.ts'
import type { Command } from './command.ts'
import { ask, explainRefusal, isChannelList, isProblem, serverUrl, URL_OPTION } from './http.ts'
import { printable, table, type Terminal } from './terminal.ts'

export const command: Command = {
  name: 'channels',
  parameters: [],
  summary: 'list the channels of a server',
  options: { url: URL_OPTION },
  notes: 'In a pipe: one line of JSON, as GET /v1/channels answers.',
  async run(input, { config, terminal }) {
    const channels = await readChannels(serverUrl(config, input.text('url')))
    if (!terminal.isInteractive) terminal.print(JSON.stringify({ channels }))
    else if (channels.length === 0) terminal.print('no channel yet: run "freshet watch <table>"')
    else terminal.print(channelTable(channels, terminal.paint))
    return 0
  },
}

/** Throws StartupError. */
export async function readChannels(server: URL): Promise<readonly Channel[]> {
  const url = new URL('v1/channels', server)
  const { status, body } = await ask(url)
  if (status === 200 && isChannelList(body)) return body.channels
  throw explainRefusal(url, status, isProblem(body) ? body : null)
}

function channelTable(channels: readonly Channel[], paint: Terminal['paint']): string {
  const [head = '', ...lines] = table([
    ['CHANNEL', 'KEY', 'FILTERS', 'COLUMNS', 'STATUS'],
    ...channels.map(({ name, key, filters, columns, status, parked_reason, public: isPublic }) => [
      name, key.join(', '), filters.join(', ') || '-', columns.map((column) => column.name).join(', '),
      status === 'parked' ? `parked: ${parked_reason ?? 'no reason given'}` : isPublic ? status : `${status}, private`,
    ].map(printable)),
  ]).split('\n')
  return [paint('bold', head), ...lines].join('\n')
}
