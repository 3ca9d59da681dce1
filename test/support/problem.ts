/** Problems as they arrive: the exact code, and never a word of what is inside. */
import { expect } from 'vitest'
import { ERROR_KINDS, type ErrorCode } from '../../src/errors.ts'
import type { RawAnswer } from './raw.ts'

const INSIDES = /\bat .*:\d+|node_modules|\/src\/|select |postgres:|pg_|stack|Error:|undefined|\[object/i

export function expectProblem(answer: RawAnswer, status: number, code: string): void {
  expect([answer.status, answer.headers.get('content-type'), answer.headers.get('cache-control')]).toEqual([status, 'application/problem+json; charset=utf-8', 'no-store'])
  const problem = JSON.parse(answer.body) as Readonly<Record<string, unknown>>
  expect(problem).toMatchObject({ status, code, type: `/docs#${code}` })
  for (const member of ['title', 'detail', 'hint']) expect(problem[member]).toMatch(/\w/)
  expect(answer.body.replace(/"(?:hint|title|type)":"[^"]*"/g, '')).not.toMatch(INSIDES)
  expect(answer.body.length).toBeLessThan(1_000)
}

/** Any of the client's making. */
export function expectSomeProblem(answer: RawAnswer): void {
  const { code } = JSON.parse(answer.body) as { readonly code: ErrorCode }
  expect(Object.keys(ERROR_KINDS)).toContain(code)
  expect(ERROR_KINDS[code].status).toBeLessThan(500)
  expectProblem(answer, ERROR_KINDS[code].status, code)
}
