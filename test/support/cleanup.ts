/**
 * What a test file has opened, closed at its end, the newest first. One hook, added as the file is read: a hook that is added while
 * another hook or a test runs is never called.
 */
import { afterAll } from 'vitest'

const opened: (() => unknown)[] = []

afterAll(async () => {
  for (const close of opened.splice(0).reverse()) await close()
})

export function closeAtEnd(close: () => unknown): void {
  opened.push(close)
}
