/** `deploy/varnish.vcl` as it stands, but for the address of the node. */
import { readFile } from 'node:fs/promises'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapt } from '../support/daemon.ts'
import { describeNodes, describeStreams } from '../support/cached-streams.ts'
import { describeCache, expectNoNode, startCached, type CachedServer } from '../support/cache.ts'
import { hasVarnish, startVarnish, type Varnish } from '../support/varnish.ts'
import { freePort } from '../support/ports.ts'

async function startFront(...nodes: readonly string[]): Promise<Varnish> {
  const vcl = await readFile(new URL('../../deploy/varnish.vcl', import.meta.url), 'utf8')
  const [backend = ''] = /^backend node_1 \{.*?^\}/ms.exec(vcl) ?? []
  const added = '    nodes.add_backend(node_1);'
  const named = (text: string) => (node: string, index: number): string => adapt(text, { node_1: `node_${index + 1}`, ...text === backend ? { '"8080"': `"${new URL(node).port}"` } : {} })
  return startVarnish(adapt(vcl, { [backend]: nodes.map(named(backend)).join('\n'), [added]: nodes.map(named(added)).join('\n') }))
}

describe.skipIf(!hasVarnish)('behind Varnish', () => {
  let cached: CachedServer
  beforeAll(async () => { cached = await startCached(startFront) })
  describeCache(() => cached)

  it('each answer says how old it is', async () => {
    const { version } = await cached.server.poll('items')
    const path = `/v1/channels/items/changes?since=${version}`
    const ages = await Promise.all(Array.from({ length: 10 }, async () => (await fetch(cached.url + path)).headers.get('age')))
    for (const age of ages) expect(age).toMatch(/^[01]$/)
  })

  describeStreams(() => cached)
})

describe.skipIf(!hasVarnish)('behind Varnish', () => {
  describeNodes(startFront)
})

describe.skipIf(!hasVarnish)('Varnish before no node', () => {
  let front: Varnish
  beforeAll(async () => { front = await startFront(`http://127.0.0.1:${await freePort()}`) })

  it('closes a stream without an answer, so that EventSource comes back', async () => {
    await expect(fetch(`${front.url}/v1/channels/items/stream`)).rejects.toThrow('fetch failed')
  })

  it('tells a poll when to ask again', () => expectNoNode(front.url))
})
