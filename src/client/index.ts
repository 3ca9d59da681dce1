/**
 * The client for browsers, Node and anything else that has fetch:
 *
 *   const replica = new Replica()
 *   await follow({
 *     url: 'http://127.0.0.1:8080/v1/channels/options/stream',
 *     onDelta: (delta) => { if (replica.apply(delta) !== null) show(replica.rows('options')) },
 *     onDisconnect: () => replica.disconnect(),
 *   })
 */
export { follow, type Disconnection, type FollowOptions } from './follow.ts'
export { poll, type PollOptions, type PollWait } from './poll.ts'
export { keyText, Replica, type Applied, type AppliedChange } from './replica.ts'
export { FollowError } from './wire.ts'
export type { Change, Delete, Delta, Key, PollReason, Problem, Row, Status, Upsert, VersionText } from '../contract/names.ts'
