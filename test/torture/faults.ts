/**
 * What goes wrong, one thing at a time. Each fault is done for real, lasts until its promise resolves, and leaves the world as it found
 * it: what is measured afterwards is how long the way back took.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { FaultProxy } from '../support/fault-proxy.ts'
import type { Random } from './random.ts'
import { persist, RETENTION_BYTES, type Node, type World } from './world.ts'

export interface Fault {
  readonly name: string
  readonly how: string
  /** Only in runs of so many minutes or more. */
  readonly leastMinutes?: number
  /** Resolves at its end to a word about what exactly was done. */
  readonly inject: (world: World, random: Random) => Promise<string>
}

/** Longer than PostgreSQL bears a silent clock: three safety polls and a second. */
const FROZEN_MS = 9_000

async function outage(world: World, seconds: number): Promise<string> {
  await world.postgres.stop()
  await delay(seconds * 1_000)
  await world.postgres.restart()
  return `${seconds} s`
}

function databaseNetwork(name: string, how: string, breakIt: (proxy: FaultProxy, random: Random) => void, most = 4_000): Fault {
  return {
    name: `${name}-database`, how: `between one node and PostgreSQL: ${how}`,
    inject: (world, random) => {
      const node = random.pick(world.nodes)
      return breakFor(node, node.database, { breakIt, random, most })
    },
  }
}

function clientNetwork(name: string, how: string, breakIt: (proxy: FaultProxy, random: Random) => void, most = 4_000): Fault {
  return {
    name: `${name}-clients`, how: `between one node and its clients: ${how}`,
    inject: (world, random) => {
      const node = random.pick(world.nodes)
      return breakFor(node, node.clients, { breakIt, random, most })
    },
  }
}

interface Breaking {
  readonly breakIt: (proxy: FaultProxy, random: Random) => void
  readonly random: Random
  readonly most: number
}

async function breakFor({ name, clients }: Node, proxy: FaultProxy, { breakIt, random, most }: Breaking): Promise<string> {
  const ms = random.between(500, most)
  breakIt(proxy, random)
  await delay(ms)
  // The next byte of a client meets a router that has forgotten it; a server waits until its own patience is over.
  proxy.mend({ breaksDead: proxy === clients })
  return `${name}, ${ms} ms`
}

const reset = (proxy: FaultProxy): void => proxy.reset()
const cut = (proxy: FaultProxy): void => proxy.cut()
const silence = (proxy: FaultProxy): void => proxy.silence()
const late = (proxy: FaultProxy, random: Random): void => proxy.delay(random.between(20, 300))
const crumbs = (proxy: FaultProxy, random: Random): void => proxy.slice(random.pick([1, 7, 64]))

export const FAULTS: readonly Fault[] = [
  {
    name: 'kill', how: 'SIGKILL of a node, which is started again',
    inject: async (world, random) => {
      const node = random.chance(0.5) ? await world.leader() : random.pick(world.nodes)
      await world.stopNode(node, 'kill')
      await world.startNode(node)
      return node.name
    },
  },
  {
    name: 'roll', how: 'SIGTERM of each node in turn, which is started again',
    inject: async (world) => {
      for (const node of world.nodes) {
        await world.stopNode(node, 'stop')
        await world.startNode(node)
      }
      return `${world.nodes.length} nodes`
    },
  },
  {
    name: 'freeze', how: `SIGSTOP of the leader for ${FROZEN_MS / 1_000} s, then SIGCONT`,
    inject: async (world) => {
      const node = await world.leader()
      node.process?.signal('SIGSTOP')
      await delay(FROZEN_MS)
      node.process?.signal('SIGCONT')
      return node.name
    },
  },
  {
    name: 'terminate', how: 'pg_terminate_backend of every connection of ours, three times',
    inject: async (world) => {
      for (let round = 0; round < 3; round += 1) {
        await world.query(`select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'freshet:%'`)
        await delay(300)
      }
      return ''
    },
  },
  {
    name: 'crash', how: 'immediate shutdown of PostgreSQL in mid-write, started again at once',
    inject: async (world) => {
      await world.postgres.crash()
      await world.postgres.restart()
      return ''
    },
  },
  { name: 'outage-1', how: 'PostgreSQL down for 1 s', inject: (world) => outage(world, 1) },
  { name: 'outage-10', how: 'PostgreSQL down for 10 s', inject: (world) => outage(world, 10) },
  { name: 'outage-60', how: 'PostgreSQL down for 60 s', leastMinutes: 20, inject: (world) => outage(world, 60) },
  databaseNetwork('reset', 'every connection reset', reset, 500),
  databaseNetwork('cut', 'refused', cut),
  databaseNetwork('blackhole', 'dead, half-open ever after', silence, 12_000),
  databaseNetwork('delay', 'everything late', late),
  databaseNetwork('slice', 'everything in crumbs', crumbs),
  clientNetwork('reset', 'every connection reset', reset, 500),
  clientNetwork('cut', 'refused', cut),
  clientNetwork('blackhole', 'dead, then reset', silence, 8_000),
  clientNetwork('delay', 'everything late', late),
  clientNetwork('slice', 'everything in crumbs', crumbs),
  {
    name: 'noise', how: '20,000 notifications of garbage',
    inject: async (world, random) => {
      const payload = random.pick(['bell', 'version', 'probe 1.1', '', '{"', '\u{1f300}'.repeat(1_000)])
      for (let round = 0; round < 20; round += 1) await world.query(`select pg_notify('freshet', $1 || case when i % 2 = 0 then i::text else '' end) from generate_series(1, 1000) i`, [payload])
      return JSON.stringify(payload.slice(0, 10))
    },
  },
  {
    name: 'triggers', how: 'a trigger of ours disabled and enabled, in one transaction',
    inject: async (world, random) => {
      const table = random.pick(['account', 'pair', 'echo', 'queue', 'bulk'])
      // Not `user`: that would enable all of them alike, the ones for logical replication too.
      const kind = random.pick(['insert', 'update', 'delete'])
      const id = (await persist(() => world.query<{ id: number }>(`select id from freshet.tables where relation = '${table}'::regclass`), 20_000))[0]?.id ?? 0
      const trigger = `freshet_${kind}_${id}`
      await persist(() => world.query(`set lock_timeout = '1s'; begin; alter table ${table} disable trigger ${trigger}; alter table ${table} enable trigger ${trigger}; commit`), 20_000)
      return `${table}.${trigger}`
    },
  },
  {
    name: 'column', how: 'ALTER TABLE ADD COLUMN with a default',
    inject: async (world, random) => {
      const table = random.pick(['account', 'pair', 'mirror', 'echo', 'queue', 'bulk'])
      const column = `added_${random.between(1, 1e9)}`
      await persist(() => world.query(`set lock_timeout = '1s'; alter table ${table} add column ${column} int default 7`), 20_000)
      return `${table}.${column}`
    },
  },
  {
    name: 'partition', how: 'a partition detached and attached again, in one transaction',
    inject: async (world) => {
      await persist(() => world.query(`set lock_timeout = '1s'; begin; alter table mirror detach partition mirror_high;
        alter table mirror attach partition mirror_high for values from (20) to (maxvalue); commit`), 20_000)
      return 'mirror_high'
    },
  },
  {
    name: 'owner', how: 'a watched table given to a role that is not trusted for 3 s, and back',
    inject: async (world, random) => {
      const table = random.pick(['account', 'pair', 'echo', 'queue', 'bulk'])
      await persist(() => world.query(`do $$ begin create role stranger; exception when duplicate_object then null; end $$`), 20_000)
      const give = (role: string): Promise<unknown> => persist(() => world.query(`set lock_timeout = '1s'; alter table ${table} owner to ${role}`), 20_000)
      await give('stranger')
      await persist(() => world.query('select freshet.detect_drift()'), 20_000)
      await delay(3_000)
      await give('current_user')
      await persist(() => world.query('select freshet.detect_drift()'), 20_000)
      return table
    },
  },
  {
    name: 'lapse', how: 'the clock a day ahead, as after a long sleep: both leases have run out',
    inject: async (world, random) => {
      await persist(() => world.query(`select setval('freshet.abandoned_after', 1), setval('freshet.awake_until', 1)`), 20_000)
      await delay(random.between(0, 2_000))
      return ''
    },
  },
  {
    name: 'rewatch', how: 'unwatch, then watch',
    inject: async (world, random) => {
      const table = random.pick(['pair', 'mirror', 'echo', 'queue', 'bulk'])
      world.unknown.add(table)
      await persist(() => world.query('select freshet.unwatch($1)', [table]), 30_000)
      await delay(random.between(0, 1_000))
      await persist(() => world.watch(table, []), 30_000)
      return table
    },
  },
  {
    name: 'locks', how: 'a watched table locked in ACCESS EXCLUSIVE mode for 4 s',
    inject: async (world, random) => {
      const table = random.pick(['account', 'pair', 'echo', 'queue', 'bulk'])
      await persist(() => world.query(`set lock_timeout = '1s'; begin; lock table ${table} in access exclusive mode; select pg_sleep(4); rollback`), 20_000)
      return table
    },
  },
  {
    name: 'turn', how: `more than RETENTION_BYTES (${RETENTION_BYTES / 1e6} MB) written at once, so that the log turns`,
    inject: async (world) => {
      const write = (stamp: string): Promise<unknown> => persist(() => world.query('update account set stamp = $1 where id < 0', [stamp]), 20_000)
      for (let round = 1; round <= 3; round += 1) await write(`turn ${round} ${'x'.repeat(RETENTION_BYTES / 4)}`)
      await write('turned')
      return '3 times'
    },
  },
  {
    name: 'prepare', how: 'wake = poll and writers that use PREPARE TRANSACTION, for 4 s, then wake = notify',
    inject: async (world) => {
      await persist(() => world.query(`select freshet.configure('wake', 'poll')`), 20_000)
      world.mayPrepare = true
      await delay(4_000)
      world.mayPrepare = false
      await persist(() => world.query(`select freshet.configure('wake', 'notify')`), 20_000)
      return ''
    },
  },
]
