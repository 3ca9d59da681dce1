/** The scores as an SVG: a row for each family, a mark for each policy. */

export interface Row {
  readonly family: string
  /** Lag over that of a fixed interval, by policy. */
  readonly lags: Readonly<Record<string, number>>
}

const COLOURS = ['#9aa5ab', '#c98a2b', '#0a84c1', '#3aa26b']
const LEFT = 190
const WIDTH = 520
const ROW = 22
const TOP = 56
/** The ends of the logarithmic scale. */
const [LEAST, MOST] = [0.1, 3]

function x(lag: number): number {
  return LEFT + (WIDTH * Math.log(Math.min(MOST, Math.max(LEAST, lag)) / LEAST)) / Math.log(MOST / LEAST)
}

export function chart(rows: readonly Row[], policies: readonly string[]): string {
  const height = TOP + ROW * rows.length + 30
  const lines = [0.1, 0.2, 0.5, 1, 2].map((lag) => `<path d="M${x(lag).toFixed(1)} ${TOP - 8}V${height - 24}" stroke="${lag === 1 ? '#444' : '#ddd'}"/><text x="${x(lag).toFixed(1)}" y="${height - 8}" text-anchor="middle">${lag}</text>`)
  const legend = policies.map((policy, i) => `<circle cx="${LEFT + i * 120}" cy="34" r="5" fill="${COLOURS[i] ?? '#000'}"/><text x="${LEFT + 10 + i * 120}" y="38">${policy}</text>`)
  const marks = rows.map(({ family, lags }, row) => {
    const y = TOP + ROW * row + ROW / 2
    const circles = policies.map((policy, i) => `<circle cx="${x(lags[policy] ?? 1).toFixed(1)}" cy="${y}" r="5" fill="${COLOURS[i] ?? '#000'}"/>`)
    return `<text x="${LEFT - 12}" y="${y + 4}" text-anchor="end">${family}</text>${circles.join('')}`
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${LEFT + WIDTH + 30} ${height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>
<text x="12" y="18" font-size="14">Delay over that of a fixed interval with as many requests (left is better)</text>
${[...legend, ...lines, ...marks].join('\n')}
</svg>
`
}
