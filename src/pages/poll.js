// The poll: one bar an option, one button to vote. It draws whatever rows it is given; it owns the votes that
// leave this page and the measurement of how fast they come back. A failed vote is said aloud, never hidden.
import { el, setText } from './dom.js'
import { LatencyMeter } from './latency.js'

const VOTES_PATH = '/demo/votes'
const CALM = matchMedia('(prefers-reduced-motion: reduce)')

/** Is this channel shaped like a poll? */
export function isPoll({ name, columns }) {
  const has = new Set(columns.map((column) => column.name))
  return name === 'options' && ['id', 'label', 'votes'].every((column) => has.has(column))
}

export class PollView {
  meter = new LatencyMeter()

  #list = el('ul', { class: 'options' })
  #options = new Map() // id text → the elements of one option
  #on

  /** `on`: measured(meter), notice(text or null). */
  constructor(on) {
    this.#on = on
    this.element = this.#list
  }

  draw(rows, { changed }) {
    const options = [...rows.values()].sort((a, b) => a.id - b.id)
    const total = options.reduce((sum, row) => sum + votesOf(row), 0)
    const most = Math.max(0, ...options.map(votesOf))
    const fresh = new Set()
    for (const row of options) {
      fresh.add(String(row.id))
      this.#drawOption(row, { total, most })
    }
    for (const [id, option] of this.#options) if (!fresh.has(id)) this.#remove(id, option)
    this.#order(options)
    if (changed.size > 0) this.#measure()
    return { name: 'Votes in total', value: String(total), spoken: speak(options, total) }
  }

  #drawOption(row, { total, most }) {
    const id = String(row.id)
    const option = this.#options.get(id) ?? this.#create(id)
    const votes = votesOf(row)
    const share = total === 0 ? 0 : Math.round((votes / total) * 100)
    const text = String(row.votes ?? 0)
    const label = String(row.label ?? '')

    if (option.votes.textContent !== text) {
      option.moved = option.votes.textContent !== ''
      option.votes.textContent = text
      if (option.moved && !CALM.matches) bump(option.votes)
    }
    setText(option.label, label)
    setText(option.share, `${share} %`)
    option.button.setAttribute('aria-label', `Vote for ${label}`)
    option.element.classList.toggle('leads', votes > 0 && votes === most)
    // The leader fills the track; the share, which is what the bar means, is told to assistive technology.
    option.fill.style.transform = `translateX(${most === 0 ? -100 : (votes / most) * 100 - 100}%)`
    option.bar.setAttribute('aria-label', label)
    option.bar.setAttribute('aria-valuenow', String(share))
    option.bar.setAttribute('aria-valuetext', `${text} votes, ${share} percent`)
  }

  #create(id) {
    const fill = el('div', { class: 'fill' })
    const bar = el('div', { class: 'bar', role: 'progressbar', 'aria-valuemin': '0', 'aria-valuemax': '100' }, fill)
    const label = el('span', { class: 'label' })
    const share = el('span', { class: 'share', 'aria-hidden': 'true' })
    const votes = el('span', { class: 'votes', 'data-testid': `votes-${id}` })
    const button = el('button', { type: 'button', class: 'vote', 'data-testid': `vote-${id}`, onclick: () => this.#vote(id) }, 'Vote')
    const count = el('span', { class: 'count' }, share, votes)
    const element = el('li', { class: 'option', 'data-testid': `option-${id}` }, label, count, bar, button)
    const option = { element, fill, bar, label, share, votes, button, moved: false }
    this.#options.set(id, option)
    return option
  }

  #remove(id, option) {
    option.element.remove()
    this.#options.delete(id)
  }

  #order(rows) {
    rows.forEach((row, index) => {
      const { element } = this.#options.get(String(row.id))
      // Moved only when out of place: moving an element takes the focus from its button.
      if (this.#list.children[index] !== element) this.#list.insertBefore(element, this.#list.children[index] ?? null)
    })
  }

  #measure() {
    for (const [id, option] of this.#options) {
      if (option.moved) this.meter.arrived(id)
      option.moved = false
    }
    this.#on.measured(this.meter)
  }

  async #vote(id) {
    try {
      const body = JSON.stringify({ id: /^\d{1,15}$/.test(id) ? Number(id) : id })
      const response = await fetch(VOTES_PATH, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
      if (!response.ok) return await this.#refused(response)
      const committedAt = Number(response.headers.get('Freshet-Committed-At') ?? NaN)
      const tookMs = Number(/dur=([\d.]+)/.exec(response.headers.get('Server-Timing') ?? '')?.[1] ?? 0)
      if (committedAt > 0) this.meter.committed(id, committedAt, tookMs)
      this.#on.measured(this.meter)
      this.#on.notice(null)
    } catch {
      this.#on.notice('The vote did not arrive: the server cannot be reached.')
    }
  }

  async #refused(response) {
    if (response.status === 404 || response.status === 405) {
      this.#list.classList.add('no-votes')
      this.#on.notice('Voting is switched off on this server. The counts stay live: change a row in the database and watch.')
      return
    }
    this.#on.notice(await detailOf(response))
  }
}

/** What an RFC 9457 problem says, or the bare status if the answer is not one. */
export async function detailOf(response) {
  const problem = await response.json().catch(() => null)
  return problem?.detail ?? problem?.title ?? `The server answered ${response.status}.`
}

// bigint travels as a string, exact to the last digit; a number is good enough for the length of a bar.
function votesOf(row) {
  return Number(row.votes ?? 0) || 0
}

function bump(element) {
  element.animate([{ transform: 'translateY(-0.12em)', opacity: 0.45 }, { transform: 'none', opacity: 1 }], { duration: 260, easing: 'ease-out' })
}

function speak(options, total) {
  return `${options.map((row) => `${row.label} ${row.votes}`).join(', ')}. ${total} votes in total.`
}
