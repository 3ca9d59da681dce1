/** The pages and the contract as files of a web server. */
import { parse } from 'yaml'
import { readFile } from 'node:fs/promises'
import { beforeAll, describe, expect, it } from 'vitest'
import { ERROR_KINDS } from '../../src/errors.ts'
import { assertConforms } from '../support/contract.ts'
import { rawGet } from '../support/raw.ts'
import { startTestServer, type TestServer } from '../support/server.ts'

let server: TestServer
beforeAll(async () => { server = await startTestServer({ demo: true }) })

describe.each(['/', '/tv', '/docs'])('the page %s', (path) => {
  it('is HTML that loads nothing from anywhere else', async () => {
    const response = await server.get(path)
    const html = await response.text()
    expect(response.status).toBe(200)
    expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8')
    expect(html).toMatch(/^<!doctype html>/i)
    expect(html).not.toMatch(/(?:src|href)="(?:https?:)?\/\//)
    const policy = response.headers.get('content-security-policy') ?? ''
    expect(policy).toContain(`default-src 'self'`)
    expect(policy).not.toContain('unsafe')
    expect(policy).not.toContain('upgrade-insecure-requests')
    expect(response.headers.get('strict-transport-security')).toBeNull()
    expect(response.headers.get('x-powered-by')).toBeNull()
  })

  it('names only assets that there are, with their types', async () => {
    const html = await (await server.get(path)).text()
    const assets = [...html.matchAll(/(?:src|href)="(\/assets\/[^"]+)"/g)].map(([, asset]) => asset ?? '')
    expect(assets.length).toBeGreaterThan(0)
    for (const asset of assets) {
      const response = await server.get(asset)
      expect(response.status, asset).toBe(200)
      expect(response.headers.get('content-type'), asset).toMatch(asset.endsWith('.css') ? /^text\/css/ : asset.endsWith('.svg') ? /^image\/svg\+xml/ : /^text\/javascript/)
      expect(response.headers.get('cache-control')).toBe('no-cache')
    }
  })

  it('is asked for again with its ETag and is 304 until it changes; HEAD has no body', async () => {
    const etag = (await server.get(path)).headers.get('etag') ?? ''
    expect((await rawGet(server.url, path, [`If-None-Match: ${etag}`])).status).toBe(304)
    const head = await fetch(server.url + path, { method: 'HEAD' })
    expect([head.status, await head.text()]).toEqual([200, ''])
  })
})

describe('the contract', () => {
  it('is the file, with an ETag', async () => {
    const response = await server.get('/openapi.yaml')
    expect(response.headers.get('content-type')).toBe('application/yaml; charset=utf-8')
    expect(await response.text()).toBe(await readFile(new URL('../../openapi.yaml', import.meta.url), 'utf8'))
    const again = await rawGet(server.url, '/openapi.yaml', [`If-None-Match: ${response.headers.get('etag') ?? ''}`])
    expect([again.status, again.body]).toEqual([304, ''])
    expect(again.headers.get('etag')).toBe(response.headers.get('etag'))
    await assertConforms('head', '/openapi.yaml', await fetch(`${server.url}/openapi.yaml`, { method: 'HEAD' }))
  })

  it('as JSON says the same, and lists every problem', async () => {
    const response = await server.get('/openapi.json')
    expect(response.headers.get('content-type')).toBe('application/json; charset=utf-8')
    const { info, ...rest } = await response.json() as { readonly info: Readonly<Record<string, unknown>> }
    const { info: originalInfo, ...original } = parse(await (await server.get('/openapi.yaml')).text()) as typeof rest & { readonly info: Readonly<Record<string, unknown>> }
    expect(rest).toEqual(original)
    expect(info).toEqual({ ...originalInfo, 'x-problems': Object.entries(ERROR_KINDS).map(([code, { status, title, hint }]) => ({ code, status, title, hint })) })
  })
})

describe('an asset', () => {
  it.each(['POST', 'DELETE'])('does not take %s', async (method) => {
    const response = await fetch(`${server.url}/assets/base.css`, { method })
    expect(response.status).toBe(405)
    expect(response.headers.get('allow')).toBe('GET, HEAD, OPTIONS')
  })

  it('that is not there is a problem like any other', async () => {
    const response = await server.get('/assets/missing.js')
    expect(response.status).toBe(404)
    expect(await response.json()).toMatchObject({ code: 'not_found' })
  })
})

describe('the demo', () => {
  it('is the first channel of the list, and a vote moves it', async () => {
    const { channels } = await (await server.get('/v1/channels')).json() as { readonly channels: readonly { readonly name: string }[] }
    expect(channels[0]?.name).toBe('options')
    const before = await server.poll('options')
    const vote = await fetch(`${server.url}/demo/votes`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"id":1}' })
    expect(vote.status).toBe(204)
    await assertConforms('post', '/demo/votes', vote)
    expect((await server.pollUntilChanged('options', before.version)).changes[0]?.row).toMatchObject({ id: 1, votes: 1 })
  })
})
