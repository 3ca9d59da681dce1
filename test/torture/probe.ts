/** A commit that every client must come to see, and the end, when every client must hold what SELECT returns. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Judge } from './checks.ts'
import type { Client } from './client.ts'
import { TABLES, type Row } from './schema.ts'
import { persist, type World } from './world.ts'

/** Rows that are always there, in every window on their table. */
const MARKED: Readonly<Record<string, string>> = {
  account: 'id < 0', bank: 'true', pair: 'pair = 0', mirror: 'pair = 0', echo: 'id in (0, 1)', queue: `item = 'probe'`, bulk: 'id = 0',
}

const COMMIT_DEADLINE_MS = 60_000
const ARRIVAL_DEADLINE_MS = 90_000

/** Commits a probe, and resolves when all clients have it to the name of the last; whoever has it not in time is reported: then null. */
export async function probe(world: World, clients: readonly Client[], judge: Judge, number: number): Promise<string | null> {
  await commitProbe(world, number)
  const startedMs = Date.now()
  let last = ''
  let late = clients
  while (late.length > 0 && Date.now() - startedMs < ARRIVAL_DEADLINE_MS) {
    last = late[0]?.habits.name ?? last
    await delay(10)
    late = clients.filter((client) => client.probe < number)
  }
  for (const { habits, version, probe: last, counts, replicas } of late) {
    judge.report('stuck', habits.name, `has not seen probe ${number} after ${ARRIVAL_DEADLINE_MS / 1_000} s: is at ${version ?? 'nothing'}, which has probe ${last}; ${JSON.stringify(counts)}`, [], replicas[0])
  }
  return late.length === 0 ? last : null
}

/** Table by table: whoever takes several rows at once meets writers who took them in another order. */
async function commitProbe(world: World, number: number): Promise<void> {
  for (const { name } of TABLES) {
    const rows = await persist(() => world.query(`update public.${name} set probe = $1 where ${MARKED[name] ?? 'false'} returning 1`, [number]), COMMIT_DEADLINE_MS)
    if (rows.length === 0) throw new Error(`no row of ${name} took the probe`)
  }
}

/** Compares what the clients hold with the tables, now that nobody writes. */
export async function compareWithTables(world: World, clients: readonly Client[], judge: Judge): Promise<void> {
  for (const table of TABLES) {
    const found = await persist(() => world.query<{ row: Record<string, string | number> }>(`select to_jsonb(t) as row from public.${table.name} t`), COMMIT_DEADLINE_MS)
    const truth = new Map(found.map(({ row }) => {
      // As the contract writes them: exact to the last digit.
      for (const name of table.exact) row[name] = String(row[name])
      return [canonical(row), row] as const
    }))
    for (const { habits, replicas, version } of clients) {
      for (const replica of replicas.filter((candidate) => candidate.table === table)) {
        const wanted = [...truth].filter(([, row]) => replica.filter === null || table.filter === null || row[table.filter.column] === replica.filter)
        const held = new Map([...replica.rows.values()].map((row) => [canonical(row), row]))
        const lost = wanted.filter(([text]) => !held.delete(text)).map(([, row]) => row)
        const at = `of ${table.name} at the end, at ${version ?? 'nothing'}`
        if (lost.length > 0) judge.report('lost', habits.name, `${lost.length} rows ${at}`, lost, replica)
        if (held.size > 0) judge.report('ghost', habits.name, `${held.size} rows too many ${at}`, [...held.values()], replica)
      }
    }
  }
}

function canonical(row: Row): string {
  return JSON.stringify(Object.entries(row).sort(([a], [b]) => a < b ? -1 : 1))
}
