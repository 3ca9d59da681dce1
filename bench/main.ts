/** `npm run bench`: every line of the table, or those that are named; what they mean is in README.md beside this file. */
import { parseArgs } from 'node:util'
import { Lab } from './lab.ts'
import { isMet, type CurvePoint, type Line, type Measured, type Scale } from './line.ts'
import { bulkFilters } from './lines/bulk-filters.ts'
import { bulkLoad } from './lines/bulk-load.ts'
import { burst } from './lines/burst.ts'
import { catchUp } from './lines/catch-up.ts'
import { channels } from './lines/channels.ts'
import { connectStorm } from './lines/connect-storm.ts'
import { fanOut } from './lines/fan-out.ts'
import { filters } from './lines/filters.ts'
import { firstState } from './lines/first-state.ts'
import { idleStreams } from './lines/idle-streams.ts'
import { latency } from './lines/latency.ts'
import { latencyUnderLoad } from './lines/latency-under-load.ts'
import { pollCachedDelta, pollNothingNew } from './lines/poll.ts'
import { wal } from './lines/wal.ts'
import { writeTax } from './lines/write-tax.ts'
import { keepResults } from './results.ts'
import { combine, combinePoints } from './runs.ts'
import { printTable } from './table.ts'

const LINES: readonly Line[] = [
  writeTax, latency, latencyUnderLoad, fanOut, burst, idleStreams, connectStorm, pollNothingNew, pollCachedDelta,
  filters, channels, firstState, catchUp, bulkLoad, bulkFilters, wal,
]

/** What a minute tells of a change that made something much slower, on a machine with other work to do. */
const GUARDS: readonly Line[] = [writeTax, fanOut, idleStreams, pollNothingNew]
const GUARD_SLACK = 3

const { values: { guard, times }, positionals } = parseArgs({ options: { guard: { type: 'boolean', default: false }, times: { type: 'string', default: '1' } }, allowPositionals: true })
const unknown = positionals.filter((name) => !LINES.some((line) => line.name === name))
if (unknown.length > 0) throw new Error(`no line ${unknown.join(', ')}; there are ${LINES.map(({ name }) => name).join(', ')}`)
const lines = (guard ? GUARDS : LINES).filter(({ name }) => positionals.length === 0 || positionals.includes(name))

const runs: Measured[][] = []
const curve: CurvePoint[] = []
for (let time = 0; time < Number(times); time += 1) {
  const run: Measured[] = []
  for (const line of lines) {
    const measured = await measure(line, guard ? 'guard' : 'full')
    if (measured === null) process.exitCode = 1
    else run.push(measured)
  }
  runs.push(run)
}
const results = combine(runs)
printTable(results, guard ? GUARD_SLACK : 1)
if (guard && results.some(({ figures }) => figures.some((figure) => isMet(figure, GUARD_SLACK) === false))) process.exitCode = 1
// Of a part nothing is kept: one file, one run of everything.
if (!guard && results.length === LINES.length) await keepResults(results, combinePoints(curve))

/** Null where it could not be measured; why is on stderr. */
async function measure(line: Line, scale: Scale): Promise<Measured | null> {
  const lab = new Lab()
  const startedMs = performance.now()
  try {
    const figures = await line.measure(lab, scale)
    curve.push(...lab.curve)
    const seconds = (performance.now() - startedMs) / 1_000
    console.error(`${line.name}: ${figures.length === 0 ? 'left out, its tools are not installed' : `${seconds.toFixed(0)} s`}`)
    return { line: line.name, figures, seconds }
  } catch (error) {
    console.error(`${line.name} failed:`, error)
    return null
  } finally {
    await lab.close()
  }
}
