/** `freshet check`: looks at a database and says what would not work and how to mend it. Changes nothing. */
import type { Pool } from '../database/pool.ts'
import { checkPooler } from './check-pooler.ts'
import { checkCurrent, checkGrants, checkInstallable, readSchema, readWake } from './check-schema.ts'
import { checkPublications, checkRoom, checkServer, checkSettings } from './check-server.ts'
import { checkLog, checkTables } from './check-tables.ts'
import type { Command } from './command.ts'
import { withDatabase } from './database.ts'
import { attempt, describeFinding, type Finding, type Subject } from './findings.ts'
import { grantScript } from './grants.ts'
import type { Terminal } from './terminal.ts'

export const command: Command = {
  name: 'check',
  parameters: [],
  summary: 'say what in the database would not work, and how to mend it',
  options: { grants: { value: '<role>', help: 'print instead the least that a server running as this role needs' } },
  notes: 'Changes nothing. Exit code 1 when there is a problem; warnings are none.',
  async run(input, { config, terminal }) {
    const role = input.text('grants')
    if (role !== undefined) return printGrants(role, terminal, (work) => withDatabase(config, work))
    const findings = await withDatabase(config, (pool, url) => inspect({ pool, url, config }))
    for (const finding of findings) terminal.print(describeFinding(finding, terminal.paint))
    return findings.some(({ level }) => level === 'problem') ? 1 : 0
  },
}

async function printGrants(role: string, terminal: Terminal, lend: <T>(work: (pool: Pool) => Promise<T>) => Promise<T>): Promise<number> {
  for (const line of await lend((pool) => grantScript(pool, role))) terminal.print(line)
  return 0
}

/** Everything that is found, in the order to mend it. */
export async function inspect(subject: Subject): Promise<readonly Finding[]> {
  const { isUsable, findings } = await checkServer(subject)
  if (!isUsable) return findings
  return [
    ...findings,
    ...await attempt('the way to the server', () => checkPooler(subject)),
    ...await attempt('the room for connections', () => checkRoom(subject)),
    ...await attempt('the publications', () => checkPublications(subject)),
    ...await inspectSchema(subject),
  ]
}

async function inspectSchema(subject: Subject): Promise<readonly Finding[]> {
  const schema = await readSchema(subject)
  if (!schema.is_installed) return [...await attempt('the settings', () => checkSettings(subject, true)), ...await attempt('the schema', async () => [await checkInstallable(subject, schema)])]
  const current = await attempt('the schema', () => checkCurrent(subject, schema))
  const isCurrent = current.every(({ level }) => level === 'ok')
  const settings = await attempt('the settings', async () => checkSettings(subject, !isCurrent || await readWake(subject)))
  if (!isCurrent) return [...settings, ...current]
  return [
    ...settings,
    ...current,
    ...await attempt('the grants', () => checkGrants(subject, schema)),
    ...await attempt('the watched tables', () => checkTables(subject)),
    ...await attempt('the log', () => checkLog(subject)),
  ]
}
