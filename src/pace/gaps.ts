/**
 * What the gaps between commits tell: how long a silence of this age still lasts, and how many commits follow its end.
 * A histogram of gaps on a logarithmic scale, one for each pace the channel was at when the gap began; a heavy-tailed
 * prior keeps some hope alive in every silence, so that one quiet night does not silence the next morning.
 */
import { CELLS, easedRate, GRID, type Forecast } from './plan.ts'

const SHORTEST = 0.05
const BINS_PER_DECADE = 5
const BINS = 32
/** Paces a channel may be at, by its recent gaps: below 1 s, below 5 s, ... */
const PACES = 6
const PACE_STEP = 5
/** Weight of one more gap in the recent pace. */
const PACE_GAIN = 0.3
/** Gaps after which what was learned has faded to a third. */
const FADE = 1 - 1 / 800
/** Imagined gaps in each bin of the histogram of all gaps. */
const PRIOR = 0.05
/** Gaps that the histogram of all paces counts for in that of one. */
const SHARED = 8

/** Where GRID[j] - middle of cell i falls on the grid: the cell, and how far into it. */
const LAG_CELL = new Uint8Array(CELLS * (CELLS + 1))
const LAG_PART = new Float64Array(CELLS * (CELLS + 1))
for (let j = 1; j <= CELLS; j++) {
  for (let i = 0; i < j; i++) {
    const lag = (GRID[j] ?? 0) - ((GRID[i] ?? 0) + (GRID[i + 1] ?? 0)) / 2
    let cell = j - 1
    while ((GRID[cell] ?? 0) > lag) cell--
    LAG_CELL[j * CELLS + i] = cell
    LAG_PART[j * CELLS + i] = (lag - (GRID[cell] ?? 0)) / ((GRID[cell + 1] ?? 0) - (GRID[cell] ?? 0))
  }
}

/** Chance that a gap is longer than the lower edge of a bin. */
const survival = new Float64Array(BINS + 1)
const next = new Float64Array(CELLS)
const gap = new Float64Array(CELLS)
/** Commits expected within GRID[j] from now. */
const expected = new Float64Array(CELLS + 1)

export class Gaps {
  #at: number | null = null
  #recent = Math.log(30)
  readonly #counts = new Float64Array(PACES * BINS)
  readonly #all = new Float64Array(BINS)
  /** Commits expected within GRID[j] of a commit; worked out again when a commit has changed it. */
  readonly #renewed = new Float64Array(CELLS + 1)
  #isRenewed = false

  observe(at: number): void {
    if (this.#at !== null) {
      const length = Math.max(SHORTEST, at - this.#at)
      const bin = Math.max(0, Math.min(BINS - 1, Math.floor(position(length))))
      const pace = this.#pace()
      for (let i = pace * BINS; i < (pace + 1) * BINS; i++) this.#counts[i] = (this.#counts[i] ?? 0) * FADE
      for (let i = 0; i < BINS; i++) this.#all[i] = (this.#all[i] ?? 0) * FADE
      this.#counts[pace * BINS + bin] = (this.#counts[pace * BINS + bin] ?? 0) + 1
      this.#all[bin] = (this.#all[bin] ?? 0) + 1
      this.#recent += PACE_GAIN * (Math.log(length) - this.#recent)
    }
    this.#at = at
    this.#isRenewed = false
  }

  /** Fills in what is expected after `now`. */
  forecast(now: number, { masses, eased }: Forecast): void {
    this.#survive()
    if (!this.#isRenewed) this.#renew()
    const renewed = this.#renewed
    gapCells(this.#at === null ? 60 : Math.max(0, now - this.#at), next)
    let quiet = 1
    for (let j = 1; j <= CELLS; j++) {
      let sum = 0
      for (let i = 0; i < j; i++) {
        const cell = LAG_CELL[j * CELLS + i] ?? 0
        const part = LAG_PART[j * CELLS + i] ?? 0
        sum += (next[i] ?? 0) * (1 + (renewed[cell] ?? 0) * (1 - part) + (renewed[cell + 1] ?? 0) * part)
      }
      expected[j] = sum
      const mass = Math.max(0, sum - (expected[j - 1] ?? 0))
      const ends = next[j - 1] ?? 0
      masses[j - 1] = mass
      eased[j - 1] = easedRate(mass, quiet - ends / 2, ends / Math.max(1e-9, quiet - ends / 2))
      quiet -= ends
    }
  }

  save(): number[] {
    return [this.#at ?? -1, this.#recent, ...this.#all, ...this.#counts]
  }

  load(state: readonly number[]): void {
    if (state.length !== 2 + BINS * (PACES + 1)) return
    const [at = -1, recent = 0] = state
    this.#at = at < 0 ? null : at
    this.#recent = recent
    this.#all.set(state.slice(2, 2 + BINS))
    this.#counts.set(state.slice(2 + BINS))
    this.#isRenewed = false
  }

  /** The renewal equation: whatever follows a gap begins anew at its end. */
  #renew(): void {
    const renewed = this.#renewed
    gapCells(0, gap)
    for (let j = 1; j <= CELLS; j++) {
      let sum = 0
      let self = 0
      for (let i = 0; i < j; i++) {
        const cell = LAG_CELL[j * CELLS + i] ?? 0
        const part = LAG_PART[j * CELLS + i] ?? 0
        const chance = gap[i] ?? 0
        sum += chance * (1 + (renewed[cell] ?? 0) * (1 - part))
        if (cell + 1 === j) self += chance * part
        else sum += chance * (renewed[cell + 1] ?? 0) * part
      }
      renewed[j] = sum / (1 - Math.min(0.99, self))
    }
    this.#isRenewed = true
  }

  #pace(): number {
    return Math.max(0, Math.min(PACES - 1, Math.ceil(this.#recent / Math.log(PACE_STEP))))
  }

  #survive(): void {
    const pace = this.#pace() * BINS
    let all = 0
    let own = 0
    for (let i = 0; i < BINS; i++) {
      all += (this.#all[i] ?? 0) + PRIOR
      own += this.#counts[pace + i] ?? 0
    }
    let left = 1
    for (let i = 0; i < BINS; i++) {
      survival[i] = left
      left -= ((this.#counts[pace + i] ?? 0) + (SHARED * ((this.#all[i] ?? 0) + PRIOR)) / all) / (own + SHARED)
    }
    survival[BINS] = 1e-9
  }
}

/** Bin, with a fraction, of the length of a gap. */
function position(length: number): number {
  return BINS_PER_DECADE * Math.log10(length / SHORTEST)
}

/** Fills the chance, for a gap that has lasted `age`, to end in each cell of GRID. */
function gapCells(age: number, chances: Float64Array): void {
  const now = longer(age)
  let before = now
  for (let i = 0; i < CELLS; i++) {
    const after = longer(age + (GRID[i + 1] ?? 0))
    chances[i] = (before - after) / now
    before = after
  }
}

function longer(length: number): number {
  const at = position(length)
  if (!(at > 0)) return 1
  const bin = Math.min(BINS - 1, Math.floor(at))
  const part = at - bin
  const low = survival[bin] ?? 0
  return part <= 1 ? low + ((survival[bin + 1] ?? 0) - low) * part : 1e-9 * 10 ** ((1 - part) / BINS_PER_DECADE)
}
