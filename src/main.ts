#!/usr/bin/env node
/** The process: arguments in, exit code out. What a command does is in the file that bears its name. */
import { readFileSync } from 'node:fs'
import { help, readInput, usage, type Command } from './commands/command.ts'
import { leaveWithReader, openTerminal } from './commands/terminal.ts'
import { readConfig } from './config.ts'
import { StartupError } from './errors.ts'

/** Loaded one by one: `tail` needs no database and no web server. */
const COMMANDS: ReadonlyMap<string, () => Promise<{ readonly command: Command }>> = new Map([
  ['start', () => import('./commands/start.ts')],
  ['watch', () => import('./commands/watch.ts')],
  ['unwatch', () => import('./commands/unwatch.ts')],
  ['channels', () => import('./commands/channels.ts')],
  ['tail', () => import('./commands/tail.ts')],
  ['status', () => import('./commands/status.ts')],
  ['check', () => import('./commands/check.ts')],
  ['migrate', () => import('./commands/migrate.ts')],
])

async function main([name = 'start', ...args]: readonly string[]): Promise<number> {
  switch (name) {
    case '--version': case '-v': return print(version())
    case '--help': case '-h': return print(await overview())
    case 'help': return print(args[0] === undefined ? await overview() : help(await load(args[0])))
    default: return run(await load(name), args)
  }
}

function print(text: string): number {
  process.stdout.write(`${text}\n`)
  return 0
}

async function load(name: string): Promise<Command> {
  const file = COMMANDS.get(name)
  if (file !== undefined) return (await file()).command
  const kind = name.startsWith('-') ? 'option' : 'command'
  throw new StartupError(`there is no ${kind} ${JSON.stringify(name)}`, `run "freshet --help" for the ${kind}s there are`)
}

async function run(command: Command, args: readonly string[]): Promise<number> {
  const input = readInput(command, args)
  if (input === null) return print(help(command))
  // The server outlives whoever read its greeting.
  if (command.name !== 'start') leaveWithReader()
  return command.run(input, { config: readConfig(process.env), terminal: openTerminal(process.env) })
}

function version(): string {
  const found: unknown = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
  return typeof found === 'object' && found !== null && 'version' in found ? String(found.version) : 'unknown'
}

async function overview(): Promise<string> {
  const commands = await Promise.all([...COMMANDS.keys()].map(load))
  return `freshet - PostgreSQL rows on every screen

Usage: freshet <command> [options]

${commands.map((command) => `  ${usage({ ...command, options: {} }).padEnd(20)}${command.summary}`).join('\n')}

  --help, --version     also: freshet <command> --help

Configuration comes from the environment; see README.md for all of it.
  DATABASE_URL        postgres://user:password@host:port/database; empty: embedded
  HOST, PORT          127.0.0.1, 8080`
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  process.stderr.write(error instanceof StartupError ? `freshet: ${error.message}\n` : `freshet: ${error instanceof Error ? error.stack ?? error.message : String(error)}\n`)
  process.exitCode = 1
}
