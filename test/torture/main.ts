/** `npm run torture -- --minutes 5 --seed 1 --faults all`: exit code 1 on any violation. */
import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { renderReport } from './report.ts'
import { torture } from './torture.ts'

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '1' },
    seed: { type: 'string', default: '1' },
    /** `all`, `none`, or names with commas between them; `all,-crash` leaves one out. */
    faults: { type: 'string', default: 'all' },
    nodes: { type: 'string', default: '2' },
    /** Where to write everything, as JSON. */
    json: { type: 'string' },
  },
})

const report = await torture({
  seed: Number(values.seed), minutes: Number(values.minutes), nodes: Number(values.nodes), faults: values.faults.split(','),
  log: (line) => process.stdout.write(`${line}\n`),
})
process.stdout.write(`${renderReport(report)}\n`)
if (values.json !== undefined) await writeFile(values.json, JSON.stringify(report, null, 2))
process.exitCode = report.violations.length === 0 ? 0 : 1
