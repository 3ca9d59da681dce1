/** What a whole run leaves behind beside this file: results.json, results.svg, and its table in README.md. */
import { readFile, writeFile } from 'node:fs/promises'
import { cpus, release, totalmem } from 'node:os'
import { drawChart } from './chart.ts'
import { isMet, ratioOf, type CurvePoint, type Measured } from './line.ts'
import { cells, HEADINGS } from './table.ts'

export async function keepResults(results: readonly Measured[], curve: readonly CurvePoint[]): Promise<void> {
  const lines = results.map(({ line, figures, seconds }) => ({
    line, seconds, figures: figures.map((figure) => ({ ...figure, ratio: ratioOf(figure), met: isMet(figure) })),
  }))
  await writeFile(new URL('results.json', import.meta.url), `${JSON.stringify({ date: new Date().toISOString(), machine: machine(), lines, curve }, null, 2)}\n`)
  await writeFile(new URL('results.svg', import.meta.url), drawChart(curve))
  await replaceTable(results)
}

interface Machine {
  readonly cores: number
  readonly cpu: string
  readonly memoryBytes: number
  readonly kernel: string
  readonly node: string
}

function machine(): Machine {
  return { cores: cpus().length, cpu: cpus()[0]?.model ?? 'unknown', memoryBytes: totalmem(), kernel: `${process.platform} ${release()}`, node: process.version }
}

const README = new URL('README.md', import.meta.url)
/** Between these the table is put. */
const FROM = '<!-- results -->\n'
const TO = '<!-- /results -->'

async function replaceTable(results: readonly Measured[]): Promise<void> {
  const text = await readFile(README, 'utf8')
  const from = text.indexOf(FROM) + FROM.length
  const to = text.indexOf(TO)
  if (from < FROM.length || to < from) throw new Error('README.md has no place for the results')
  const { cores, cpu, memoryBytes, kernel, node } = machine()
  const outline = `${new Date().toISOString().slice(0, 10)}: ${cores} cores (${cpu}), ${Math.round(memoryBytes / 2 ** 30)} GB, ${kernel}, Node ${node}.`
  const rows = [HEADINGS, HEADINGS.map(() => '---'), ...results.flatMap(({ line, figures }) => figures.map((figure) => cells(line, figure, 1)))]
  const table = rows.map((row) => `| ${row.join(' | ')} |`).join('\n')
  await writeFile(README, `${text.slice(0, from)}${outline}\n\n${table}\n${text.slice(to)}`)
}
