/** Waiting for a reader to take what was written. Promise: one that takes nothing at all is cut, so that nobody waits for ever. */
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/** Resolves to true when all has been taken, to false when the reader is gone or cut because it took nothing for `deadlineMs`. */
export function drained(target: Socket | ServerResponse, deadlineMs: number): Promise<boolean> {
  const isOpen = (): boolean => target.writable && !target.destroyed
  if (!isOpen()) return Promise.resolve(false)
  if (target.writableLength === 0) return Promise.resolve(true)
  return new Promise((resolve) => {
    const settle = (isDrained: boolean): void => {
      target.setTimeout(0)
      target.off('drain', onDrain).off('close', onClose).off('timeout', onTimeout)
      resolve(isDrained)
    }
    const onDrain = (): void => settle(isOpen())
    const onClose = (): void => settle(false)
    const onTimeout = (): void => {
      target.destroy()
      settle(false)
    }
    // The socket's own: it begins anew whenever some bytes were taken, so that a slow reader of much is not cut.
    target.setTimeout(deadlineMs)
    target.on('drain', onDrain).on('close', onClose).on('timeout', onTimeout)
    // Below the high-water mark `write` never promised a drain event.
    if (!target.writableNeedDrain) target.write('', () => settle(isOpen()))
  })
}
