/** The generated types are enough to write a client with; and the helper that holds every answer of these tests against the contract can fail. */
import { beforeAll, describe, expect, expectTypeOf, it } from 'vitest'
import type { paths } from '../../src/contract/types.ts'
import { assertConforms, faultIn } from '../support/contract.ts'
import { startTestServer, type TestServer } from '../support/server.ts'

const SETUP = `
  create table public.items (id int primary key, n int not null);
  insert into public.items values (1, 10), (2, 20);
  select freshet.watch('public.items');`

let server: TestServer
beforeAll(async () => { server = await startTestServer({ setup: SETUP }) })

type Getters = { [Path in keyof paths]: paths[Path] extends { get: { responses: { 200: { content: { 'application/json': unknown } } } } } ? Path : never }[keyof paths]
type Body<Path extends Getters> = paths[Path] extends { get: { responses: { 200: { content: { 'application/json': infer Json } } } } } ? Json : never

/** The ten lines: a typed GET of any address that gives JSON. */
async function get<Path extends Getters>(path: Path, values: Readonly<Record<string, string>> = {}): Promise<Body<Path>> {
  const query = new URLSearchParams()
  const filled = Object.entries(values).reduce<string>((text, [name, value]) => {
    if (!text.includes(`{${name}}`)) query.set(name, value)
    return text.replace(`{${name}}`, encodeURIComponent(value))
  }, path)
  return await (await fetch(`${server.url}${filled}?${query.toString()}`)).json() as Body<Path>
}

describe('a client of the generated types', () => {
  it('compiles, runs, and knows what it gets', async () => {
    const { channels } = await get('/v1/channels')
    expect(channels.map(({ name, key }) => [name, key])).toEqual([['items', ['id']]])
    const { version, changes, reset } = await get('/v1/channels/{channel}/changes', { channel: 'items' })
    expect(reset).toBe(true)
    expect(changes.flatMap((change) => change.op === 'upsert' ? [change.row['n']] : [])).toEqual([10, 20])
    expect((await get('/v1/channels/{channel}/changes', { channel: 'items', since: version })).changes).toEqual([])
    expect((await get('/healthz')).status).toBe('ok')
    expectTypeOf(version).toEqualTypeOf<string>()
    expectTypeOf<Getters>().toEqualTypeOf<'/v1/channels' | '/v1/channels/{channel}' | '/v1/channels/{channel}/changes' | '/healthz' | '/readyz'>()
  })
})

describe('the check of answers', () => {
  const json = (body: unknown, headers: Readonly<Record<string, string>> = {}, status = 200): Response => new Response(JSON.stringify(body), { status, headers: { 'Content-Type': 'application/json', 'Cache-Control': 'no-store', ...headers } })

  it('accepts what is right', async () => {
    await assertConforms('get', '/healthz', json({ status: 'ok' }))
    await assertConforms('get', '/v1/channels/items', await fetch(`${server.url}/v1/channels/items`))
  })

  it.each<[string, Response]>([
    ['a status that is not documented', json({ status: 'ok' }, {}, 201)],
    ['a body of another shape', json({ status: 'fine' })],
    ['a body without a member', json({})],
    ['another media type', json({ status: 'ok' }, { 'Content-Type': 'text/plain' })],
    ['a missing header', new Response('{"status":"ok"}', { headers: { 'Content-Type': 'application/json' } })],
  ])('refuses %s', async (_what, response) => {
    await expect(assertConforms('get', '/healthz', response)).rejects.toThrow('/healthz')
  })

  it.each<[unknown, Readonly<Record<string, unknown>>]>([
    ['1', { type: 'integer' }], [1.5, { type: 'integer' }], [null, { type: ['string'] }], [0, { type: 'integer', minimum: 1 }], ['ab', { type: 'string', maxLength: 1 }],
    ['x', { enum: ['y'] }], [1, { oneOf: [{ type: 'integer' }, { type: 'number' }] }], [[1, 'x'], { type: 'array', items: { type: 'integer' } }],
    [{ a: { b: 1 } }, { properties: { a: { properties: { b: { type: 'string' } } } } }],
  ])('finds %j not to be %j', (value, schema) => {
    expect(faultIn(value, schema)).not.toBeNull()
  })
})
