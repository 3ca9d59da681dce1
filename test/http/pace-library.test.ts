/** The pace in an application of somebody else's: a plain Express app, and the package as it would be installed. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import express from 'express'
import { afterAll, describe, expect, it } from 'vitest'
import { pace, type PaceOptions } from '../../src/pace/middleware.ts'

interface App {
  readonly get: (path: string, headers?: Readonly<Record<string, string>>) => Promise<Response>
  readonly touched: (resource?: string) => void
  /** How often the route was asked. */
  readonly reads: () => number
}

async function startApp(options: PaceOptions = {}): Promise<App> {
  let reads = 0
  const scores = pace(options)
  const app = express()
  app.get('/scores/:game', scores, (request, response) => {
    reads += 1
    if (request.params.game === 'none') response.status(404).json({ error: 'no such game' })
    else response.json({ game: request.params.game, reads })
  })
  app.post('/scores/:game', scores, (_request, response) => { response.status(204).end() })
  const server = app.listen(0, '127.0.0.1')
  await once(server, 'listening')
  afterAll(async () => {
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  })
  const { port } = server.address() as AddressInfo
  return { get: (path, headers = {}) => fetch(`http://127.0.0.1:${port}${path}`, { headers }), touched: (name) => scores.touched(name), reads: () => reads }
}

describe('a route of somebody\'s own', () => {
  it('gets an ETag and the advice', async () => {
    const { get } = await startApp()
    const response = await get('/scores/chess')
    expect(response.status).toBe(200)
    expect(await response.json()).toEqual({ game: 'chess', reads: 1 })
    expect(response.headers.get('etag')).toMatch(/^W\/"[0-9a-f]+\.\d+"$/)
    const afterMs = Number(response.headers.get('poll-after-ms'))
    expect(afterMs).toBeGreaterThanOrEqual(1_000)
    expect(response.headers.get('poll-interval')).toBe(String(Math.ceil(afterMs / 1_000)))
    expect(response.headers.get('poll-reason')).toMatch(/^(tick|burst|idle|load)$/)
    expect(response.headers.get('cache-control')).toBe('no-cache')
  })

  it('is not asked while nothing has changed, and is when something has', async () => {
    const { get, touched, reads } = await startApp()
    const etag = (await get('/scores/chess')).headers.get('etag') ?? ''
    for (const known of [etag, etag.slice(2), etag.replace(/"$/, '-gzip"'), `"x", ${etag}`]) {
      const response = await get('/scores/chess', { 'If-None-Match': known })
      expect(response.status, known).toBe(304)
      expect(Number(response.headers.get('poll-after-ms'))).toBeGreaterThanOrEqual(1_000)
    }
    expect(reads()).toBe(1)
    touched('/scores/go')
    expect((await get('/scores/chess', { 'If-None-Match': etag })).status).toBe(304)
    touched('/scores/chess')
    const changed = await get('/scores/chess', { 'If-None-Match': etag })
    expect([changed.status, reads()]).toEqual([200, 2])
    const newer = changed.headers.get('etag') ?? ''
    touched()
    expect((await get('/scores/chess', { 'If-None-Match': newer })).status).toBe(200)
  })

  it('is asked soon while it changes often, and later while it does not', async () => {
    let nowMs = 0
    const { get, touched } = await startApp({ now: () => nowMs })
    for (const path of ['/scores/busy', '/scores/calm']) await get(path)
    for (let i = 0; i < 3_600; i++) {
      nowMs += 1_000
      touched('/scores/busy')
      if (i % 900 === 0) touched('/scores/calm')
    }
    const [busy, calm] = await Promise.all(['busy', 'calm'].map((game) => get(`/scores/${game}`, { 'If-None-Match': '"x"' })))
    expect(busy?.headers.get('poll-reason')).toBe('burst')
    expect(4 * Number(busy?.headers.get('poll-after-ms'))).toBeLessThan(Number(calm?.headers.get('poll-after-ms')))
  })

  it('keeps its errors to itself: they bear no ETag that a 304 could confirm', async () => {
    const { get } = await startApp()
    const missing = await get('/scores/none')
    expect([missing.status, missing.headers.get('etag')]).toEqual([404, null])
  })

  it('forgets the oldest of too many resources, whose next answer is a whole one', async () => {
    const { get } = await startApp({ maxResources: 2 })
    const etag = (await get('/scores/1')).headers.get('etag') ?? ''
    for (const game of [2, 3]) await get(`/scores/${game}`)
    expect((await get('/scores/1', { 'If-None-Match': etag })).status).toBe(200)
  })

  it('is named as its owner likes, query and all', async () => {
    const { get, touched } = await startApp({ resource: ({ url = '' }) => url })
    const etag = (await get('/scores/chess?round=1')).headers.get('etag') ?? ''
    touched('/scores/chess?round=2')
    expect((await get('/scores/chess?round=1', { 'If-None-Match': etag })).status).toBe(304)
    touched('/scores/chess?round=1')
    expect((await get('/scores/chess?round=1', { 'If-None-Match': etag })).status).toBe(200)
  })
})

describe('the package', () => {
  it('gives `pace` to whoever installs it', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'freshet-install-'))
    afterAll(() => rm(directory, { recursive: true, force: true }))
    const run = promisify(execFile)
    await run('npm', ['pack', '--silent', '--pack-destination', directory])
    const [archive = ''] = await readdir(directory)
    const installed = join(directory, 'node_modules', 'freshet')
    await mkdir(installed, { recursive: true })
    await run('tar', ['-xzf', join(directory, archive), '--strip-components=1', '-C', installed])
    // What it depends on is here already: nothing is fetched.
    await symlink(resolve('node_modules'), join(installed, 'node_modules'))
    await writeFile(join(directory, 'app.mjs'), `import { pace } from 'freshet/pace'; const scores = pace(); scores.touched(); console.log(typeof scores, scores.advice('/x').reason)`)
    expect((await run(process.execPath, ['app.mjs'], { cwd: directory })).stdout.trim()).toBe('function idle')
    await writeFile(join(directory, 'app.mts'), `import { pace, type PaceMiddleware } from 'freshet/pace'\nexport const scores: PaceMiddleware = pace({ budget: 10 })\nexport const afterMs: number = scores.advice('/x').afterMs\n// @ts-expect-error a misspelt option\npace({ bugdet: 10 })\n`)
    await run(process.execPath, [resolve('node_modules/typescript/bin/tsc'), '--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2023', '--types', 'node', '--typeRoots', resolve('node_modules/@types'), 'app.mts'], { cwd: directory })
  }, 120_000)
})
