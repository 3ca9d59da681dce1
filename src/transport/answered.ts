/** When a request counts as answered: when its answer has ended, or, where that lasts for hours, when it has begun. */
import type { ServerResponse } from 'node:http'

const OPENED = Symbol('opened')

/** Calls back once. */
export function onceAnswered(response: ServerResponse, callback: () => void): void {
  const answered = (): void => {
    response.off('close', answered).off(OPENED, answered)
    callback()
  }
  response.once('close', answered).once(OPENED, answered)
}

/** The answer is a stream, and its head has been written. */
export function tellOpened(response: ServerResponse): void {
  response.emit(OPENED)
}
