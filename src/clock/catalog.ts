/**
 * Reads what a node must know before it can answer: epoch, floor, issued numbers, and every channel with its table's columns.
 * One statement, so that what it returns belongs together, and one before it on a standby's age. Nothing is cached here.
 */
import type { Catalog, ChannelDefinition, ColumnDefinition, Conversion, TableDefinition } from '../contract/change.ts'
import type { Pool } from '../database/pool.ts'

/** PostgreSQL numbers what is made after it is born from here on. */
const FIRST_OF_HOST = 16_384

/** What a type is written as takes a while to find out, and tables share their types. */
const STATE = `
with renderings as materialized (
  select type, freshet.rendered_value(type, '?') as rendering from (
    select distinct atttypid as type from freshet.tables join pg_attribute on attrelid = relation
    where attnum > 0 and not attisdropped and atttypid >= ${FIRST_OF_HOST}) types
)
select epoch, floor,
  coalesce((select max(number) from freshet.versions), 0) as head,
  coalesce((select json_agg(json_build_array(number, leapt_from) order by number) from freshet.versions where leapt_from is not null), '[]') as leaps,
  coalesce((select json_agg(json_build_array(table_id, version, born)) from (
    select table_id, max(version) as version, max(born) as born from (
      select table_id, version, born from freshet.touched
      union all
      select table_id, number, case when table_id = any (reset) then number else 0 end
      from freshet.versions, unnest(touched) table_id where number > state.touched_at
    ) known group by table_id) last), '[]') as touched,
  coalesce((select json_agg(json_build_object('name', name, 'tableId', table_id, 'columns', columns, 'filters', filters, 'isPublic', public)
    order by name) from freshet.channels), '[]') as channels,
  coalesce((select json_agg(json_build_object('id', tables.id, 'name', coalesce(freshet.quoted_name(relation), tables.name), 'parked', parked,
      'isPartitioned', coalesce(relkind = 'p', false), 'keyColumns', key_columns, 'columns', coalesce((
        select json_agg(json_build_object('name', attname, 'type', format_type(atttypid, atttypmod), 'nullable', not attnotnull,
          'typeId', atttypid::oid::int8, 'enum', (select format_type(oid, null) from pg_type
            where typtype = 'e' and oid = (select coalesce(nullif(typbasetype, 0), oid) from pg_type where oid = atttypid)),
          'rendering', (select replace(rendering, '?', 't.' || quote_ident(attname)) from renderings where type = atttypid),
          'keyed', case when attname = any (key_columns) and not atttypid = any ('{int2,int4,int8,text,varchar,uuid}'::regtype[])
            then freshet.rendered_key(atttypid, 'published.' || quote_ident(attname)) end,
          'isText', attname = any (text_columns),
          'isCaptured', tables.columns is null or attname = any (tables.columns || key_columns || filter_columns), 'base', (
            with recursive base as (
              select pg_type.oid, typbasetype, typelem, typcategory, typname from pg_type where oid = atttypid
              union all
              select next.oid, next.typbasetype, next.typelem, next.typcategory, next.typname from base
              join pg_type next on next.oid = case when base.typbasetype <> 0 then base.typbasetype when base.typcategory = 'A' then base.typelem end)
            select typname from base where typbasetype = 0 and typcategory <> 'A' limit 1)) order by attnum)
        from pg_attribute where attrelid = relation and attnum > 0 and not attisdropped), '[]')))
    from freshet.tables left join pg_class on pg_class.oid = relation), '[]') as tables
from freshet.state`

/** Asked before: what is read afterwards has all that was replayed by then. */
const REPLAYED = `select case when pg_is_in_recovery() then coalesce(extract(epoch from pg_last_xact_replay_timestamp()) * 1000, 0) end as replayed_ms`

interface StateRow {
  readonly epoch: string
  readonly floor: string
  readonly head: string
  readonly leaps: readonly (readonly [number, number])[]
  readonly touched: readonly (readonly [number, number, number])[]
  readonly channels: readonly { name: string; tableId: number; columns: string[] | null; filters: string[]; isPublic: boolean }[]
  readonly tables: readonly (Omit<TableDefinition, 'columns'> & { columns: readonly (Omit<ColumnDefinition, 'conversion' | 'comparedAs' | 'isEnum'> & { base: string; enum: string | null })[] })[]
}

export async function readCatalog(pool: Pool): Promise<Catalog> {
  const { rows: [standby] } = await pool.query<{ replayed_ms: string | null }>(REPLAYED)
  const { rows: [state] } = await pool.query<StateRow>(STATE)
  if (state === undefined) throw new Error('freshet.state is empty')
  const tables = new Map(state.tables.map((table) => [table.id, {
    ...table, columns: table.columns.map(({ base, enum: enumeration, ...column }) => ({
      ...column, conversion: column.isText ? 'none' : conversionOf(base), comparedAs: enumeration ?? comparisonType(base), isEnum: enumeration !== null,
    })),
  }]))
  return {
    epoch: state.epoch,
    floor: Number(state.floor),
    head: Number(state.head),
    leaps: state.leaps.map(([number, leaptFrom]) => ({ number, leaptFrom })),
    replayedMs: standby?.replayed_ms == null ? null : Number(standby.replayed_ms),
    touched: new Map(state.touched.map(([tableId, version, born]) => [tableId, { version, born }])),
    channels: state.channels.flatMap((channel): ChannelDefinition[] => {
      const table = tables.get(channel.tableId)
      if (table === undefined) return []
      const columns = table.columns.filter(({ name }) => channel.columns === null || channel.columns.includes(name))
      return [{ name: channel.name, table, columns, filters: channel.filters, isPublic: channel.isPublic }]
    }),
  }
}

/** A cast to the column's own type would cut text to its length and round numbers to its scale, and match what is not equal. */
function comparisonType(base: string): string | null {
  switch (base) {
    case 'text': case 'varchar': case 'name': case 'char': return 'text'
    case 'bool': case 'int2': case 'int4': case 'int8': case 'numeric': case 'oid': case 'bpchar': case 'uuid': case 'date': case 'time':
    case 'timestamp': case 'timestamptz': case 'inet': case 'cidr': case 'macaddr': return base
    default: return null
  }
}

/** `base` is the type under domains and arrays. */
function conversionOf(base: string): Conversion {
  switch (base) {
    case 'int8': case 'numeric': return 'quote-numbers'
    case 'bytea': return 'base64'
    default: return 'none'
  }
}
