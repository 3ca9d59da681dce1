/** `freshet migrate`: brings the schema freshet of the database up to date, and says what it did. */
import { migrate } from '../database/migrate.ts'
import type { Command } from './command.ts'
import { withDatabase } from './database.ts'

export const command: Command = {
  name: 'migrate',
  parameters: [],
  summary: 'install the schema freshet in the database, or bring it up to date',
  options: {},
  notes: 'Run it as the owner of the schema when the server starts with MIGRATE=0.',
  async run(_input, { config, terminal }) {
    const applied = await withDatabase(config, migrate)
    if (applied.length === 0) terminal.print('nothing to do: the schema is up to date')
    for (const name of applied) terminal.print(`applied ${name}`)
    return 0
  },
}
