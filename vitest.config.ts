import { defineConfig } from 'vitest/config'

// Suites by what they need: nothing; a PostgreSQL of each supported major version; a whole server; a browser.
const withPostgres = ['test/support/global-postgres.ts']
const common = { testTimeout: 60_000, hookTimeout: 60_000, pool: 'forks' as const,
  // Whoever waits for an event waits long enough for a busy machine.
  expect: { poll: { timeout: 15_000, interval: 20 } } }

// They wait most of the time. The pages come last, by themselves: a browser wants both cores.
const sideBySide = { maxWorkers: 2, sequence: { groupOrder: 0 } }
const oneByOne = { maxWorkers: 1, sequence: { groupOrder: 1 } }

/** What the version of PostgreSQL decides: triggers, catalogs, types, privileges, timelines, logical replication, plans. The rest is ours alone. */
const DECIDED_BY_VERSION = ['belongings', 'capture', 'drift', 'drift-values', 'escalation', 'host-code', 'identity', 'keys', 'order', 'rendering', 'repeatable-read', 'roles', 'source', 'standby', 'subscriber', 'triggers', 'trust', 'twin', 'watch']

function databaseProject(major: number) {
  return {
    test: {
      ...common, ...sideBySide, name: `database-${major}`, globalSetup: withPostgres, provide: { postgresMajor: major },
      include: major === 18 ? ['test/database/**/*.test.ts'] : DECIDED_BY_VERSION.map((name) => `test/database/${name}.test.ts`),
    },
  }
}

export default defineConfig({
  test: {
    projects: [
      { test: { ...common, ...sideBySide, name: 'unit', include: ['test/unit/**/*.test.ts'] } },
      databaseProject(18),
      databaseProject(15),
      databaseProject(14),
      { test: { ...common, ...sideBySide, name: 'http', include: ['test/http/**/*.test.ts'], globalSetup: withPostgres, provide: { postgresMajor: 18 } } },
      { test: { ...common, ...oneByOne, name: 'browser', include: ['test/browser/**/*.test.ts'], globalSetup: withPostgres, provide: { postgresMajor: 18 } } },
    ],
  },
})
