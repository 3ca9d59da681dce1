/** `freshet unwatch`: forgets a channel; with the last one of a table its triggers go too. */
import type { Pool } from '../database/pool.ts'
import { assertOurs } from '../database/provenance.ts'
import { StartupError } from '../errors.ts'
import type { Command } from './command.ts'
import { withDatabase } from './database.ts'
import { explainStatement } from './statement.ts'

export const command: Command = {
  name: 'unwatch',
  parameters: ['channel'],
  summary: 'forget a channel, and with the last one of a table its triggers',
  options: {},
  async run(input, { config, terminal }) {
    const channel = input.parameter('channel')
    await withDatabase(config, (pool) => unwatch(pool, channel))
    terminal.print(`channel ${channel} is gone`)
    return 0
  },
}

async function unwatch(pool: Pool, channel: string): Promise<void> {
  await assertOurs(pool, { migrates: false })
  const { rows: [row] } = await pool.query<{ gone: boolean }>('select freshet.unwatch($1) as gone', [channel]).catch((error: unknown) => {
    throw explainStatement(error)
  })
  if (row?.gone === true) return
  throw new StartupError(`there is no channel ${JSON.stringify(channel)}`, 'run "freshet channels" for those there are')
}
