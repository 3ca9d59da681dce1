/**
 * What a transaction may do, one step at a time. Each step keeps every rule of schema.ts by itself, in any isolation level, or fails as
 * a whole. It makes its choices before it reads anything, so that the same plan asks the same questions whatever it finds.
 */
import type { Random } from './random.ts'
import { BATCHES, ECHOES, PAIRS, REGIONS } from './schema.ts'

export interface Transaction {
  /** Written into every row that it touches. */
  readonly stamp: string
  readonly random: Random
  readonly query: <Row extends Readonly<Record<string, unknown>>>(sql: string, values?: readonly unknown[]) => Promise<readonly Row[]>
  /** Tab-separated lines. */
  readonly copy: (sql: string, lines: readonly string[]) => Promise<void>
  /** For the history: what was touched, and how. */
  readonly note: (subject: string, what: string) => void
}

export type Step = (transaction: Transaction) => Promise<void>

const ACCOUNTS = 60

const transfer: Step = async ({ random, query, stamp, note }) => {
  const [from, to, amount] = [random.between(1, ACCOUNTS), random.between(1, ACCOUNTS), random.between(1, 100)]
  const rows = await query<{ id: number; region: string }>('select id, region from account where id in ($1, $2) order by id for update', [from, to])
  const [a, b] = [rows.find(({ id }) => id === from), rows.find(({ id }) => id === to)]
  if (a === undefined || b === undefined || from === to) return
  await query('update account set balance = balance + case id when $1 then -$3::int else $3 end, stamp = $4 where id in ($1, $2)', [from, to, amount, stamp])
  await moveTotal(query, { from: a.region, to: b.region, amount, stamp })
  note(`account ${from}`, `gives ${amount} to ${to}`)
  note(`account ${to}`, `gets ${amount} from ${from}`)
}

async function moveTotal(query: Transaction['query'], { from, to, amount, stamp }: { from: string; to: string; amount: number; stamp: string }): Promise<void> {
  if (from !== to) await query('update bank set total = total + case region when $1 then -$3::int else $3 end, stamp = $4 where region in ($1, $2)', [from, to, amount, stamp])
}

const openAccounts: Step = async ({ random, query, stamp, note }) => {
  const [first, count, region] = [random.between(1, ACCOUNTS), random.between(1, 4), random.pick(REGIONS)]
  await query('insert into account (id, region, balance, stamp) select i, $3, 0, $4 from generate_series($1::int, $2::int) i on conflict (id) do update set stamp = excluded.stamp', [first, first + count, region, stamp])
  for (let id = first; id <= first + count; id += 1) note(`account ${id}`, `is opened in ${region}, or stamped`)
}

const mergeAccounts: Step = async ({ random, query, stamp, note }) => {
  const [first, region] = [random.between(1, ACCOUNTS), random.pick(REGIONS)]
  await query(`merge into account using generate_series($1::int, $1::int + 2) i on account.id = i
    when matched and balance = 0 and i % 2 = 0 then delete
    when matched then update set stamp = $3
    when not matched then insert (id, region, balance, stamp) values (i, $2, 0, $3)`, [first, region, stamp])
  for (const id of [first, first + 1, first + 2]) note(`account ${id}`, 'is merged')
}

const closeAccount: Step = async ({ random, query, stamp, note }) => {
  const id = random.between(1, ACCOUNTS)
  await query('with closed as (delete from account where id = $1 returning region, balance) update account set balance = account.balance + closed.balance, stamp = $2 from closed where account.region = closed.region and account.id < 0', [id, stamp])
  note(`account ${id}`, 'is closed')
}

/** From one region to another, perhaps by a third, perhaps back again. */
const moveAccount: Step = async ({ random, query, stamp, note }) => {
  const id = random.between(1, ACCOUNTS)
  for (const to of random.shuffled(REGIONS).slice(0, random.between(1, 3))) {
    const [row] = await query<{ region: string; balance: string }>('select region, balance from account where id = $1 for update', [id])
    if (row === undefined) return
    await query('update account set region = $2, stamp = $3 where id = $1', [id, to, stamp])
    await moveTotal(query, { from: row.region, to, amount: Number(row.balance), stamp })
    note(`account ${id}`, `moves to ${to}`)
  }
}

const renumberAccount: Step = async ({ random, query, stamp, note }) => {
  const [from, to] = [random.between(1, ACCOUNTS), random.between(1, ACCOUNTS)]
  await query('update account set id = $2, stamp = $3 where id = $1 and not exists (select from account where id = $2)', [from, to, stamp])
  for (const id of [from, to]) note(`account ${id}`, `${from} becomes ${to}`)
}

/** Two rows take each other's key. */
const swapAccounts: Step = async ({ random, query, stamp, note }) => {
  const [a, b] = [random.between(1, ACCOUNTS), random.between(1, ACCOUNTS)]
  const rows = await query('select from account where id in ($1, $2) order by id for update', [a, b])
  if (rows.length < 2) return
  const away = 1_000_000 + a
  for (const [from, to] of [[a, away], [b, a], [away, b]]) await query('update account set id = $2, stamp = $3 where id = $1', [from, to, stamp])
  for (const id of [a, b]) note(`account ${id}`, `${a} and ${b} are swapped`)
}

/** Gone and back in one transaction, in another region. */
const replaceAccount: Step = async ({ random, query, stamp, note }) => {
  const [id, region] = [random.between(1, ACCOUNTS), random.pick(REGIONS)]
  const [gone] = await query('delete from account where id = $1 and balance = 0 returning id', [id])
  if (gone === undefined) return
  await query('insert into account (id, region, balance, stamp) values ($1, $2, 0, $3)', [id, region, stamp])
  if (random.chance(0.3)) await query('delete from account where id = $1', [id])
  note(`account ${id}`, `is replaced in ${region}`)
}

const stampPair: Step = async ({ random, query, stamp, note }) => {
  const [pair, sides] = [random.between(1, PAIRS - 1), random.pick([['a', 'b'], ['b', 'a'], ['ab']])]
  // Held first: a pair that is made between the statements for its sides would be stamped on one of them only.
  if ((await query('select pair from pair where pair = $1 for update', [pair])).length < 2) return
  for (const side of sides) await query('update pair set stamp = $3 where pair = $1 and position(side in $2) > 0', [pair, side, stamp])
  for (const side of sides) await query('update mirror set stamp = $3 where pair = $1 and position(side in $2) > 0', [pair, side, stamp])
  note(`pair ${pair}`, `is stamped, ${sides.join(' and ')}`)
}

const makePair: Step = async ({ random, query, stamp, note }) => {
  const pair = random.between(1, PAIRS - 1)
  const made = await query(`insert into pair (pair, side, stamp) select $1, side, $2 from unnest('{a,b}'::text[]) side on conflict do nothing returning pair`, [pair, stamp])
  if (made.length === 2) await query(`insert into mirror (pair, side, stamp) select $1, side, $2 from unnest('{a,b}'::text[]) side`, [pair, stamp])
  // The pair was dropped between the checks for its sides, which look beyond the snapshot.
  else if (made.length === 1) await query('delete from pair where pair = $1 and stamp = $2', [pair, stamp])
  note(`pair ${pair}`, made.length === 2 ? 'is made' : 'was there')
}

const dropPair: Step = async ({ random, query, note }) => {
  const pair = random.between(1, PAIRS - 1)
  const gone = await query('delete from pair where pair = $1 returning pair', [pair])
  if (gone.length === 2) await query('delete from mirror where pair = $1', [pair])
  note(`pair ${pair}`, 'is dropped')
}

/** To a number of the other partition: its rows move. */
const renumberPair: Step = async ({ random, query, stamp, note }) => {
  const [from, to] = [random.between(1, PAIRS - 1), random.between(1, PAIRS - 1)]
  const moved = await query('update pair set pair = $2, stamp = $3 where pair = $1 and not exists (select from pair where pair = $2) returning pair', [from, to, stamp])
  if (moved.length === 2) await query('update mirror set pair = $2, stamp = $3 where pair = $1', [from, to, stamp])
  for (const pair of [from, to]) note(`pair ${pair}`, `${from} becomes ${to}`)
}

const writeEchoes: Step = async ({ random, query, stamp, note }) => {
  const [first, count, value] = [random.between(2, ECHOES), random.pick([0, 0, 1, 3]), random.between(1, 1_000)]
  await query('update echo set value = $3::int + id % 2, stamp = $4 where id between $1 and $2', [first, first + count, value, stamp])
  for (let id = first & ~1; id <= first + count; id += 2) note(`echo ${id}`, `is set to ${value}`)
}

const makeEcho: Step = async ({ random, query, stamp, note }) => {
  const [id, value] = [random.between(2, ECHOES), random.between(1, 1_000)]
  await query('insert into echo (id, value, stamp) values ($1, $2, $3) on conflict (id) do update set value = excluded.value, stamp = excluded.stamp', [id, value, stamp])
  note(`echo ${id & ~1}`, `is made or set to ${value}`)
}

const dropEcho: Step = async ({ random, query, note }) => {
  const id = random.between(2, ECHOES)
  await query('delete from echo where id = $1', [id])
  note(`echo ${id & ~1}`, 'is dropped')
}

/** Shifts every later key by one, and fills the gap; or takes an item out and closes it. */
const changeQueue: Step = async ({ random, query, stamp, note }) => {
  const [place, wantsMore, item] = [random.next(), random.chance(0.5), `item ${stamp} ${random.between(1, 1e9)}`]
  await query(`update guard set taken = taken + 1 where name = 'queue'`)
  const [{ length } = { length: 0 }] = await query<{ length: number }>('select count(*)::int as length from queue')
  const position = 1 + Math.floor(place * length)
  const isIn = length < 4 || (wantsMore && length < 25)
  if (!isIn && (await query(`delete from queue where position = $1 and item <> 'probe' returning item`, [position])).length === 0) return
  // In an order in which no two rows meet on one key.
  await query('set local enable_hashjoin = off; set local enable_mergejoin = off; set local enable_material = off; set local enable_seqscan = off')
  await query(`with later as materialized (select position from queue where position >= $1 order by position ${isIn ? 'desc' : 'asc'})
    update queue set position = queue.position + $2, stamp = $3 from later where queue.position = later.position`, [position, isIn ? 1 : -1, stamp])
  if (isIn) await query('insert into queue (position, item, stamp) values ($1, $2, $3)', [position, item, stamp])
  note('queue', `${isIn ? 'gets' : 'loses'} number ${position} of ${length}`)
}

/** All rows of a batch anew: by COPY, by INSERT … SELECT, or by MERGE over what is there. The largest may start the table anew. */
const fillBatch: Step = async ({ random, query, copy, stamp, note }) => {
  const [batch, size, how] = [random.between(1, BATCHES), random.pick([10, 200, 1_200, 2_500]), random.pick(['copy', 'insert', 'merge'])]
  await query(`update guard set taken = taken + 1 where name = 'bulk'`)
  const first = batch * 10_000
  if (how === 'merge') {
    await query('delete from bulk where batch = $1 and id >= $2', [batch, first + size])
    await query(`merge into bulk using generate_series(0, $2::int - 1) i on bulk.id = $3::int + i
      when matched then update set size = $2, stamp = $4
      when not matched then insert (id, batch, size, stamp) values ($3 + i, $1::int, $2, $4)`, [batch, size, first, stamp])
  } else {
    await query('delete from bulk where batch = $1', [batch])
    if (how === 'copy') await copy('copy bulk (id, batch, size, stamp) from stdin', Array.from({ length: size }, (_, i) => `${first + i}\t${batch}\t${size}\t${stamp}`))
    else await query('insert into bulk (id, batch, size, stamp) select $3::int + i, $1, $2, $4 from generate_series(0, $2::int - 1) i', [batch, size, first, stamp])
  }
  note(`bulk ${batch}`, `is filled with ${size} rows by ${how}`)
}

const stampBatch: Step = async ({ random, query, stamp, note }) => {
  const [batch, shifts] = [random.between(1, BATCHES), random.chance(0.5)]
  await query(`update guard set taken = taken + 1 where name = 'bulk'`)
  await query(`update bulk set stamp = $2${shifts ? ', id = batch * 10000 + (id + 5000) % 10000' : ''} where batch = $1`, [batch, stamp])
  note(`bulk ${batch}`, shifts ? 'is stamped, its keys shifted' : 'is stamped')
}

const emptyBulk: Step = async ({ random, query, stamp, note }) => {
  const refill = random.chance(0.5)
  await query(`update guard set taken = taken + 1 where name = 'bulk'`)
  const [kept] = await query<{ probe: number }>('select probe from bulk where id = 0 for update')
  await query('truncate bulk')
  await query('insert into bulk (id, batch, size, stamp, probe) values (0, 0, 1, $1, $2)', [stamp, kept?.probe ?? 0])
  if (refill) await query('insert into bulk (id, batch, size, stamp) select 10000 + i, 1, 50, $1 from generate_series(0, 49) i', [stamp])
  for (let batch = 0; batch <= BATCHES; batch += 1) note(`bulk ${batch}`, 'is truncated away')
}

export const SMALL_STEPS: readonly Step[] = [
  transfer, transfer, transfer, openAccounts, mergeAccounts, closeAccount, moveAccount, moveAccount, renumberAccount, swapAccounts, replaceAccount,
  stampPair, stampPair, makePair, dropPair, renumberPair, writeEchoes, writeEchoes, makeEcho, dropEcho, changeQueue, changeQueue,
]
export const LARGE_STEPS: readonly Step[] = [fillBatch, fillBatch, fillBatch, stampBatch, stampBatch, stampBatch, emptyBulk]
/** Their locks may be held for long without everybody waiting. */
export const LONE_STEPS: readonly Step[] = [stampPair, makePair, writeEchoes]
