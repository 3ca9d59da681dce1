// The live page: finds the channels, keeps one of them open, and hands its rows to the view that suits it.
// Whatever fails is said in the notice, and tried again for as long as the page is open.
import { codeBlock, el, setText } from './dom.js'
import { Feed } from './feed.js'
import { formatMs } from './latency.js'
import { PollView, detailOf, isPoll } from './poll.js'
import { TableView } from './table.js'

const ANNOUNCE_EVERY_MS = 5_000
const LOOK_AGAIN_MS = 4_000
const DEMO = 'options'

const byId = (id) => document.getElementById(id)
const byTestId = (id) => document.querySelector(`[data-testid="${id}"]`)
const stage = byId('stage')
const picker = byId('channel')

const curl = {
  stream: codeBlock('', { language: 'shell', label: 'Copy the stream command' }),
  poll: codeBlock('', { language: 'shell', label: 'Copy the poll command' }),
}
byId('curl-stream').append(curl.stream)
byId('curl-poll').append(curl.poll)

let feed = null

// One channel on the screen

function show(channel) {
  feed?.close()
  const view = isPoll(channel) ? new PollView({ measured: showLatency, notice: showNotice }) : new TableView(channel)
  document.body.classList.toggle('table-view', view instanceof TableView)
  document.title = `${channel.name} · Freshet`
  stage.replaceChildren(view.element)
  setText(byTestId('version'), '–')
  setText(byTestId('total'), '–')
  showState('connecting', null)
  showNotice(channel.parked_reason ? `This channel is parked: ${channel.parked_reason}` : null)
  showCommands(channel.name, null)
  for (const id of ['tv-link', 'tv-link-2']) byId(id).href = channel.name === DEMO ? '/tv' : `/tv?channel=${encodeURIComponent(channel.name)}`

  const opened = new Feed(channel.name, {
    state: showState,
    refused: () => explainRefusal(channel.name, opened),
    change: drawSoon(view, channel.name),
  })
  feed = opened
}

// The poll is a handful of elements and draws at once; a table of 200 rows draws once a frame, however many
// versions a burst brings in between.
function drawSoon(view, name) {
  let pending = null
  const draw = () => {
    const { version, rows } = feed.replica
    const summary = view.draw(rows, pending)
    const first = byTestId('version').textContent === '–'
    pending = null
    setText(byTestId('version'), version)
    setText(byId('total-name'), summary.name)
    setText(byTestId('total'), summary.value)
    if (first) showCommands(name, version)
    announce(summary.spoken)
  }
  return ({ reset, changed }) => {
    const waiting = pending !== null
    pending = waiting ? { reset: reset || pending.reset, changed: new Set([...pending.changed, ...changed]) } : { reset, changed }
    if (view instanceof PollView || document.hidden) draw()
    else if (!waiting) requestAnimationFrame(() => pending !== null && view.element.isConnected && draw())
  }
}

// What the gauges say

function showState(state, staleSince) {
  const text = byTestId('state')
  setText(text, state)
  text.parentElement.dataset.state = state
  if (state === 'stale') showNotice(`The server has not heard from its database since ${timeOf(staleSince)}. What you see is the last state that arrived.`, 'state')
  else if (state === 'offline') showNotice('The server cannot be reached. What you see is the last state that arrived; this page keeps trying.', 'state')
  else if (byId('notice').dataset.about === 'state' && state === 'live') showNotice(null)
}

function showLatency(meter) {
  setText(byTestId('latency'), formatMs(meter.lastMs))
  setText(byTestId('median'), formatMs(meter.medianMs))
}

function showNotice(text, about = '') {
  const notice = byId('notice')
  setText(notice, text ?? '')
  notice.dataset.about = about
  notice.hidden = text === null
}

function showCommands(name, version) {
  const base = `${location.origin}/v1/channels/${encodeURIComponent(name)}`
  curl.stream.setCode(`curl -N ${base}/stream`)
  curl.poll.setCode(version === null ? `curl -i ${base}/changes` : `curl -i '${base}/changes?since=${version}'`)
}

function timeOf(iso) {
  const time = new Date(iso)
  return Number.isNaN(time.getTime()) ? String(iso) : time.toLocaleTimeString()
}

// A screen reader hears the totals, at most once in five seconds, and always the last ones.
let spokenAt = 0
let spokenTimer = 0
function announce(text) {
  clearTimeout(spokenTimer)
  const speak = () => {
    spokenAt = Date.now()
    setText(byId('announcer'), text)
  }
  spokenTimer = setTimeout(speak, Math.max(0, spokenAt + ANNOUNCE_EVERY_MS - Date.now()))
}

// EventSource does not tell why it was refused; a poll of the same channel does.
async function explainRefusal(name, asked) {
  const response = await fetch(`/v1/channels/${encodeURIComponent(name)}/changes?limit=1`).catch(() => null)
  if (response !== null && !response.ok && feed === asked) showNotice(await detailOf(response), 'state')
}

// Which channel

async function start() {
  const channels = await fetchChannels()
  const wanted = new URLSearchParams(location.search).get('channel') ?? DEMO
  const chosen = channels.find(({ name }) => name === wanted) ?? channels[0]
  if (chosen === undefined) {
    if (stage.querySelector('.code') === null) stage.replaceChildren(emptyHall()) // once: the focus may be on its button
    setTimeout(start, LOOK_AGAIN_MS)
    return
  }
  picker.replaceChildren(...channels.map(({ name }) => el('option', { value: name, selected: name === chosen.name }, name)))
  byId('picker').hidden = channels.length < 2
  picker.onchange = () => {
    const url = new URL(location.href)
    url.searchParams.set('channel', picker.value)
    history.replaceState(null, '', url)
    show(channels.find(({ name }) => name === picker.value))
  }
  show(chosen)
  if (wanted !== chosen.name && wanted !== DEMO) showNotice(`There is no channel “${wanted}”. This is “${chosen.name}”.`)
}

async function fetchChannels() {
  for (let waitMs = 1_000; ; waitMs = Math.min(waitMs * 2, 30_000)) {
    try {
      const response = await fetch('/v1/channels')
      if (response.ok) return (await response.json()).channels
      showNotice(await detailOf(response))
    } catch {
      showState('offline', null)
    }
    await new Promise((resolve) => setTimeout(resolve, waitMs * (0.5 + Math.random() / 2)))
  }
}

function emptyHall() {
  return el('div', { class: 'waiting' },
    el('p', {}, 'No channels yet. Watch a table, and it appears here:'),
    codeBlock("select freshet.watch('public.options')", { language: 'shell', label: 'Copy the SQL' }))
}

start()
