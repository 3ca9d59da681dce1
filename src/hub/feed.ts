/**
 * A feed: the readers of the same windows. Promise: a reader is always in exactly one place: following, at a known version, or not here
 * at all.
 */
import type { Window } from '../contract/change.ts'
import { windowKey, type HeldDelta } from './answer.ts'

/** A reader that has caught up and is told of what comes. */
export interface Follower {
  /** Takes deltas, each from where the one before it led, or answers false: then it follows no longer and catches up by itself. */
  deliver(deltas: readonly HeldDelta[]): boolean
  /** Its version is no longer a starting point for a live delta: it follows no longer and must ask. */
  overtaken(): void
}

export function feedKey(windows: readonly Window[]): string {
  return windows.map(windowKey).join(' ')
}

export class Feed {
  readonly key: string
  /** As they were when the feed began; the catalog may have others of the same name by now. */
  readonly windows: readonly Window[]
  /** Followers by the version they hold: nearly always one group. */
  readonly groups = new Map<number, Set<Follower>>()

  constructor(key: string, windows: readonly Window[]) {
    this.key = key
    this.windows = windows
  }

  get isEmpty(): boolean {
    return this.groups.size === 0
  }

  get size(): number {
    let size = 0
    for (const group of this.groups.values()) size += group.size
    return size
  }

  add(follower: Follower, version: number): void {
    const group = this.groups.get(version)
    if (group === undefined) this.groups.set(version, new Set([follower]))
    else group.add(follower)
  }

  remove(follower: Follower): void {
    for (const [version, group] of this.groups) {
      if (group.delete(follower) && group.size === 0) this.groups.delete(version)
    }
  }

  /** Gives deltas to each of a group and moves it to where they lead, `to`; who cannot take them is let go. */
  deliver(from: number, to: number, deltas: readonly HeldDelta[]): void {
    const group = this.groups.get(from)
    if (group === undefined) return
    // The group stays in its place meanwhile: who leaves while others are told is found, and told no more.
    for (const follower of group) if (!follower.deliver(deltas)) group.delete(follower)
    if (this.groups.get(from) === group) this.groups.delete(from)
    if (group.size === 0) return
    const there = this.groups.get(to)
    if (there === undefined) this.groups.set(to, group)
    else for (const follower of group) there.add(follower)
  }

  /** Lets everybody go: each must ask for itself where it stands. */
  release(): readonly Follower[] {
    const followers = [...this.groups.values()].flatMap((group) => [...group])
    this.groups.clear()
    return followers
  }
}
