/**
 * The channels that are served, as the catalog last read has them, and windows on them. Promise: of two readings the later one is the
 * newer; a filter's value has one form, in which it is compared everywhere.
 */
import { LRUCache } from 'lru-cache'
import type { Catalog, ChangeSource, ChannelDefinition, ColumnDefinition, Window } from '../contract/change.ts'
import { ApiError, quoted } from '../errors.ts'
import { canonicalValue } from './fold.ts'

/** One for all: thousands of streams hold their window. */
const NO_FILTERS: ReadonlyMap<string, string> = new Map()

export class Channels {
  readonly #source: ChangeSource
  /** Bounded in bytes: a short number may have a hundred thousand digits. */
  readonly #casts = new LRUCache<string, string>({ maxSize: 4e6, sizeCalculation: (value, key) => value.length + key.length })
  #catalog: Catalog | null = null
  #byName: ReadonlyMap<string, ChannelDefinition> = new Map()
  #namesOf: ReadonlyMap<number, readonly string[]> = new Map()
  #lastReading: Promise<void> = Promise.resolve()
  #nextReading: Promise<Catalog> | null = null

  constructor(source: ChangeSource) {
    this.#source = source
  }

  get isLoaded(): boolean {
    return this.#catalog !== null
  }

  get epoch(): string {
    return this.#catalog?.epoch ?? ''
  }

  get floor(): number {
    return this.#catalog?.floor ?? 0
  }

  /** Whether the database is a copy of another one that may be ahead of it. */
  get isOnStandby(): boolean {
    return this.#catalog !== null && this.#catalog.replayedMs !== null
  }

  get all(): readonly ChannelDefinition[] {
    return this.#catalog?.channels ?? []
  }

  /** Undefined: there is none of that name. */
  find(name: string): ChannelDefinition | undefined {
    return this.#byName.get(name)
  }

  /** The names of a table's channels. */
  namesOf(tableId: number): readonly string[] {
    return this.#namesOf.get(tableId) ?? []
  }

  /** Throws ApiError unknown_channel. */
  get(name: string): ChannelDefinition {
    const channel = this.find(name)
    if (channel !== undefined) return channel
    if (!this.isLoaded) throw new ApiError('database_unreachable', 'The server has not reached its database yet.')
    throw new ApiError('unknown_channel', `There is no channel ${quoted(name)}.`)
  }

  /** Reads the catalog, which `define` takes. One at a time, so that of two the later one is the newer; who asks before the next one begins gets that. */
  read(): Promise<Catalog> {
    if (this.#nextReading !== null) return this.#nextReading
    const reading = this.#lastReading.then(() => {
      this.#nextReading = null
      return this.#source.readCatalog()
    })
    this.#nextReading = reading
    this.#lastReading = reading.then(() => undefined, () => undefined)
    return reading
  }

  define(catalog: Catalog): void {
    this.#catalog = catalog
    this.#byName = new Map(catalog.channels.map((channel) => [channel.name, channel]))
    const namesOf = new Map<number, string[]>()
    for (const { name, table } of catalog.channels) namesOf.set(table.id, [...namesOf.get(table.id) ?? [], name])
    this.#namesOf = namesOf
  }

  /** A channel seen through filters given as text. Throws ApiError unknown_channel, channel_parked, unknown_filter, invalid_filter. */
  async window(name: string, filters: ReadonlyMap<string, string>): Promise<Window> {
    const known = this.windowAtOnce(name, filters)
    if (known !== null) return known
    const channel = this.get(name)
    const canonical = new Map<string, string>()
    for (const [filter, value] of filters) {
      const column = filterColumn(channel, filter)
      canonical.set(filter, this.#knownForm(column, value) ?? await this.#cast(column, value))
    }
    return { channel, filters: canonical }
  }

  /** The same where all forms are known; null: some have to be asked for. */
  windowAtOnce(name: string, filters: ReadonlyMap<string, string>): Window | null {
    const channel = this.get(name)
    if (filters.size === 0) return { channel, filters: NO_FILTERS }
    const canonical = new Map<string, string>()
    for (const [filter, value] of filters) {
      const form = this.#knownForm(filterColumn(channel, filter), value)
      if (form === undefined) return null
      canonical.set(filter, form)
    }
    return { channel, filters: canonical }
  }

  /** The windows as the catalog has them now. Throws when one can no longer be served. */
  current(windows: readonly Window[]): readonly Window[] {
    return windows.map(({ channel: { name }, filters }) => {
      const channel = this.get(name)
      if (channel.table.parked !== null) throw new ApiError('channel_parked', `Channel ${quoted(name)} cannot be served: ${channel.table.parked}.`)
      const missing = [...filters.keys()].find((column) => !channel.filters.includes(column))
      if (missing !== undefined) throw unknownFilter(channel, missing)
      return { channel, filters }
    })
  }

  #knownForm(column: ColumnDefinition, value: string): string | undefined {
    // Text is what it says; but not every database has all characters, and none has the one of number 0.
    return column.comparedAs === 'text' && /^[ -~]*$/.test(value) ? JSON.stringify(value) : this.#casts.get(castKey(column, value))
  }

  async #cast(column: ColumnDefinition, value: string): Promise<string> {
    const canonical = canonicalValue(await this.#source.castFilter(column, value), column)
    this.#casts.set(castKey(column, value), canonical)
    return canonical
  }
}

function filterColumn(channel: ChannelDefinition, name: string): ColumnDefinition {
  const column = channel.table.columns.find((candidate) => candidate.name === name)
  if (column === undefined || !channel.filters.includes(name)) throw unknownFilter(channel, name)
  return column
}

function castKey({ comparedAs }: ColumnDefinition, value: string): string {
  return JSON.stringify([comparedAs, value])
}

function unknownFilter(channel: ChannelDefinition, name: string): ApiError {
  return new ApiError('unknown_filter', `Channel ${quoted(channel.name)} has no filter ${quoted(name)}.`, {
    parameter: name,
    hint: channel.filters.length === 0 ? 'It has no filters.' : `Its filters: ${channel.filters.join(', ')}.`,
  })
}
