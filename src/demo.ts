/** The demo: one watched table, as one would put it on a stage, and the only way that this server ever writes to a host's table. */
import type { Pool } from './database/pool.ts'
import { withClient } from './database/pool.ts'
import type { Vote } from './transport/app.ts'

const OPTIONS = ['Espresso', 'Green tea', 'Hot chocolate', 'Plain water']

/** Creates `public.options` with a few rows unless it is there, and watches it. */
export async function seedDemo(pool: Pool): Promise<void> {
  await withClient(pool, async (client) => {
    const { rows: [found] } = await client.query<{ exists: boolean }>(`select to_regclass('public.options') is not null as exists`)
    if (found?.exists !== true) {
      await client.query('begin')
      await client.query('create table public.options (id int primary key, label text not null, votes int not null default 0)')
      await client.query('insert into public.options (id, label) select position, label from unnest($1::text[]) with ordinality as option (label, position)', [OPTIONS])
      await client.query('commit')
    }
    await client.query(`select freshet.watch('public.options')`)
  })
}

export function createVote(pool: Pool): Vote {
  return async (id) => {
    const startedMs = performance.now()
    const { rowCount } = await pool.query('update public.options set votes = votes + 1 where id = $1', [Number.isSafeInteger(id) && Math.abs(id) < 2 ** 31 ? id : 0])
    return rowCount === 0 ? null : { committedAtMs: Date.now(), tookMs: performance.now() - startedMs }
  }
}
