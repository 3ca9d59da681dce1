#!/usr/bin/env node
/** The process: arguments in, exit code out. What a command does is in the file that bears its name. */
import { parseArgs } from 'node:util'
import { start } from './commands/start.ts'
import { readConfig } from './config.ts'
import { StartupError } from './errors.ts'

const HELP = `freshet - PostgreSQL rows on every screen

Usage: freshet <command>

  start                serve (on the embedded PostgreSQL unless DATABASE_URL is set)

Configuration comes from the environment; see README.md for all of it.
  DATABASE_URL   postgres://user:password@host:port/database; empty: embedded
  HOST, PORT     127.0.0.1, 8080
`

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({ allowPositionals: true, strict: false, options: { help: { type: 'boolean', short: 'h' } } })
  const command = positionals[0] ?? 'start'
  if (values['help'] === true || command === 'help') {
    process.stdout.write(HELP)
    return 0
  }
  switch (command) {
    case 'start': return start(readConfig(process.env))
    default: throw new StartupError(`there is no command ${JSON.stringify(command)}`, 'run "freshet --help" for those there are')
  }
}

try {
  process.exitCode = await main()
} catch (error) {
  process.stderr.write(error instanceof StartupError ? `freshet: ${error.message}\n` : `freshet: ${error instanceof Error ? error.stack ?? error.message : String(error)}\n`)
  process.exitCode = 1
}
