/** Several runs made one: each figure the median of its runs. */
import type { CurvePoint, Figure, Measured } from './line.ts'
import { median } from './statistics.ts'

/** A line that failed in some runs is that of the others. */
export function combine(runs: readonly (readonly Measured[])[]): readonly Measured[] {
  const names = [...new Set(runs.flat().map(({ line }) => line))]
  return names.map((line) => {
    const times = runs.flat().filter((measured) => measured.line === line)
    const figures = (times.at(-1)?.figures ?? []).map((figure, index) => medianFigure(figure, times.flatMap((time) => time.figures[index] ?? [])))
    return { line, seconds: median(times.map(({ seconds }) => seconds)), figures }
  })
}

function medianFigure(last: Figure, figures: readonly Figure[]): Figure {
  const measured = median(figures.map((figure) => figure.measured))
  if (last.against === null) return { ...last, measured }
  return { ...last, measured, against: { ...last.against, measured: median(figures.flatMap(({ against }) => against?.measured ?? [])) } }
}

export function combinePoints(points: readonly CurvePoint[]): readonly CurvePoint[] {
  const places = new Map(points.map(({ server, streams }) => [`${server} ${streams}`, { server, streams }]))
  return [...places.values()].map((place) => {
    const same = points.filter(({ server, streams }) => server === place.server && streams === place.streams)
    const middle = (of: (point: CurvePoint) => number): number => median(same.map(of))
    return {
      ...place, bytesEach: middle(({ bytesEach }) => bytesEach), cpuMicrosecondsADelivery: middle((point) => point.cpuMicrosecondsADelivery),
      allHoldMs: middle(({ allHoldMs }) => allHoldMs),
    }
  })
}
