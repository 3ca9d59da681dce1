import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  parseChannelName,
  parseManyStream,
  parseNothing,
  parsePoll,
  parseStream,
  type PollHeaders,
} from '../../src/contract/request.ts'
import { formatVersion } from '../../src/contract/version.ts'
import { ApiError, type ErrorCode } from '../../src/errors.ts'

const SEED = { seed: 20_260_131, numRuns: 500 }

/** The ApiError that `attempt` throws; anything else is rethrown, so that no other error passes for one. */
function failureOf(attempt: () => unknown): ApiError {
  try {
    attempt()
  } catch (error) {
    if (error instanceof ApiError) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

const poll = (query: string, headers: PollHeaders = {}, filters: readonly string[] = []) =>
  parsePoll(query, headers, filters)

const NOTHING_ASKED = {
  cursor: null,
  since: null,
  etags: null,
  limit: null,
  waitSeconds: null,
  waitPreferred: false,
  filters: new Map(),
}

describe('a poll', () => {
  it('without anything asks for the whole state, at once', () => {
    expect(poll('')).toEqual(NOTHING_ASKED)
    expect(poll('&&')).toEqual(NOTHING_ASKED)
  })

  it('takes everything it knows at once', () => {
    const headers = { ifNoneMatch: 'W/"k3f9.7"', prefer: 'respond-async' }
    expect(poll('since=k3f9.5&limit=500&wait=3&grp=hot&owner=7', headers, ['owner', 'grp'])).toEqual({
      cursor: { kind: 'version', version: { epoch: 'k3f9', number: 5 } },
      since: 'k3f9.5',
      etags: [{ epoch: 'k3f9', number: 7 }],
      limit: 500,
      waitSeconds: 3,
      waitPreferred: false,
      filters: new Map([['grp', 'hot'], ['owner', '7']]),
    })
  })

  it('goes on where a page ended', () => {
    const page = { epoch: 'k3f9', version: 9, since: null, position: '500' }
    expect(poll('since=k3f9.9.r.500').cursor).toEqual({ kind: 'page', page })
  })

  it('gives its filters in one order, whatever the order they came in', () => {
    expect([...poll('b=2&a=1', {}, ['b', 'a']).filters]).toEqual([['a', '1'], ['b', '2']])
  })

  it.each<[string, ErrorCode, string | undefined]>([
    ['since=', 'malformed_cursor', 'since'],
    ['since', 'malformed_cursor', 'since'],
    ['since=now', 'malformed_cursor', 'since'],
    ['since=k3f9.1%00', 'malformed_cursor', 'since'],
    ['since=W/"k3f9.1"', 'malformed_cursor', 'since'],
    [`since=k3f9.1.2.${'a'.repeat(60)}`, 'malformed_cursor', 'since'],
    [`since=${'9'.repeat(10_000)}`, 'malformed_cursor', 'since'],
    ['sinc=k3f9.1', 'unknown_parameter', 'sinc'],
    ['Since=k3f9.1', 'unknown_parameter', 'Since'],
    ['next=k3f9.1.r.1', 'unknown_parameter', 'next'],
    ['since[]=k3f9.1', 'unknown_parameter', 'since[]'],
    ['__proto__=1', 'unknown_parameter', '__proto__'],
    ['constructor=1', 'unknown_parameter', 'constructor'],
    ['toString', 'unknown_parameter', 'toString'],
    ['=1', 'unknown_parameter', ''],
    ['padding=1', 'unknown_parameter', 'padding'],
    ['lastEventId=k3f9.1', 'unknown_parameter', 'lastEventId'],
    ['since=k3f9.1&since=k3f9.1', 'duplicated_parameter', 'since'],
    ['since=k3f9.1&sinc%65=k3f9.2', 'duplicated_parameter', 'since'],
    ['grp=a&grp=b', 'duplicated_parameter', 'grp'],
    ['limit=', 'invalid_parameter', 'limit'],
    ['limit=0', 'invalid_parameter', 'limit'],
    ['limit=10001', 'invalid_parameter', 'limit'],
    ['limit=-1', 'invalid_parameter', 'limit'],
    ['limit=1.5', 'invalid_parameter', 'limit'],
    ['limit=1e3', 'invalid_parameter', 'limit'],
    ['limit=010', 'invalid_parameter', 'limit'],
    ['limit=%201', 'invalid_parameter', 'limit'],
    ['limit=all', 'invalid_parameter', 'limit'],
    ['wait=', 'invalid_parameter', 'wait'],
    ['wait=-1', 'invalid_parameter', 'wait'],
    ['wait=NaN', 'invalid_parameter', 'wait'],
    ['wait=Infinity', 'invalid_parameter', 'wait'],
    ['wait=2.5', 'invalid_parameter', 'wait'],
    ['wait=+5', 'invalid_parameter', 'wait'],
    ['grp=%', 'invalid_parameter', 'grp'],
    ['grp=%2', 'invalid_parameter', 'grp'],
    ['grp=%zz', 'invalid_parameter', 'grp'],
    ['grp=%ff', 'invalid_parameter', 'grp'],
    ['grp=%c0%80', 'invalid_parameter', 'grp'],
    ['grp=%ed%a0%80', 'invalid_parameter', 'grp'],
    ['grp=Ã©', 'invalid_parameter', 'grp'],
    ['%zz=1', 'invalid_parameter', undefined],
    ['grp=a%00b', 'invalid_filter', 'grp'],
    [Array.from({ length: 101 }, (_, index) => `p${index}`).join('&'), 'invalid_parameter', undefined],
  ])('with ?%s is refused', (query, code, parameter) => {
    expect(failureOf(() => poll(query, {}, ['grp']))).toMatchObject({ code, parameter })
  })

  it('tells whoever misspells a parameter which there are', () => {
    expect(failureOf(() => poll('sinc=1', {}, ['grp', 'owner'])).hint).toBe(
      'Parameters here: since, limit, wait. Filters of this channel: grp, owner.',
    )
    expect(failureOf(() => poll('grp=1')).hint).toContain('This channel has no filters.')
  })

  it('does not echo a hostile name at length or raw', () => {
    const { message, parameter } = failureOf(() => poll(`%0d%0a${'x'.repeat(1000)}=1`))
    expect(message.length).toBeLessThan(120)
    expect(message).not.toMatch(/[\r\n]/)
    expect(parameter?.length).toBeLessThanOrEqual(80)
  })

  it.each([
    ['', ''],
    ['=', ''],
    ['=hot', 'hot'],
    ['=a+b', 'a b'],
    ['=a%2Bb', 'a+b'],
    ['=a=b', 'a=b'],
    ['=%26', '&'],
    ['=%C3%A9%F0%9F%AB%96', 'é🫖'],
    ['=%EF%BB%BFx', '\ufeffx'],
  ])('with ?grp%s asks for %j', (suffix, value) => {
    expect(poll(`grp${suffix}`, {}, ['grp']).filters.get('grp')).toBe(value)
  })

  it('takes a filter with a name of any kind', () => {
    const filters = ['__proto__', 'größe', 'a b', 'x[]']
    const query = filters.map((name) => `${encodeURIComponent(name)}=1`).join('&')
    expect([...poll(query, {}, filters).filters.keys()]).toEqual(['__proto__', 'a b', 'größe', 'x[]'])
  })

  it('takes 100 parameters', () => {
    const filters = Array.from({ length: 100 }, (_, index) => `p${index}`)
    expect(poll(filters.join('&'), {}, filters).filters.size).toBe(100)
  })

  it.each([
    ['limit=1', 1],
    ['limit=10000', 10_000],
  ])('with ?%s comes in parts of %i', (query, limit) => {
    expect(poll(query).limit).toBe(limit)
  })
})

describe('If-None-Match', () => {
  const one = [{ epoch: 'k3f9', number: 1 }]

  it.each<[string, ReturnType<typeof poll>['etags']]>([
    ['"k3f9.1"', one],
    ['W/"k3f9.1"', one],
    ['"k3f9.1-gzip"', one],
    ['W/"k3f9.1-gzip"', one],
    ['W/"k3f9.1-br"', one],
    [' W/"k3f9.1" ', one],
    ['W/"k3f9.1", "k3f9.2"', [...one, { epoch: 'k3f9', number: 2 }]],
    ['"other", W/"k3f9.1", nonsense, "', one],
    [',,"k3f9.1",,', one],
    ['*', 'any'],
    [' * ', 'any'],
    ['', null],
    ['k3f9.1', null],
    ['w/"k3f9.1"', null],
    ['W/ "k3f9.1"', null],
    ['"k3f9.1', null],
    ['"k3f9.01"', null],
    ['"k3f9.1.r.5"', null],
    ['"k3f9.1-gzip-gzip"', null],
    ['"*"', null],
    ['*, "x"', null],
    [`"k3f9.1"${' '.repeat(4096)}`, null],
  ])('%j is understood', (ifNoneMatch, etags) => {
    expect(poll('', { ifNoneMatch }).etags).toEqual(etags)
  })

  it('holds any list of versions', () => {
    const versions = fc.array(fc.record({ epoch: fc.constant('k3f9'), number: fc.maxSafeNat() }), { minLength: 1 })
    fc.assert(
      fc.property(versions, (list) => {
        const ifNoneMatch = list.map((version) => `W/"${formatVersion(version)}"`).join(', ')
        expect(poll('', { ifNoneMatch }).etags).toEqual(list)
      }),
      SEED,
    )
  })
})

describe('waiting', () => {
  it.each<[string, string | undefined, number | null, boolean]>([
    ['wait=0', undefined, 0, false],
    ['wait=25', undefined, 25, false],
    ['wait=26', undefined, 25, false],
    [`wait=${'9'.repeat(400)}`, undefined, 25, false],
    ['', 'wait=10', 10, true],
    ['', 'Wait = 10', 10, true],
    ['', 'wait="10"', 10, true],
    ['', 'wait=010', 10, true],
    ['', 'wait=600', 25, true],
    ['', 'respond-async, wait=10; x=y, foo', 10, true],
    ['', 'foo="a, wait=3", wait=10', 10, true],
    ['', 'foo="a\\", wait=3", wait=10', 10, true],
    ['', 'wait=10, wait=20', 10, true],
    ['', 'wait=x, wait=20', null, false],
    ['', 'wait', null, false],
    ['', 'wait=', null, false],
    ['', 'wait=-1', null, false],
    ['', 'wait=2.5', null, false],
    ['', 'wait=1 0', null, false],
    ['', 'await=10', null, false],
    ['', 'waiting=10', null, false],
    ['', '"wait=10', null, false],
    ['', `wait=10,${' '.repeat(4096)}`, null, false],
    ['wait=5', 'wait=10', 5, false],
  ])('?%s with Prefer %j is %s seconds, by Prefer: %s', (query, prefer, waitSeconds, waitPreferred) => {
    expect(poll(query, { prefer })).toMatchObject({ waitSeconds, waitPreferred })
  })
})

describe('a stream', () => {
  const version = (number: number) => ({ epoch: 'k3f9', number })

  it.each<[string, string | undefined, unknown]>([
    ['', undefined, null],
    ['', '', null],
    ['since=', '', null],
    ['', 'k3f9.1', version(1)],
    ['since=k3f9.5', undefined, version(5)],
    ['evs_last_event_id=k3f9.4', undefined, version(4)],
    ['lastEventId=k3f9.3', undefined, version(3)],
    ['last_event_id=k3f9.2', undefined, version(2)],
    ['since=k3f9.5&evs_last_event_id=k3f9.4&lastEventId=k3f9.3&last_event_id=k3f9.2', 'k3f9.1', version(1)],
    ['since=k3f9.5&evs_last_event_id=k3f9.4&lastEventId=k3f9.3&last_event_id=k3f9.2', '', version(2)],
    ['since=k3f9.5&evs_last_event_id=k3f9.4&lastEventId=k3f9.3', undefined, version(3)],
    ['since=k3f9.5&evs_last_event_id=k3f9.4&lastEventId=', undefined, version(4)],
    ['since=k3f9.5', 'garbage', 'malformed'],
    ['since=garbage', undefined, 'malformed'],
    ['since=%zz', undefined, 'malformed'],
    ['since=k3f9.1.r.5', undefined, 'malformed'],
    [`since=${'9'.repeat(10_000)}`, undefined, 'malformed'],
    ['padding=%zz&evs_preamble=1&since=k3f9.5', undefined, version(5)],
  ])('?%s with Last-Event-ID %j begins rightly', (query, lastEventId, cursor) => {
    expect(parseStream(query, { lastEventId }, []).cursor).toEqual(cursor)
    expect(parseManyStream(`channels=a&${query}`, { lastEventId }).cursor).toEqual(cursor)
  })

  it.each<[string, ErrorCode, string]>([
    ['grup=hot', 'unknown_parameter', 'grup'],
    ['limit=5', 'unknown_parameter', 'limit'],
    ['wait=5', 'unknown_parameter', 'wait'],
    ['since=k3f9.1&since=k3f9.1', 'duplicated_parameter', 'since'],
    ['grp=%zz', 'invalid_parameter', 'grp'],
    ['grp=%00', 'invalid_filter', 'grp'],
  ])('with ?%s is refused, for that is a programmer’s error', (query, code, parameter) => {
    expect(failureOf(() => parseStream(query, {}, ['grp']))).toMatchObject({ code, parameter })
  })

  it('takes filters', () => {
    expect(parseStream('since=k3f9.1&grp=hot', {}, ['grp', 'owner']).filters).toEqual(new Map([['grp', 'hot']]))
  })

  it('takes a column called like a parameter of a polyfill for the column', () => {
    const filters = ['padding', 'evs_last_event_id']
    expect(parseStream('padding=1&evs_last_event_id=k3f9.1', {}, filters)).toEqual({
      cursor: null,
      filters: new Map([['evs_last_event_id', 'k3f9.1'], ['padding', '1']]),
    })
  })
})

describe('a stream of several channels', () => {
  const twenty = Array.from({ length: 20 }, (_, index) => `c${index}`)

  it.each([
    ['channels=a', ['a']],
    ['channels=b,a', ['b', 'a']],
    ['channels=a%2Cb.c_d-1', ['a', 'b.c_d-1']],
    [`channels=${twenty.join(',')}`, twenty],
  ])('?%s names its channels in order', (query, channels) => {
    expect(parseManyStream(query, {}).channels).toEqual(channels)
  })

  it.each<[string, ErrorCode, string]>([
    ['', 'invalid_parameter', 'channels'],
    ['channels=', 'invalid_parameter', 'channels'],
    ['channels=a,', 'invalid_parameter', 'channels'],
    ['channels=a,,b', 'invalid_parameter', 'channels'],
    ['channels=a,b,a', 'invalid_parameter', 'channels'],
    [`channels=${twenty.join(',')},x`, 'invalid_parameter', 'channels'],
    ['channels=%zz', 'invalid_parameter', 'channels'],
    ['channels=a&channels=b', 'duplicated_parameter', 'channels'],
    ['channels=a,B', 'unknown_channel', 'channel'],
    ['channels=a,+b', 'unknown_channel', 'channel'],
    ['channels=a&grp=hot', 'unknown_parameter', 'grp'],
  ])('?%s is refused', (query, code, parameter) => {
    expect(failureOf(() => parseManyStream(query, {}))).toMatchObject({ code, parameter })
  })
})

describe('an address without parameters', () => {
  it('takes none', () => {
    expect(() => parseNothing('')).not.toThrow()
    expect(failureOf(() => parseNothing('x=1'))).toMatchObject({
      code: 'unknown_parameter',
      hint: 'This address takes no parameters.',
    })
  })
})

describe('a channel’s name', () => {
  it.each([
    ['options', 'options'],
    ['a', 'a'],
    ['0.a_b-c', '0.a_b-c'],
    ['%6fptions', 'options'],
    ['a'.repeat(63), 'a'.repeat(63)],
  ])('%s is one', (segment, name) => {
    expect(parseChannelName(segment)).toBe(name)
  })

  it.each(['', '.', '..', '-a', 'Options', 'a b', 'a+b', 'a%2fb', 'a%00', 'a%0d%0ab', 'a%', '%ff', 'é', 'a'.repeat(64)])(
    '%j is none',
    (segment) => {
      expect(failureOf(() => parseChannelName(segment))).toMatchObject({ code: 'unknown_channel', status: 404 })
    },
  )

  it('is not echoed at length or raw', () => {
    const { message } = failureOf(() => parseChannelName(`%0d%0a${'x'.repeat(1000)}`))
    expect(message.length).toBeLessThan(100)
    expect(message).not.toMatch(/[\r\n]/)
  })
})

describe('any text at all', () => {
  const anyQuery = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.webQueryParameters(),
    fc.stringMatching(/^((since|limit|wait|grp|channels|lastEventId|%|%zz|\+|=|&|k3f9\.1|,|9|-){0,12})$/),
  )
  const anyHeader = fc.option(fc.oneof(fc.string(), fc.stringMatching(/^(W\/|"|k3f9\.1|,|\*|wait|=|9|;| |\\){0,12}$/)), {
    nil: undefined,
  })

  /** Passes if `attempt` returns or throws an ApiError of the client's making. */
  function expectNoSurprise(attempt: () => unknown): void {
    try {
      attempt()
    } catch (error) {
      expect(error).toBeInstanceOf(ApiError)
      expect((error as ApiError).status).toBeLessThan(500)
    }
  }

  it('is parsed or refused by an ApiError, never anything else', () => {
    fc.assert(
      fc.property(anyQuery, anyHeader, anyHeader, (query, first, second) => {
        expectNoSurprise(() => parsePoll(query, { ifNoneMatch: first, prefer: second }, ['grp']))
        expectNoSurprise(() => parseStream(query, { lastEventId: first }, ['grp']))
        expectNoSurprise(() => parseManyStream(query, { lastEventId: first }))
        expectNoSurprise(() => parseNothing(query))
        expectNoSurprise(() => parseChannelName(query))
      }),
      SEED,
    )
  })

  it('in a header alone is never refused', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        parsePoll('', { ifNoneMatch: text, prefer: text }, [])
        parseStream('', { lastEventId: text }, [])
      }),
      SEED,
    )
  })

  it('as the cursor of a stream is never refused', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        parseStream(`since=${text.replaceAll('&', '')}`, {}, [])
      }),
      SEED,
    )
  })

  it('as a filter’s value reads back as itself', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (value) => {
        fc.pre(!value.includes('\0'))
        expect(poll(`grp=${encodeURIComponent(value)}`, {}, ['grp']).filters.get('grp')).toBe(value)
      }),
      SEED,
    )
  })

  it('of a hostile length is handled in no time', () => {
    const started = performance.now()
    for (const text of [' '.repeat(4000), '"'.repeat(4000), '\\"'.repeat(2000), 'wait= '.repeat(600), ',"\\'.repeat(1300)]) {
      parsePoll('', { ifNoneMatch: text, prefer: text }, [])
    }
    // Milliseconds; minutes, if an expression backtracked.
    expect(performance.now() - started).toBeLessThan(5_000)
  })
})
