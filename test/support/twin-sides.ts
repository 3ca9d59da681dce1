/** The two databases of a twin test, and what a script leaves behind in them. */
import { randomBytes } from 'node:crypto'
import { expect, onTestFinished } from 'vitest'
import { createDatabase, postgresMajor, type TestDatabase } from './database.ts'
import { Session, type Protocol, type Step } from './twin.ts'

export interface Side {
  readonly database: TestDatabase
  /** What `twin_` is called here; as long as `twin_`. */
  readonly prefix: string
  readonly protocol: Protocol
  /** After what may have changed a table, when no session is in a transaction. */
  readonly betweenSteps: () => Promise<void>
}

async function createSide(protocol: Protocol, migrated: boolean, betweenSteps: (database: TestDatabase) => Promise<void>): Promise<Side> {
  const database = await createDatabase({ migrated })
  onTestFinished(() => database.drop())
  return { database, prefix: `t${randomBytes(2).toString('hex').slice(0, 3)}_`, protocol, betweenSteps: () => betweenSteps(database) }
}

export async function createBareSide(protocol: Protocol): Promise<Side> {
  return createSide(protocol, false, () => Promise.resolve())
}

/** Every table that can be watched is, as soon as it is there; by a column of it, where one can be a filter. */
const WATCH_ALL = `do $$
declare
  target regclass;
  owner name;
  filter name;
begin
  for target, owner in
    select pg_class.oid, rolname from pg_class join pg_roles on pg_roles.oid = relowner
    where relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'freshet'::regnamespace)
      and relkind in ('r', 'p') and relpersistence = 'p' and not relispartition and not relrowsecurity
      and exists (select from pg_index where indrelid = pg_class.oid and indisprimary and indimmediate)
      and not exists (select from pg_inherits where inhparent = pg_class.oid and relkind = 'r' or inhrelid = pg_class.oid)
      and pg_class.oid not in (select relation from freshet.tables)
  loop
    if to_regproc('freshet.trust') is not null then
      execute format('select freshet.trust(%L)', quote_ident(owner));
    end if;
    select attname into filter from pg_attribute
    where attrelid = target and attnum > 0 and not attisdropped and attgenerated <> 'v'
      and atttypid in ('int4'::regtype, 'text'::regtype) and attcollation in (0, 100) order by attnum desc limit 1;
    begin
      perform freshet.watch(target, 'channel_' || target::oid, filters => case when filter is null then '{}' else array[filter] end);
    exception when others then
      -- Refused by name, it is a table like any other.
      if sqlerrm not like 'cannot watch %' then raise; end if;
    end;
  end loop;
end
$$`

/** In the ways of a host that commits with PREPARE TRANSACTION: writers that never ring. */
export interface Watching { readonly clock: 'asleep' | 'awake'; readonly wake: 'notify' | 'poll'; readonly detectsDrift: boolean }

export async function createWatchedSide(protocol: Protocol, { clock, wake, detectsDrift }: Watching): Promise<Side> {
  const side = await createSide(protocol, true, async (database) => {
    await database.query(WATCH_ALL)
    if (detectsDrift) await database.query('select freshet.detect_drift()')
  })
  await side.database.query(`select freshet.configure('wake', $1)`, [wake])
  await side.database.query(`select setval('freshet.awake_until', $1)`, [clock === 'awake' ? Date.now() + 3_600_000 : 1])
  return side
}

const MAKES_NO_TABLE = /^(insert|update|delete|merge|copy|truncate|fetch|show|set|reset|begin|savepoint|release|rollback to)\b/

export interface Transcript {
  /** What the sessions of a script saw, as one text in which nothing is of this side alone. */
  readonly transcript: string
  /** Statements that ended otherwise than the script says. */
  readonly surprises: readonly string[]
}

export async function play(side: Side, steps: readonly Step[]): Promise<Transcript> {
  const sessions = new Map<string, Session>()
  const [transcript, surprises]: [string[], string[]] = [[], []]
  for (const step of steps.filter(({ fromMajor }) => fromMajor <= postgresMajor)) {
    const session = sessions.get(step.session) ?? await Session.open(side.database, side.protocol)
    sessions.set(step.session, session)
    transcript.push(`${step.session} ${step.kind}> ${step.sql}`)
    if (step.kind !== 'resumes') session.start({ ...step, sql: step.sql.replaceAll('twin_', side.prefix) })
    if (step.kind === 'waits') {
      await untilBlocked(side.database, session.processId)
      continue
    }
    const { code, lines } = await session.finish()
    if (code !== step.fails) surprises.push(`${code ?? 'success'} instead of ${step.fails ?? 'success'}: ${step.sql}\n${lines.join('\n')}`)
    transcript.push(...lines.map((line) => `  ${line}`))
    if (!MAKES_NO_TABLE.test(step.sql) && [...sessions.values()].every(({ isIdle }) => isIdle)) await side.betweenSteps()
  }
  for (const session of sessions.values()) await session.close()
  return { surprises, transcript: normalized(transcript.join('\n'), side.prefix) }
}

async function untilBlocked(database: TestDatabase, processId: number): Promise<void> {
  await expect.poll(async () => (await database.query<{ blocked: boolean }>('select cardinality(pg_blocking_pids($1)) > 0 as blocked', [processId]))[0]?.blocked).toBe(true)
}

function normalized(transcript: string, prefix: string): string {
  return transcript.replaceAll(prefix, 'twin_').replaceAll(/pg_toast_\d+/g, 'pg_toast_N').replaceAll(/\b(process|transaction|database|relation|tuple|OID) \(?[\d,]+\)?/gi, '$1 N')
}

const LEFT = `
select coalesce(string_agg(line, E'\\n' order by line), '') as text from (
  select format('column %s.%s %s %s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated) as line
  from pg_attribute join pg_class on pg_class.oid = attrelid where attnum > 0 and not attisdropped and relnamespace in (select oid from hosts)
  union all select format('relation %s %s of %s for %s', pg_class.oid::regclass, relkind, pg_get_userbyid(relowner), relacl)
  from pg_class where relnamespace in (select oid from hosts)
  union all select format('constraint %s of %s: %s', conname, conrelid::regclass, pg_get_constraintdef(oid)) from pg_constraint where connamespace in (select oid from hosts)
  union all select format('function %s of %s for %s', oid::regprocedure, pg_get_userbyid(proowner), proacl) from pg_proc where pronamespace in (select oid from hosts)
  union all select format('trigger %s on %s: %s', tgname, tgrelid::regclass, tgenabled) from pg_trigger join pg_proc on pg_proc.oid = tgfoid
  where not tgisinternal and pronamespace in (select oid from hosts)
) lines`
const HOSTS = `with hosts as (select oid from pg_namespace where nspname <> 'freshet' and nspname <> 'information_schema' and nspname not like 'pg\\_%')`

/** The catalog and the rows that a script leaves. */
export async function leftBy({ database, prefix }: Side): Promise<string> {
  const [catalog] = await database.query<{ text: string }>(`${HOSTS} ${LEFT}`)
  const relations = await database.query<{ name: string; columns: string }>(`${HOSTS}
    select oid::regclass::text as name, case relkind when 'S' then 't.last_value, t.is_called' else 't.*' end as columns
    from pg_class where relkind in ('r', 'p', 'S', 'v') and relnamespace in (select oid from hosts) order by 1`)
  const rows: string[] = []
  for (const { name, columns } of relations) {
    const [found] = await database.query<{ text: string }>(
      `select coalesce(string_agg(row(${columns})::text, E'\\n' order by row(${columns})::text), '') as text from ${name} t`)
    rows.push(`${name}:\n${found?.text ?? ''}`)
  }
  return normalized([catalog?.text ?? '', ...rows].join('\n'), prefix)
}
