import { describe, expect, it } from 'vitest'
import type { HeldDelta } from '../../src/hub/answer.ts'
import { frameDeltas } from '../../src/transport/frame.ts'

const delta = (since: number, ...texts: readonly string[]): HeldDelta =>
  ({ since, version: since + 1, parts: texts.map((text) => ({ channel: 'votes', changes: Buffer.from(text) })) })

describe('deltas told together', () => {
  const one = delta(1, '{"op":"delete","key":{"id":1}}', '{"op":"delete","key":{"id":"ä"}}')
  const two = delta(2, '{"op":"delete","key":{"id":2}}')

  it('are the bytes of their events one after another, in one chunk', () => {
    const together = frameDeltas([one, two], 'e')
    const apart = [frameDeltas([one], 'e'), frameDeltas([two], 'e')]
    expect(together.event.toString()).toBe(apart.map(({ event }) => event.toString()).join(''))
    expect(together.event.toString().split('\n\n')).toHaveLength(4)
    expect(together.chunk.toString()).toBe(`${together.event.length.toString(16)}\r\n${together.event.toString()}\r\n`)
  })

  it('are framed once for all who get them, and anew in another epoch', () => {
    const deltas = [one, two]
    expect(frameDeltas(deltas, 'e')).toBe(frameDeltas(deltas, 'e'))
    expect(frameDeltas(deltas, 'f').event.toString()).toContain('"version":"f.')
  })
})
