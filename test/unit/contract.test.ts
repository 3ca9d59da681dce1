import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, expectTypeOf, it } from 'vitest'
import { parse } from 'yaml'
import * as names from '../../src/contract/names.ts'
import { formatCursor, formatVersion, parseCursor, parseVersion } from '../../src/contract/version.ts'
import { ERROR_KINDS, type ErrorCode, type ProblemBody } from '../../src/errors.ts'

const SEED = { seed: 20_260_131, numRuns: 500 }

const MAX_NUMBER = Number.MAX_SAFE_INTEGER
const anyEpoch = fc.stringMatching(/^[a-z0-9]{4,12}$/)
const anyNumber = fc.oneof(fc.maxSafeNat(), fc.constantFrom(0, 1, MAX_NUMBER))
const anyVersion = fc.record({ epoch: anyEpoch, number: anyNumber })
const anyPage = fc.record({
  epoch: fc.stringMatching(/^[a-z0-9]{4,8}$/),
  version: anyNumber,
  since: fc.option(anyNumber),
  position: fc.stringMatching(/^[a-z0-9-]{1,20}$/),
})

describe('versions', () => {
  it('a version is its epoch and its number', () => {
    expect(formatVersion({ epoch: 'k3f9', number: 1042 })).toBe('k3f9.1042')
    expect(parseVersion('k3f9.1042')).toEqual({ epoch: 'k3f9', number: 1042 })
  })

  it('every version reads back as itself', () => {
    fc.assert(
      fc.property(anyVersion, (version) => {
        expect(parseVersion(formatVersion(version))).toEqual(version)
      }),
      SEED,
    )
  })

  it('a version has one spelling only, and nothing else is one', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[a-z0-9]{3,13}\.[0-9]{1,17}$/)), (text) => {
        const version = parseVersion(text)
        if (version !== undefined) expect(formatVersion(version)).toBe(text)
      }),
      SEED,
    )
  })

  it.each(['k3f9.0', 'abcd.1', '0000.9007199254740991', 'abcdefghijkl.7'])('%s is a version', (text) => {
    expect(parseVersion(text)).toBeDefined()
  })

  it.each([
    ['nothing', ''],
    ['an epoch alone', 'k3f9'],
    ['no number', 'k3f9.'],
    ['no epoch', '.1042'],
    ['a short epoch', 'k3f.1'],
    ['a long epoch', 'abcdefghijklm.1'],
    ['capitals', 'K3F9.1'],
    ['a leading zero', 'k3f9.01'],
    ['a plus', 'k3f9.+1'],
    ['a minus', 'k3f9.-1'],
    ['an exponent', 'k3f9.1e3'],
    ['hexadecimal', 'k3f9.0x1'],
    ['a fraction', 'k3f9.1.5'],
    ['2^53', 'k3f9.9007199254740992'],
    ['2^53 + 1, which rounds', 'k3f9.9007199254740993'],
    ['seventeen digits', 'k3f9.10000000000000000'],
    ['a space before', ' k3f9.1'],
    ['a line feed after', 'k3f9.1\n'],
    ['a NUL after', 'k3f9.1\0'],
    ['digits of another script', 'k3f9.١'],
    ['quotes', '"k3f9.1"'],
  ])('%s is no version', (_what, text) => {
    expect(parseVersion(text)).toBeUndefined()
  })
})

describe('page cursors', () => {
  it('a page names the delta it is of and the place in it', () => {
    expect(formatCursor({ epoch: 'k3f9', version: 1042, since: 1040, position: '500' })).toBe('k3f9.1042.1040.500')
    expect(formatCursor({ epoch: 'k3f9', version: 1042, since: null, position: '500' })).toBe('k3f9.1042.r.500')
  })

  it('every page that fits reads back as itself, and one that does not is never handed out', () => {
    fc.assert(
      fc.property(anyPage, (page) => {
        const length = `${page.epoch}.${page.version}.${page.since ?? 'r'}.${page.position}`.length
        if (length > names.MAX_CURSOR_BYTES) expect(() => formatCursor(page)).toThrow(RangeError)
        else expect(parseCursor(formatCursor(page))).toEqual({ kind: 'page', page })
      }),
      SEED,
    )
  })

  it('a version is a cursor too', () => {
    expect(parseCursor('k3f9.1042')).toEqual({ kind: 'version', version: { epoch: 'k3f9', number: 1042 } })
  })

  it.each([
    ['64 bytes', `abcdefghijkl.9007199254740991.9007199254740991.${'p'.repeat(17)}`, true],
    ['65 bytes', `abcdefghijkl.9007199254740991.9007199254740991.${'p'.repeat(18)}`, false],
    ['no position', 'k3f9.1042.r.', false],
    ['a position with a dot', 'k3f9.1042.r.a.b', false],
    ['a position in capitals', 'k3f9.1042.r.A', false],
    ['a position of 25 characters', `k3f9.1.r.${'a'.repeat(25)}`, false],
    ['an unsafe version', 'k3f9.9007199254740992.r.1', false],
    ['an unsafe since', 'k3f9.1.9007199254740992.1', false],
    ['a since with a leading zero', 'k3f9.1.01.1', false],
    ['a since that is neither', 'k3f9.1042.x.1', false],
  ])('%s: is it a cursor?', (_what, text, isCursor) => {
    expect(parseCursor(text) !== undefined).toBe(isCursor)
  })

  it.each(['', 'A', 'a.b', 'a'.repeat(25)])('position %j is refused rather than handed out', (position) => {
    expect(() => formatCursor({ epoch: 'k3f9', version: 1, since: null, position })).toThrow(RangeError)
  })
})

interface Node {
  readonly [name: string]: Node
}

const contract = parse(readFileSync(new URL('../../openapi.yaml', import.meta.url), 'utf8')) as Node

function at(...path: string[]): unknown {
  return path.reduce<unknown>((node, name) => (node as Record<string, unknown> | undefined)?.[name], contract)
}

describe('openapi.yaml', () => {
  it.each<[string, unknown, string[]]>([
    ['cursor bytes', names.MAX_CURSOR_BYTES, ['schemas', 'Cursor', 'maxLength']],
    ['limit', names.MAX_LIMIT, ['parameters', 'limit', 'schema', 'maximum']],
    ['channels', names.MAX_CHANNELS_PER_STREAM, ['parameters', 'channels', 'schema', 'maxItems']],
    ['header bytes', names.MAX_HEADER_BYTES, ['parameters', 'ifNoneMatch', 'schema', 'maxLength']],
    ['least interval', names.MIN_POLL_MS, ['schemas', 'Delta', 'properties', 'poll_after_ms', 'minimum']],
    ['largest interval', names.MAX_POLL_MS, ['schemas', 'Delta', 'properties', 'poll_after_ms', 'maximum']],
    ['least Poll-After-Ms', names.MIN_POLL_MS, ['headers', 'PollAfterMs', 'schema', 'minimum']],
    ['largest Poll-After-Ms', names.MAX_POLL_MS, ['headers', 'PollAfterMs', 'schema', 'maximum']],
    ['channel names', names.CHANNEL_NAME_PATTERN.source, ['parameters', 'channel', 'schema', 'pattern']],
  ])('states the same limit as the code: %s', (_what, limit, path) => {
    expect(at('components', ...path)).toBe(limit)
  })

  it('lists exactly the codes of the error table', () => {
    expect(at('components', 'schemas', 'ProblemCode', 'enum')).toEqual(Object.keys(ERROR_KINDS))
    expectTypeOf<ErrorCode>().toEqualTypeOf<names.ProblemCode>()
  })

  it('explains each code with the status it really has', () => {
    const explained = String(at('components', 'schemas', 'ProblemCode', 'description'))
    for (const [code, { status }] of Object.entries(ERROR_KINDS)) expect(explained).toContain(`\`${code}\` | ${status} |`)
  })

  it('shows problems as the error table makes them', () => {
    const responses = Object.values(contract['components']?.['responses'] ?? {})
    const shown = responses.flatMap((response) =>
      Object.entries(response['content']?.['application/problem+json']?.['examples'] ?? {}),
    )
    expect(shown.length).toBeGreaterThan(10)
    for (const [code, example] of shown) {
      const { status, title } = ERROR_KINDS[code as ErrorCode]
      expect(example['value']).toMatchObject({ type: `/docs#${code}`, code, status, title })
    }
  })

  it('gives every address HEAD and OPTIONS beside GET', () => {
    const paths = Object.entries(contract['paths'] ?? {})
    expect(paths.map(([path]) => path)).toContain('/v1/channels/{channel}/changes')
    for (const [, item] of paths) {
      expect(item).toHaveProperty('options')
      expect('head' in item).toBe('get' in item)
    }
  })

  it('describes the body that an error really has', () => {
    expectTypeOf<ProblemBody>().toEqualTypeOf<names.Problem>()
  })

  it('tells upserts from deletes by op', () => {
    expectTypeOf<names.Change['op']>().toEqualTypeOf<'upsert' | 'delete'>()
    expectTypeOf<Extract<names.Change, { op: 'delete' }>>().toEqualTypeOf<names.Delete>()
    expectTypeOf<names.Delta['poll_reason']>().toEqualTypeOf<names.PollReason | undefined>()
  })
})
