/**
 * One client, as the contract wants it: collects parts, applies whole answers, comes back with its cursor. Its habits are what sets it
 * apart: how it asks, when it leaves, where it goes next. Promise: every whole answer is checked against the one before and shown to
 * the judge; nothing that happens to a connection ends a client.
 */
import { Agent } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import type { Judge } from './checks.ts'
import type { Random } from './random.ts'
import { Replica, type Change } from './replica.ts'
import { TABLES } from './schema.ts'
import { ask, openStream } from './wire.ts'

export type Transport = 'stream' | 'since' | 'etag' | 'wait' | 'pages'

export interface Habits {
  readonly name: string
  /** One, or several for `/v1/stream`. */
  readonly channels: readonly string[]
  /** The only value of the channel's filter column that it wants. */
  readonly filter?: string
  /** It changes between them whenever it leaves. */
  readonly transports: readonly Transport[]
  /** Leaves at random moments, and comes back. */
  readonly leaves?: boolean
  /** Comes back as somebody who has been away for longer: with an earlier state, and its version. */
  readonly rewinds?: boolean
  /** Does not read what comes, for seconds. */
  readonly stalls?: boolean
  /** Lands on another node each time. */
  readonly roams?: boolean
}

export interface Surroundings {
  readonly judge: Judge
  /** Where the nodes are, for clients. */
  readonly nodes: readonly string[]
  readonly random: (actor: string) => Random
  /** Nobody stalls or goes back while it is measured how long a recovery takes. */
  readonly isCalm: () => boolean
  /** Whether a channel may be away just now. */
  readonly mayBeUnknown: (channel: string) => boolean
}

interface Delta {
  readonly channel: string
  readonly since: string | null
  readonly version: string
  readonly reset: boolean
  readonly more: boolean
  readonly changes: readonly Change[]
  readonly next?: string
}

/** Heartbeats come every 15 s. */
const STREAM_PATIENCE_MS = 20_000
const POLL_PATIENCE_MS = 15_000

export class Client {
  readonly habits: Habits
  readonly replicas: readonly Replica[]
  version: string | null = null
  /** Whole answers, resets among them, sessions, and those that ended in an error. */
  readonly counts = { answers: 0, resets: 0, sessions: 0, errors: 0 }
  readonly #world: Surroundings
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 })
  #parts: Delta[] = []
  #leaving = new AbortController()
  #isOver = false
  #running: Promise<void> | undefined

  constructor(habits: Habits, world: Surroundings) {
    this.habits = habits
    this.#world = world
    this.replicas = habits.channels.map((name) => {
      const table = TABLES.find((candidate) => candidate.name === name)
      if (table === undefined) throw new Error(`there is no table ${name}`)
      return new Replica(table, habits.filter)
    })
  }

  start(): void {
    this.#running ??= this.#run()
  }

  async stop(): Promise<void> {
    this.#isOver = true
    this.#leaving.abort()
    await this.#running
    this.#agent.destroy()
  }

  /** The number of the last probe that every channel shows. */
  get probe(): number {
    return Math.min(...this.replicas.map(({ probe }) => probe))
  }

  async #run(): Promise<void> {
    const { name, transports, leaves = false, rewinds = false } = this.habits
    while (!this.#over()) {
      const random = this.#world.random(`${name}.${this.counts.sessions}`)
      this.counts.sessions += 1
      if (rewinds && random.chance(0.7) && !this.#world.isCalm()) this.#rewind(random)
      this.#leaving = new AbortController()
      const timer = leaves || transports.length > 1 ? setTimeout(() => this.#leaving.abort(), random.between(200, 3_000)) : undefined
      try {
        await this.#session(random.pick(transports), random)
      } catch {
        if (!this.#leaving.signal.aborted) this.counts.errors += 1
      } finally {
        clearTimeout(timer)
      }
      // An answer that is not whole by now never will be.
      this.#parts = []
      if (!this.#over()) await delay(random.between(20, 200))
    }
  }

  #session(transport: Transport, random: Random): Promise<void> {
    const { nodes } = this.#world
    // A client without a will of its own stays with one node.
    const node = this.habits.roams === true ? random.pick(nodes) : nodes[this.habits.name.length % nodes.length] ?? ''
    switch (transport) {
      case 'stream': return this.#follow(node, random)
      case 'since': case 'etag': case 'wait': case 'pages': return this.#poll(node, transport, random)
      default: return transport satisfies never
    }
  }

  #rewind(random: Random): void {
    const [first] = this.replicas
    const common = first?.remembered.filter((version) => this.replicas.every(({ remembered }) => remembered.includes(version))) ?? []
    if (common.length === 0) return
    const version = random.pick(common)
    for (const replica of this.replicas) replica.rewind(version)
    this.version = version
  }

  async #follow(node: string, random: Random): Promise<void> {
    const { channels, stalls = false } = this.habits
    const path = channels.length > 1 ? `/v1/stream?channels=${channels.join(',')}` : `/v1/channels/${channels[0] ?? ''}/stream`
    const stream = await openStream(`${node}${path}${this.#filterQuery('?')}`, {
      headers: this.version === null ? {} : { 'Last-Event-ID': this.version }, signal: this.#leaving.signal, patienceMs: STREAM_PATIENCE_MS,
    })
    if (stream.status !== 200) this.#refused(path, stream.status, stream.problem, [])
    let stallsAtMs = Date.now() + random.between(500, 4_000)
    for await (const { type, id, data } of stream.events()) {
      if (type === 'message' && data !== '') this.#take(JSON.parse(data) as Delta, this.version)
      else if (type === 'message' && id !== null) this.#arrive(id, [])
      if (!stalls || Date.now() < stallsAtMs || this.#world.isCalm()) continue
      const until = Date.now() + random.between(500, 5_000)
      while (Date.now() < until && !this.#world.isCalm()) await delay(50)
      stallsAtMs = Date.now() + random.between(500, 4_000)
    }
  }

  async #poll(node: string, how: Exclude<Transport, 'stream'>, random: Random): Promise<void> {
    let cursor = this.version
    while (!this.#leaving.signal.aborted) {
      const next = await this.#askOnce(node, how, cursor, random)
      cursor = next ?? this.version
      if (how !== 'wait' && next === null) await delay(random.between(30, 250), undefined, { signal: this.#leaving.signal })
    }
  }

  /** Where the answer goes on; null: it is whole. */
  async #askOnce(node: string, how: Exclude<Transport, 'stream'>, cursor: string | null, random: Random): Promise<string | null> {
    const inHeader = how === 'etag' && cursor !== null
    const parameters = [
      ...cursor === null || inHeader ? [] : [`since=${cursor}`],
      ...how === 'wait' ? [`wait=${random.between(1, 3)}`] : [],
      ...how === 'pages' ? [`limit=${random.pick([1, 3, 20, 700])}`] : [],
    ]
    const path = `/v1/channels/${this.habits.channels[0] ?? ''}/changes?${parameters.join('&')}${this.#filterQuery('&')}`
    const answer = await ask(node + path, {
      agent: this.#agent, signal: this.#leaving.signal, patienceMs: POLL_PATIENCE_MS, ...inHeader ? { headers: { 'If-None-Match': `W/"${cursor}"` } } : {},
    })
    if (answer.status === 304 && inHeader) {
      if (answer.etag !== `W/"${cursor}"`) this.#accuse('answer', `a 304 for ${cursor} is tagged ${answer.etag ?? 'nothing'}`)
      return null
    }
    if (answer.status !== 200) this.#refused(path, answer.status, answer.body, [503])
    const delta = JSON.parse(answer.body) as Delta
    // The page was gone: the answer has begun anew.
    const [first] = this.#parts
    if (first !== undefined && (first.version !== delta.version || first.since !== delta.since)) this.#parts = []
    this.#take(delta, this.version)
    return delta.more ? delta.next ?? null : null
  }

  #filterQuery(separator: string): string {
    const { filter } = this.habits
    return filter === undefined ? '' : `${separator}${this.replicas[0]?.table.filter?.column ?? ''}=${filter}`
  }

  #refused(url: string, status: number, body: string, allowed: readonly number[]): never {
    const isAway = status === 404 && this.habits.channels.some(this.#world.mayBeUnknown)
    if (!isAway && !allowed.includes(status)) this.#accuse('answer', `${url} answered ${status}: ${body.slice(0, 300)}`)
    throw new Error(`answered ${status}`)
  }

  #take(delta: Delta, held: string | null): void {
    const [first] = this.#parts
    if (first !== undefined && (first.version !== delta.version || first.since !== delta.since || first.reset !== delta.reset)) {
      this.#accuse('torn', `a part is ${delta.since ?? 'null'} → ${delta.version}, the first of its answer ${first.since ?? 'null'} → ${first.version}`)
    }
    this.#parts.push(delta)
    if (delta.more) return
    const parts = this.#parts
    this.#parts = []
    this.#checkStep(delta, parts, held)
    this.counts.answers += 1
    if (delta.reset) this.counts.resets += 1
    this.#arrive(delta.version, parts)
  }

  /** Whether this answer may follow what is held. */
  #checkStep({ since, version, reset }: Delta, parts: readonly Delta[], held: string | null): void {
    const step = `${since ?? 'null'} → ${version} on ${held ?? 'nothing'}`
    if (reset !== (since === null)) this.#accuse('answer', `reset and since do not agree: ${step}`)
    if (reset && this.replicas.some(({ table }) => !parts.some(({ channel }) => channel === table.name))) this.#accuse('lost', `a reset leaves a channel out: ${step}`)
    const names = parts.flatMap(({ channel, changes }) => changes.map(({ key }) => `${channel} ${JSON.stringify(key)}`))
    if (new Set(names).size < names.length) this.#accuse('duplicated', `a key comes twice in one answer: ${step}`)
    if (held === null) {
      if (!reset) this.#accuse('lost', `the first answer is no whole state: ${step}`)
      return
    }
    const [before, after] = [place(held), place(version)]
    if (before.epoch !== after.epoch) {
      if (!reset) this.#accuse('lost', `another epoch without a reset: ${step}`)
      return
    }
    if (after.number < before.number) this.#accuse('backwards', step)
    if (!reset && after.number === before.number && names.length > 0) this.#accuse('duplicated', `changes for a version that is held: ${step}`)
    if (since !== null && since !== held) this.#accuse(place(since).number > before.number ? 'lost' : 'duplicated', `not from what is held: ${step}`)
  }

  #arrive(version: string, parts: readonly Delta[]): void {
    if (version === this.version && parts.every(({ reset, changes }) => !reset && changes.length === 0)) return
    for (const replica of this.replicas) {
      const own = parts.filter(({ channel }) => channel === replica.table.name)
      replica.apply(this.version, version, own.some(({ reset }) => reset), own.flatMap(({ changes }) => changes))
    }
    this.version = version
    this.#world.judge.see(this.habits.name, version, this.replicas)
  }

  #accuse(kind: Parameters<Judge['report']>[0], what: string): void {
    this.#world.judge.report(kind, this.habits.name, what, [], this.replicas[0])
  }

  #over(): boolean {
    return this.#isOver
  }
}

function place(version: string): { readonly epoch: string; readonly number: number } {
  const [epoch = '', number = ''] = version.split('.')
  return { epoch, number: Number(number) }
}
