/**
 * Who is expected when: one appointment for each advice given, in slots of a quarter of a second. It says how many clients there
 * are (each one that follows the advice has exactly one appointment) and which moments are taken. Pure: time comes in.
 */
import { MAX_POLL_MS } from '../contract/names.ts'

export const SLOT_MS = 250
/** Clients add up to 5 % of their own, and the advice may have been moved. */
const SLOTS = Math.ceil((1.1 * MAX_POLL_MS) / SLOT_MS)

export class Appointments {
  readonly #slots = new Uint32Array(SLOTS)
  /** The first slot that is not over. */
  #first = 0
  #open = 0

  /** Appointments that are not over: clients that are expected again. */
  open(nowMs: number): number {
    this.#pass(nowMs)
    return this.#open
  }

  add(nowMs: number, dueMs: number): void {
    this.#pass(nowMs)
    const slot = this.#index(dueMs)
    this.#slots[slot] = (this.#slots[slot] ?? 0) + 1
    this.#open += 1
  }

  /** How many are expected in the slot of that moment. */
  at(nowMs: number, dueMs: number): number {
    this.#pass(nowMs)
    return this.#slots[this.#index(dueMs)] ?? 0
  }

  #index(dueMs: number): number {
    const slot = Math.floor(dueMs / SLOT_MS)
    return Math.min(this.#first + SLOTS - 1, Math.max(this.#first, slot)) % SLOTS
  }

  #pass(nowMs: number): void {
    const now = Math.floor(nowMs / SLOT_MS)
    const last = Math.min(now, this.#first + SLOTS)
    for (let slot = this.#first; slot < last; slot++) {
      this.#open -= this.#slots[slot % SLOTS] ?? 0
      this.#slots[slot % SLOTS] = 0
    }
    this.#first = Math.max(this.#first, now)
  }
}
