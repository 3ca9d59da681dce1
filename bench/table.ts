/** The table that a run prints. */
import { isMet, ratioOf, type Bound, type Figure, type Measured } from './line.ts'

export const HEADINGS = ['line', 'work', 'measured', 'floor or peer', 'ratio', 'required', 'reach', 'met']

/** `slack`: see isMet. */
export function printTable(results: readonly Measured[], slack: number): void {
  const rows = results.flatMap(({ line, figures }) => figures.map((figure) => cells(line, figure, slack)))
  const widths = HEADINGS.map((heading, column) => Math.max(heading.length, ...rows.map((row) => (row[column] ?? '').length)))
  for (const row of [HEADINGS, ...rows]) console.log(row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd())
}

export function cells(line: string, figure: Figure, slack: number): readonly string[] {
  const { work, measured, unit, against, bound } = figure
  const ratio = ratioOf(figure)
  return [
    line, work, `${format(measured)} ${unit}`, against === null ? '' : `${against.name} ${format(against.measured)}`,
    ratio === null ? '' : ratio.toFixed(2), limit(figure, bound?.required), limit(figure, bound?.reach), { true: 'yes', false: 'NO', null: '' }[String(isMet(figure, slack))] ?? '',
  ]
}

function limit({ bound, judged, unit }: Figure, value: number | undefined): string {
  if (bound === null || value === undefined) return ''
  return `${SIGNS[bound.kind]} ${value}${judged === 'ratio' ? '×' : ` ${unit}`}`
}

const SIGNS: Readonly<Record<Bound['kind'], string>> = { most: '≤', least: '≥' }

/** Three digits that matter. */
function format(value: number): string {
  return value >= 1_000 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)))
}
