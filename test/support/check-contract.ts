/**
 * The contract's own check, `npm run check:contract`: openapi.yaml has nothing Redocly's rules object
 * to, and src/contract/types.ts is what `npm run generate` would write from it, byte for byte.
 * Reads two files, no network. Exit code 1 with every finding on stderr.
 */
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { createConfig, lint, type NormalizedProblem } from '@redocly/openapi-core'
import openapiTS, { astToString, COMMENT_HEADER } from 'openapi-typescript'

const contract = new URL('../../openapi.yaml', import.meta.url)
const types = new URL('../../src/contract/types.ts', import.meta.url)

/** Beyond the recommended set: every example is true, every operation explained and filed. */
const EXTRA_RULES = {
  'no-invalid-parameter-examples': 'error',
  'no-invalid-schema-examples': 'error',
  'no-required-schema-properties-undefined': 'error',
  'operation-description': 'error',
  'operation-tag-defined': 'error',
  'parameter-description': 'error',
} as const

async function lintFindings(): Promise<string[]> {
  const config = await createConfig({ extends: ['recommended'], rules: EXTRA_RULES })
  const problems = await lint({ ref: fileURLToPath(contract), config })
  return problems.map(describe)
}

function describe(problem: NormalizedProblem): string {
  const [location] = problem.location
  return `openapi.yaml ${location?.pointer ?? ''}: ${problem.message} [${problem.ruleId}]`
}

async function staleFindings(): Promise<string[]> {
  const expected = COMMENT_HEADER + astToString(await openapiTS(contract, { silent: true }))
  const actual = await readFile(types, 'utf8').catch(() => '')
  return actual === expected ? [] : ['src/contract/types.ts is not what openapi.yaml gives; run npm run generate.']
}

const findings = [...(await lintFindings()), ...(await staleFindings())]
for (const finding of findings) console.error(finding)
if (findings.length > 0) process.exitCode = 1
else console.log('contract: openapi.yaml is clean and src/contract/types.ts is current')
