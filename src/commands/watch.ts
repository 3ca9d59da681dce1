/** `freshet watch`: makes a table a channel, by calling freshet.watch as a host's migration would. */
import { withClient, type Pool } from '../database/pool.ts'
import { assertOurs } from '../database/provenance.ts'
import { StartupError } from '../errors.ts'
import type { Command, Input } from './command.ts'
import { withDatabase } from './database.ts'
import { explainStatement } from './statement.ts'

export const command: Command = {
  name: 'watch',
  parameters: ['table'],
  summary: 'make a table a channel, or change its channel',
  options: {
    channel: { value: '<name>', help: 'what to call it; default: the name of the table' },
    filters: { value: '<a,b>', help: 'columns that clients may filter by' },
    columns: { value: '<a,b>', help: 'columns to publish, besides the key; default: all' },
    private: { help: 'no answers for other origins and shared caches' },
  },
  notes: `The table is written as in SQL: orders, shop.orders, '"Orders"'.
The same in SQL: select freshet.watch('shop.orders', filters => '{status}').`,
  async run(input, { config, terminal }) {
    const channel = await withDatabase(config, (pool) => watch(pool, input))
    terminal.print(`watching ${input.parameter('table')} as channel ${channel}`)
    return 0
  },
}

const WATCH = `select freshet.watch($1::text::regclass, channel => $2, filters => $3, columns => $4, public => $5) as channel`

async function watch(pool: Pool, input: Input): Promise<string> {
  return withClient(pool, async (client) => {
    await assertOurs(client, { migrates: false })
    // The table's name is meant as this role would write it in a session of its own.
    await client.query('reset search_path')
    try {
      const { rows: [row] } = await client.query<{ channel: string }>(WATCH,
        [input.parameter('table'), input.text('channel') ?? null, input.list('filters') ?? [], input.list('columns'), !input.has('private')])
      if (row === undefined) throw new StartupError('freshet.watch() answered nothing', 'run "freshet check" for what is wrong')
      return row.channel
    } catch (error) {
      throw explainStatement(error)
    }
  })
}
