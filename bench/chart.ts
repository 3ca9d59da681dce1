/** The curve as a picture: three small charts side by side, from 10 to 15,000 streams, one line a server. Both axes are logarithmic. */
import type { CurvePoint } from './line.ts'

interface Panel {
  readonly title: string
  readonly of: (point: CurvePoint) => number
}

const PANELS: readonly Panel[] = [
  { title: 'memory a stream, KB', of: ({ bytesEach }) => bytesEach / 1_024 },
  { title: 'CPU a delivery, µs', of: ({ cpuMicrosecondsADelivery }) => cpuMicrosecondsADelivery },
  { title: 'all hold a change, ms', of: ({ allHoldMs }) => allHoldMs },
]
const COLORS: readonly string[] = ['#0b6e4f', '#888888', '#c08a2e', '#8a3ffc']
const PANEL = { width: 300, height: 220, left: 46, top: 34, right: 14, bottom: 34 }

export function drawChart(curve: readonly CurvePoint[]): string {
  const servers = [...new Set(curve.map(({ server }) => server))]
  const width = PANEL.width * PANELS.length
  const legend = servers.map((server, index) => text(PANEL.left + index * 130, PANEL.height + 18, server, { fill: colorOf(index), weight: 'bold' }))
  const panels = PANELS.map((panel, index) => `<g transform="translate(${index * PANEL.width} 0)">${drawPanel(panel, curve, servers)}</g>`)
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${PANEL.height + 30}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="#ffffff"/>
${[...panels, ...legend].join('\n')}
</svg>
`
}

function drawPanel({ title, of }: Panel, curve: readonly CurvePoint[], servers: readonly string[]): string {
  // A value that noise made negative has no place on such an axis.
  const points = curve.filter((point) => of(point) > 0)
  const x = scale(points.map(({ streams }) => streams), PANEL.left, PANEL.width - PANEL.right)
  const y = scale(points.map(of), PANEL.height - PANEL.bottom, PANEL.top)
  const grid = [
    ...x.ticks.map((tick) => `${rule(x.at(tick), PANEL.top, x.at(tick), PANEL.height - PANEL.bottom)}${text(x.at(tick), PANEL.height - PANEL.bottom + 14, short(tick), { anchor: 'middle' })}`),
    ...y.ticks.map((tick) => `${rule(PANEL.left, y.at(tick), PANEL.width - PANEL.right, y.at(tick))}${text(PANEL.left - 5, y.at(tick) + 4, short(tick), { anchor: 'end' })}`),
  ]
  const lines = servers.map((server, index) => {
    const places = points.filter((point) => point.server === server).map((point) => `${x.at(point.streams).toFixed(1)},${y.at(of(point)).toFixed(1)}`)
    return `<polyline points="${places.join(' ')}" fill="none" stroke="${colorOf(index)}" stroke-width="${index === 0 ? 3 : 1.5}"/>`
  })
  return [text(PANEL.left, 20, title, { weight: 'bold' }), ...grid, ...lines].join('\n')
}

/** A logarithmic axis from pixel `from` to pixel `to`, with a tick at each power of ten. */
function scale(values: readonly number[], from: number, to: number): { at(value: number): number; readonly ticks: readonly number[] } {
  const low = Math.floor(Math.log10(Math.min(...values)))
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))))
  return {
    at: (value) => from + (Math.log10(value) - low) / (high - low) * (to - from),
    ticks: Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index)),
  }
}

function rule(x1: number, y1: number, x2: number, y2: number): string {
  return `<path d="M${x1} ${y1}L${x2} ${y2}" stroke="#e4e4e4"/>`
}

function text(x: number, y: number, content: string, { anchor = 'start', weight = 'normal', fill = '#333333' } = {}): string {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" font-weight="${weight}" fill="${fill}">${content.replace(/&/g, '&amp;').replace(/</g, '&lt;')}</text>`
}

function short(value: number): string {
  return value >= 1_000 ? `${value / 1_000}k` : String(value)
}

function colorOf(index: number): string {
  return COLORS[index % COLORS.length] ?? '#333333'
}
