/** `freshet tail`: follows a channel until told to stop. Each Delta is written the moment it comes. */
import { follow } from '../client/follow.ts'
import { Replica } from '../client/replica.ts'
import { FollowError } from '../client/wire.ts'
import type { Delta } from '../contract/names.ts'
import { StartupError } from '../errors.ts'
import type { Command, Input } from './command.ts'
import { explainRefusal, serverUrl, unreachable, URL_OPTION } from './http.ts'
import { describeApplied } from './tail-lines.ts'
import type { Terminal } from './terminal.ts'

export const command: Command = {
  name: 'tail',
  parameters: ['channel'],
  summary: 'follow a channel: every change as it comes',
  options: {
    since: { value: '<version>', help: 'begin after this version; default: with the whole state' },
    filter: { value: '<column=value>', repeats: true, help: 'only rows with this value' },
    url: URL_OPTION,
  },
  notes: `On a terminal: + a new row, ~ a changed one, - one that is gone.
In a pipe: one Delta a line, as JSON; parts ("more": true) as they come.
It reconnects by itself and ends on ^C.`,
  async run(input, { config, terminal }) {
    const url = streamUrl(serverUrl(config, input.text('url')), input)
    const stop = new AbortController()
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort())
    await tail(url, { since: input.text('since'), signal: stop.signal, terminal })
    return 0
  },
}

/** Throws StartupError. */
function streamUrl(server: URL, input: Input): URL {
  const url = new URL(`v1/channels/${encodeURIComponent(input.parameter('channel'))}/stream`, server)
  for (const filter of input.texts('filter')) {
    const equals = filter.indexOf('=')
    if (equals < 1) throw new StartupError(`--filter is ${JSON.stringify(filter)}`, 'write it as --filter column=value')
    url.searchParams.append(filter.slice(0, equals), filter.slice(equals + 1))
  }
  return url
}

interface TailOptions {
  readonly since: string | undefined
  readonly signal: AbortSignal
  readonly terminal: Terminal
}

async function tail(url: URL, { since, signal, terminal }: TailOptions): Promise<void> {
  const replica = new Replica()
  const show = terminal.isInteractive ? showChanges(replica, terminal) : showJson(terminal)
  let hasConnected = false
  try {
    await follow({
      url, since, signal,
      onConnect: () => { hasConnected = true },
      onDelta: show,
      onStatus: ({ stale_since }) => terminal.complain(stale_since === null ? 'the server sees its database again' : `the server has not seen its database since ${stale_since}`),
      onDisconnect: ({ cause, retryInMs }) => {
        replica.disconnect()
        // A wrong address is not cured by trying again.
        if (!hasConnected && cause !== null) throw cause instanceof FollowError ? cause : unreachable(url, cause)
        if (cause !== null) terminal.complain(`${cause.message}; trying again in ${(retryInMs / 1_000).toFixed(1)} s`)
      },
    })
  } catch (error) {
    if (error instanceof FollowError) throw explainRefusal(url, error.status, error.problem)
    throw error
  }
}

function showChanges(replica: Replica, terminal: Terminal): (delta: Delta) => void {
  return (delta) => {
    const applied = replica.apply(delta)
    if (applied !== null) for (const line of describeApplied(applied, replica, { atMs: Date.now(), paint: terminal.paint })) terminal.print(line)
  }
}

function showJson(terminal: Terminal): (delta: Delta, text: string) => void {
  // A line break between two tokens is legal in JSON, and would end our line.
  return (_delta, text) => terminal.print(text.replaceAll('\n', ' '))
}
