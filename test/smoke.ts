/** `npm run smoke`: what a newcomer does first, on the Node that runs this: start, look at the page, stream, poll, vote. Exit code 1 if any of it fails. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { EventSource } from 'eventsource'
import type { PollBody } from './support/server.ts'
import { startServerProcess } from './support/server-process.ts'

const stateDirectory = await mkdtemp(join(tmpdir(), 'freshet-smoke-'))
const deadline = AbortSignal.timeout(120_000)
deadline.addEventListener('abort', () => { throw new Error('nothing happened for two minutes') })
const server = await startServerProcess({ environment: { PORT: '0', STATE_DIR: stateDirectory, LOG_LEVEL: 'warn' } })
try {
  const page = await fetch(server.url, { signal: deadline })
  assert.equal(page.status, 200)
  assert.match(await page.text(), /<title>/)

  let state = await poll('')
  while (state === null) state = await poll('')
  const { version, changes: [first] } = state
  assert.equal(first?.op, 'upsert')

  const stream = new EventSource(`${server.url}/v1/channels/options/stream?since=${version}`)
  const event = new Promise<PollBody>((resolve) => { stream.onmessage = ({ data }) => resolve(JSON.parse(String(data)) as PollBody) })
  await new Promise((resolve) => { stream.onopen = resolve })

  const vote = await fetch(`${server.url}/demo/votes`, {
    method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ id: first.key['id'] }), signal: deadline,
  })
  assert.equal(vote.status, 204)
  const told = await event
  stream.close()
  assert.equal(told.changes[0]?.row?.['votes'], 1)

  const delta = await poll(`?since=${version}&wait=10`)
  assert.deepEqual(delta?.changes, told.changes)
  assert.ok(delta.poll_after_ms >= 1_000)
  process.stdout.write(`Node ${process.version}: page, stream, poll and vote work\n`)
} finally {
  await server.stop()
  await rm(stateDirectory, { recursive: true, force: true })
}
assert.equal(server.ending, 'exit code 0')
process.exit()

/** Null: the channel is not there yet. */
async function poll(query: string): Promise<PollBody | null> {
  const response = await fetch(`${server.url}/v1/channels/options/changes${query}`, { signal: deadline })
  if (response.status === 404) return null
  assert.equal(response.status, 200)
  return await response.json() as PollBody
}
