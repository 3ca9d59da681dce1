/** Waiting for a reader to take what was written. Promise: one that takes nothing at all is cut, so that nobody waits for ever. */
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/** How often within the deadline it is looked whether anything was taken. */
const LOOKS = 4

/** Resolves to true when all has been taken, to false when the reader is gone or cut because it took nothing for `deadlineMs`. */
export function drained(target: Socket | ServerResponse, deadlineMs: number): Promise<boolean> {
  const isOpen = (): boolean => target.writable && !target.destroyed
  if (!isOpen()) return Promise.resolve(false)
  if (target.writableLength === 0) return Promise.resolve(true)
  return new Promise((resolve) => {
    let looksInVain = 0
    let left = bytesLeft(target)
    // Not the socket's own timeout: who sends without reading would put that off for ever.
    const timer = setInterval(() => {
      const before = left
      left = bytesLeft(target)
      looksInVain = left === before ? looksInVain + 1 : 0
      if (looksInVain < LOOKS) return
      target.destroy()
      settle(false)
    }, deadlineMs / LOOKS).unref()
    const settle = (isDrained: boolean): void => {
      clearInterval(timer)
      target.off('drain', onDrain).off('close', onClose)
      resolve(isDrained)
    }
    const onDrain = (): void => settle(isOpen())
    const onClose = (): void => settle(false)
    target.on('drain', onDrain).on('close', onClose)
    // Below the high-water mark `write` never promised a drain event.
    if (!target.writableNeedDrain) target.write('', () => settle(isOpen()))
  })
}

/** What neither the reader nor the kernel has taken yet. Of a write that is taken little by little only libuv knows, for which Node has no public name. */
function bytesLeft(target: Socket | ServerResponse): string {
  const socket = 'socket' in target ? target.socket : target
  const { writeQueueSize } = (socket as { readonly _handle?: { readonly writeQueueSize?: number } | null } | null)?._handle ?? {}
  return `${target.writableLength} ${writeQueueSize ?? ''}`
}
