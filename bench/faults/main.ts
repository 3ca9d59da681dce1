/**
 * Faults that take too long for the suite: `npm run bench:faults -- [name…] [--minutes N]`; without names all of them.
 * Prints one table; exit code 1 when a promise was broken. Lost: a client that missed a version, or differs from SELECT in the end.
 */
import { parseArgs } from 'node:util'
import { neverReading, returning } from './crowds.ts'
import { align, describe, HEADINGS, isGood, type Outcome } from './outcome.ts'
import { crashes, outage } from './outages.ts'
import { soak } from './soak.ts'
import { bulkCopy, bulkInsert } from './volume.ts'

const { values, positionals } = parseArgs({ allowPositionals: true, options: { minutes: { type: 'string', default: '10' } } })

const SCENARIOS: Readonly<Record<string, () => Promise<Outcome>>> = {
  'outage-1': outage(1),
  'outage-10': outage(10),
  'outage-60': outage(60),
  'crashes': crashes,
  'return-stop': returning('stop'),
  'return-kill': returning('kill'),
  'never-reading': neverReading,
  'bulk-insert': bulkInsert,
  'bulk-copy': bulkCopy,
  'soak': soak(Number(values.minutes)),
}

const outcomes: Outcome[] = []
for (const name of positionals.length === 0 ? Object.keys(SCENARIOS) : positionals) {
  const scenario = SCENARIOS[name]
  if (scenario === undefined) throw new Error(`there is no fault "${name}"; known: ${Object.keys(SCENARIOS).join(', ')}`)
  const startedMs = performance.now()
  const outcome = await scenario()
  console.log(`${name}: ${isGood(outcome) ? 'as promised' : 'BROKEN'} (${Math.round((performance.now() - startedMs) / 1_000)} s)`)
  outcomes.push(outcome)
}
console.log(`\n${align([HEADINGS, ...outcomes.map(describe)])}`)
if (!outcomes.every(isGood)) process.exitCode = 1
