-- Capture: the trigger functions are generated for each watched table, from its definition in freshet.tables.
--
-- An UPDATE is captured row by row, which costs a write of one row half as much as a statement's transition tables and their join,
-- and a row of very many about twice as much. INSERT and DELETE are captured by one insert-select a statement; one of very many rows
-- that are most of their table (a bulk load) starts it anew, as TRUNCATE does.
--
-- The truth about a key is the row in the table as this transaction sees it now. What the trigger is given is that row unless the
-- host has written it again since, in a trigger or a function of its own, and such a write was captured before (one that is captured
-- later tells it anyway). Each capture that could come so leaves a mark with the time of the client's statement that it belongs to: of
-- a row that this transaction wrote before, of a key that was not there. So nearly always what is given is taken, which adds no conflict
-- in SERIALIZABLE; only what finds the mark is read from the table, unless the row itself says that nobody has touched it (xmax).
--
-- Columns are named statically, for speed; the guard compares the names with the catalog first, outside MVCC, so that
-- a renamed column, a dropped key or a revoked privilege writes a reset line and never fails the host's statement.
-- Names of the host appear only behind an alias: no column of its can be mistaken for one of ours.

create function freshet.quoted_name(relation oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('%I.%I', nspname, relname)
  from pg_class join pg_namespace on pg_namespace.oid = relnamespace where pg_class.oid = relation
$$;

-- The equality of each column of the primary key. Extension types bring theirs, in schemas of their own.
create function freshet.key_operators(relation regclass) returns table (column_name name, operator name, namespace oid, id oid)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select attname, operator.oprname, operator.oprnamespace, operator.oid
  from pg_index
  cross join lateral unnest(indkey::smallint[], indclass::oid[]) with ordinality as part (attnum, opclass, position)
  join pg_attribute on attrelid = indrelid and pg_attribute.attnum = part.attnum
  join pg_opclass on pg_opclass.oid = part.opclass
  join pg_amop on amopfamily = opcfamily and amopstrategy = 3 and amoplefttype = opcintype and amoprighttype = opcintype
  join pg_operator operator on operator.oid = amopopr
  where indrelid = relation and indisprimary
$$;

-- As it is written, e.g. `operator(pg_catalog.=)`.
create function freshet.key_equality(relation regclass, column_name text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('operator(%I.%s)', nspname, keys.operator)
  from freshet.key_operators(relation) keys join pg_namespace on pg_namespace.oid = keys.namespace where keys.column_name = key_equality.column_name
$$;

-- Whether a type is of numbers that lose digits in most clients when they are JSON numbers: beyond 2^53, or decimal. As text they keep them.
-- (So do arrays of them, but a column that was retyped meanwhile may have no cast to text[], and the host's write would fail.)
create function freshet.needs_text(type oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive base as (
    select oid, typbasetype from pg_type where oid = type
    union all
    select pg_type.oid, pg_type.typbasetype from base join pg_type on pg_type.oid = base.typbasetype)
  select exists (select from base where oid in ('int8'::regtype, 'numeric'::regtype))
$$;

-- How a value is written as JSON. to_json and casts look up functions of whoever owns a type, and would call them with the rights of the owner of
-- this schema; for the types that PostgreSQL is born with there are none to find. Any other is written as its text by format(), which calls
-- nothing but the output function, and read back, where JSON needs more than a string, as a type that only PostgreSQL and this schema made: text, an
-- array of it, or a shape (a composite with the same names). So an enumeration, a range or a type of an extension is a JSON string.

create function freshet.base_type(type oid) returns pg_type
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive base as (
    select pg_type from pg_type where oid = type
    union all
    select under from base join pg_type under on under.oid = (base.pg_type).typbasetype)
  select (pg_type).* from base where (pg_type).typbasetype = 0
$$;

-- The type of an array's elements; null for what is no array.
create function freshet.element_type(type pg_type) returns oid
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when type.typsubscript = 'array_subscript_handler'::regproc then type.typelem end
$$;

-- Whether to_json can be trusted with it. (16384: the first number that PostgreSQL gives to what is made after it is born.)
create function freshet.is_built_in(type oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive part as (
    select freshet.base_type(type) as base
    union all
    select freshet.base_type(freshet.element_type(base)) from part where (base).oid >= 16384 and freshet.element_type(base) is not null)
  select coalesce(bool_or((base).oid < 16384), false) from part
$$;

-- The type that values of this one are read back as: what in a composite is written as more than a string stays what it is.
create function freshet.mirror(type oid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  base pg_type := freshet.base_type(type);
  element pg_type := freshet.base_type(freshet.element_type(base));
begin
  if base.typtype = 'c' then
    return 'freshet.' || freshet.shape_name(base.typrelid);
  elsif base.oid = any ('{bool,int2,int4,int8,float4,float8,numeric,date,timestamp,timestamptz,json,jsonb}'::regtype[]) then
    return format_type(base.oid, null);
  -- An array of arrays is not to be had, and other delimiters do not read as text.
  elsif element.typdelim = ',' and freshet.element_type(element) is null then
    return freshet.mirror(element.oid) || '[]';
  end if;
  return 'text';
end
$$;

-- What a shape is made of: the attributes of a composite.
create function freshet.shape_of(composite oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(string_agg(format('%I %s', attname, freshet.mirror(atttypid)), ', ' order by attnum), '')
  from pg_attribute where attrelid = composite and attnum > 0 and not attisdropped
$$;

-- Named after what it is made of: one that is in use is never changed.
create function freshet.shape_name(composite oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select 'shape_' || left(md5(freshet.shape_of(composite)), 16)
$$;

-- The composites in a type, the inner ones first.
create function freshet.composites_in(type oid) returns setof oid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  base pg_type := freshet.base_type(type);
begin
  if base.typtype = 'c' then
    return query select inside from pg_attribute, freshet.composites_in(atttypid) inside where attrelid = base.typrelid and attnum > 0 and not attisdropped;
    return next base.typrelid;
  elsif freshet.element_type(base) is not null then
    return query select freshet.composites_in(base.typelem);
  end if;
end
$$;

create function freshet.create_shapes(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp set client_min_messages = warning as $$
declare
  composite oid;
begin
  for composite in
    select inside from pg_attribute, freshet.composites_in(atttypid) inside
    where attrelid = relation and attnum > 0 and not attisdropped and not freshet.is_built_in(atttypid)
  loop
    if to_regtype('freshet.' || freshet.shape_name(composite)) is null then
      execute format('create type freshet.%I as (%s)', freshet.shape_name(composite), freshet.shape_of(composite));
      execute format('revoke all on type freshet.%I from public', freshet.shape_name(composite));
    end if;
  end loop;
end
$$;

-- An expression for a value of this type, ready for to_json. (In parentheses: to plpgsql `then` is the end of a condition.) (`is null` is also true of a composite that has only nulls.) It reads the catalog for roles
-- that may not look at anything else here.
create function freshet.rendered_value(type oid, value text, is_text boolean default false) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select case
    when is_text then format('%s::text', value)
    when freshet.is_built_in(type) then value
    else format('(case when num_nulls(%1$s) = 1 then null else format(''%%s'', %1$s)%2$s end)', value, coalesce('::' || nullif(freshet.mirror(type), 'text'), '')) end
$$;

-- An expression for the JSON of a key, given its value as rendered: different texts for different keys. -0 is the key 0. The bounds of an array
-- are part of it, and JSON has none: where they are not the usual ones, the key is written as its text.
create function freshet.rendered_key(type oid, value text) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select format(case
    when (base).oid = 'float8'::regtype then 'to_json(%s + ''0''::float8)::text'
    when (base).oid = 'float4'::regtype then 'to_json(%s + ''0''::float4)::text'
    when freshet.element_type(base) is not null
      then '(case when left(format(''%%s'', %1$s), 1) = ''['' then to_json(format(''%%s'', %1$s))::text else to_json(%1$s)::text end)'
    else 'to_json(%s)::text' end, value)
  from (select freshet.base_type(type) as base offset 0) base
$$;

-- The columns that capture reads, in the order of the table: the published ones, the key and the filters.
create function freshet.captured_columns(watched freshet.tables) returns table (name text, attnum smallint)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select attname::text, pg_attribute.attnum from pg_attribute
  where attrelid = watched.relation and pg_attribute.attnum > 0 and not attisdropped
    and (watched.columns is null or attname = any (watched.columns || watched.key_columns || watched.filter_columns))
  order by pg_attribute.attnum
$$;

-- An expression for a captured column of `alias`.
create function freshet.rendered_column(watched freshet.tables, alias text, name text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select freshet.rendered_value(atttypid, format('%s.%I', alias, name), name = any (watched.text_columns))
  from pg_attribute where attrelid = watched.relation and attname = name
$$;

-- An expression that renders the named columns of `alias` as a JSON object, exactly as they are in a captured row, or as they are in a key.
create function freshet.rendered(watched freshet.tables, alias text, names text[], as_key boolean default false) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('%L', '{') || string_agg(
    format(' || %L || %s', case when position > 1 then ',' else '' end || to_json(name) || ':', case
      -- Nothing in a primary key is null.
      when as_key then freshet.rendered_key(atttypid, freshet.rendered_column(watched, alias, name))
      else format('coalesce(to_json(%s)::text, ''null'')', freshet.rendered_column(watched, alias, name)) end), '' order by position)
    || format(' || %L', '}')
  from unnest(names) with ordinality as column_list (name, position)
  left join pg_attribute on attrelid = watched.relation and attname = name
$$;

create function freshet.is_partitioned(relation regclass) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select relkind = 'p' from pg_class where oid = relation
$$;

-- An expression for the captured part of a row. `alias.*` names the row even where a column is called like the alias.
-- In NEW the columns are in the order of the partition, so there they are listed.
create function freshet.rendered_row(watched freshet.tables, alias text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case
    when watched.columns is not null or watched.text_columns <> '{}' or alias = 'new' and freshet.is_partitioned(watched.relation)
        or exists (select from pg_attribute where attrelid = watched.relation and attnum > 0 and not attisdropped and not freshet.is_built_in(atttypid)) then (
      select format('(select row_to_json(part.*)::text from (select %s) as part)',
        string_agg(format('%s as %I', freshet.rendered_column(watched, alias, name), name), ', ' order by attnum))
      from freshet.captured_columns(watched))
    else format('row_to_json(%s.*)::text', alias)
  end
$$;

-- The columns of these names whose types are not among those given, nor enumerations; and texts whose collation makes different ones equal.
create function freshet.columns_not_of(relation regclass, names text[], types regtype[]) returns setof pg_attribute
language sql stable set search_path = pg_catalog, pg_temp as $$
  select pg_attribute.* from pg_attribute join pg_type on pg_type.oid = atttypid left join pg_collation on pg_collation.oid = attcollation
  where attrelid = relation and attname = any (names) and not (atttypid = any (types) and coalesce(collisdeterministic, true) or typtype = 'e')
$$;

-- Whether equal keys always render alike. Numbers do not (1.0 and 1.00), nor do texts of some collations.
create function freshet.renders_alike(watched freshet.tables) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select not exists (select from freshet.columns_not_of(watched.relation, watched.key_columns,
    array['int2', 'int4', 'int8', 'oid', 'bool', 'uuid', 'text', 'varchar', 'date', 'timestamp', 'timestamptz']::regtype[]))
$$;

-- A condition: the key columns of the one are those of the other. As the type under their domain: a domain over an enumeration has no equality of its
-- own, and in a schema where others may create, somebody may have made one for a domain, which would fit better than that of the key.
create function freshet.equal_keys(watched freshet.tables, one text, other text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('%1$s.%3$I%5$s %4$s %2$s.%3$I%5$s', one, other, name, freshet.key_equality(watched.relation, name),
    case when typtype = 'd' and (freshet.base_type(atttypid)).oid >= 16384 then '::' || format_type((freshet.base_type(atttypid)).oid, null) else '' end), ' and ' order by position)
  from unnest(watched.key_columns) with ordinality as keys (name, position)
  join pg_attribute on attrelid = watched.relation and attname = name join pg_type on pg_type.oid = atttypid
$$;

-- A condition: what equal_keys names is what was meant. Types are renamed, extensions move to other schemas, and an enumeration with a cast that applies
-- by itself has no operator that fits best: the host's statement would fail, or call what bears the name by now.
create function freshet.equality_guard(watched freshet.tables) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select 'true' || coalesce(string_agg(
    case when (base).oid < 16384 then '' else format(' and to_regtype(%L) is not distinct from %s::oid', format_type((base).oid, null), (base).oid) end
    -- After the types, which must be there for this to be asked before PostgreSQL 16.
    || case when keys.id < 16384 then '' else format(' and to_regoperator(%L) is not distinct from %s::oid', keys.id::regoperator, keys.id) end
    || case when (base).typtype <> 'e' then '' else format(' and not exists (select from pg_cast where castsource = %s::oid and castcontext = ''i'')', (base).oid) end, ''), '')
  from freshet.key_operators(watched.relation) keys join pg_attribute on attrelid = watched.relation and attname = keys.column_name
  cross join lateral (select freshet.base_type(atttypid) as base offset 0) under
$$;

-- The same as equal_keys, of the row before and after an update: where no index is wanted, an enumeration is compared by the very function. Its owner may define casts
-- with which its operator is not the only one that fits.
create function freshet.keys_stay(watched freshet.tables) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format(case when typtype = 'e' then 'enum_eq(new.%1$I, old.%1$I)' else 'new.%1$I %2$s old.%1$I' end,
    name, freshet.key_equality(watched.relation, name)), ' and ' order by position)
  from unnest(watched.key_columns) with ordinality as keys (name, position)
  join pg_attribute on attrelid = watched.relation and attname = name join pg_type on pg_type.oid = atttypid
$$;

-- A condition: and they are written alike.
create function freshet.keys_written_alike(watched freshet.tables, one text, other text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('%s = %s', freshet.rendered(watched, one, watched.key_columns, true), freshet.rendered(watched, other, watched.key_columns, true))
$$;

-- A condition: the update left the row under its key, written alike.
create function freshet.same_key(watched freshet.tables) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('%L::regclass is not null and ', watched.relation::oid)
    || case when freshet.renders_alike(watched) then freshet.keys_stay(watched) else freshet.keys_written_alike(watched, 'new', 'old') end
$$;

-- A transaction id in 64 bits: the one of these 32 that is within 2^31 of our own.
create function freshet.widened(id xid) returns xid8
language sql stable as $$
  select (pg_current_xact_id()::text::bigint + (((id::text::bigint - pg_current_xact_id()::text::bigint) << 32) >> 32))::text::xid8
$$;

-- Whether a row that we see was written by this transaction: then who wrote it is not in our snapshot, or has not ended. (A row that was
-- frozen two billion transactions ago may pass for one.) Without settings, so that it becomes part of the query; its caller has them.
create function freshet.is_ours(writer xid) returns boolean
language sql volatile as $$
  select case
    when freshet.widened(writer) >= pg_snapshot_xmax(pg_current_snapshot()) then true
    else coalesce(pg_xact_status(freshet.widened(writer)) = 'in progress', false) end
$$;

-- An expression for the row that has the key of `alias` now; null if there is none.
create function freshet.truth(watched freshet.tables, alias text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  -- In REPEATABLE READ the snapshot may still see the row that had this key before another transaction deleted it. What was
  -- touched is ours: nobody else has this key until we end, so only a row that we wrote is the truth.
  select format('(select %s from %s%s t where %s%s and freshet.is_ours(t.xmin))', freshet.rendered_row(watched, 't'),
    case when freshet.is_partitioned(watched.relation) then '' else 'only ' end, freshet.quoted_name(watched.relation),
    freshet.equal_keys(watched, 't', alias),
    -- Where equal keys may render differently the text may be gone although a row is there.
    case when freshet.renders_alike(watched) then '' else ' and ' || freshet.keys_written_alike(watched, 't', alias) end)
$$;

-- An expression: the filter columns of `alias` as they are logged.
create function freshet.rendered_filters(watched freshet.tables, alias text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when watched.filter_columns = '{}' then 'null' else freshet.rendered(watched, alias, watched.filter_columns) end
$$;

-- Writes a line for `new` or `old`, or one for each of `new_rows` or `old_rows` (or of `source` under that alias, or of a `range` of them),
-- into the log table in use.
create function freshet.log_lines(watched freshet.tables, alias text, new_row text, old_filters text, source text default null, range text default '') returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($statement$
    if pg_sequence_last_value('freshet.slot') = 0 then
      insert into freshet.changes_0 (%2$stable_id, key, new_row, old_filters) %1$s;
    else
      insert into freshet.changes_1 (%2$stable_id, key, new_row, old_filters) %1$s;
    end if;
$statement$,
    -- The condition is always true: it makes the plan depend on the table, whose columns may change their types.
    format('select %s%s, %s, %s, %s%s where %L::regclass is not null%s',
      -- The rows of a statement have one place in the log, so that it is asked for once; that of a single row is the default.
      case when alias in ('new', 'old') then '' else '(select pg_current_wal_insert_lsn()), ' end,
      watched.id, freshet.rendered(watched, alias, watched.key_columns, true), new_row, old_filters,
      case when alias in ('new', 'old') then '' else ' from ' || coalesce(source, alias) end, watched.relation::oid, range),
    case when alias in ('new', 'old') then '' else 'lsn, ' end)
$$;

-- Whether so many rows, which take so many bytes, are more than half of a table. By its size and its statistics, since reading it would be a
-- conflict in SERIALIZABLE; both must say so, because each can be mistaken, and clients would read a table many times as large as the load.
create function freshet.are_most(relation regclass, row_count int8, bytes int8) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select bytes > pg_table_size(oid) / 2
    -- Nobody has counted it, or: as many to a page as were counted.
    and (reltuples <= 0 or relpages <= 0
      or row_count > greatest(reltuples, reltuples / relpages * (pg_relation_size(oid) / current_setting('block_size')::int8)) / 2)
  from pg_class where oid = relation
$$;

-- An expression for the bytes that a row takes in its table: those of its columns, its header of 24, its pointer and what aligns it. Of each
-- column by itself, because the size of a whole row would fetch what is stored apart.
create function freshet.row_bytes(watched freshet.tables, alias text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select '32' || string_agg(format(' + coalesce(pg_column_size(%s.%I), 0)', alias, name), '' order by attnum) from freshet.captured_columns(watched)
$$;

-- As log_lines; but where `new_rows` or `old_rows` are more than the setting says and more than half of their table, it starts anew
-- instead: its clients read it sooner than so many lines, and whoever loads or empties it is spared writing it twice.
create function freshet.log_touched(watched freshet.tables, alias text, new_row text, old_filters text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when alias in ('new', 'old') or value = 'never' then freshet.log_lines(watched, alias, new_row, old_filters) else format($statement$%1$s
    get diagnostics written = row_count;
    -- Most statements are over, and were not counted twice.
    if written = 1000 then
      -- What is longer than 2,000 bytes may be compressed to next to nothing. (Naming the table makes this plan depend on it as well.)
      if (select count(*) > %2$s and freshet.are_most(%3$L, count(*), sum(bytes) filter (where bytes <= 2000)) from (select %4$s as bytes from %5$s offset 0) sizes) then
        perform freshet.insert_reset(%6$s, 'bulk');
      else%7$s      end if;
      -- The first of them were written, if no others.
      found := true;
    end if;
$statement$,
    freshet.log_lines(watched, alias, new_row, old_filters, range => ' limit 1000'), value, watched.relation::oid, freshet.row_bytes(watched, alias), alias, watched.id,
    freshet.log_lines(watched, alias, new_row, old_filters, source => format('(select * from %1$s offset 1000) %1$s', alias))) end
  from (select coalesce((select value from freshet.settings where name = 'bulk_rows'), 'never') as value) setting
$$;

-- A plan is kept for a session, in which the table may grow: the key's index must always be used. A generic plan locks every
-- partition for every row; with a few it is still the cheaper one. What reads the table row by row is planned so by settings of its own:
-- those of a function cost each call something, and hardly any comes here. (An error in between undoes them.)
create function freshet.planned_by_key(watched freshet.tables, lines text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($planned$
    declare
      seqscan text := current_setting('enable_seqscan');
      cache_mode text := current_setting('plan_cache_mode');
    begin
      perform set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', %L, true);%s
      perform set_config('enable_seqscan', seqscan, true), set_config('plan_cache_mode', cache_mode, true);
    end;
$planned$, case when (select count(*) > 16 from pg_partition_tree(watched.relation)) then 'force_custom_plan' else 'auto' end, lines)
$$;

-- The lines for one side of what a statement or a row touched: NEW has a key now, OLD had one before.
create function freshet.capture_side(watched freshet.tables, level text, side text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  alias text := case level when 'ROW' then side else side || '_rows' end;
  old_filters text := case
    when side = 'old' then freshet.rendered_filters(watched, alias)
    -- The row that had this key before is the old one only if the key stayed.
    when level = 'ROW' then format('case when stays then %s end', freshet.rendered_filters(watched, 'old'))
    else 'null' end;
  given text := freshet.log_touched(watched, alias, case side when 'new' then freshet.rendered_row(watched, alias) else 'null' end, old_filters);
  truly text := freshet.log_touched(watched, alias, freshet.truth(watched, alias), old_filters);
begin
  if level = 'ROW' then
    truly := freshet.planned_by_key(watched, truly);
  end if;
  truly := freshet.if_trusted(watched, truly);
  if side = 'new' and freshet.has_virtual_columns(watched.relation) then
    return truly;
  end if;
  return format(E'    if %s then%s    else%s    end if;\n', case when level = 'ROW' and side = 'new' then 'not has_captured or new.xmax = 0' else 'not has_captured' end, given, truly);
end
$$;

-- A line about a whole table: its clients start anew, for this reason.
create function freshet.insert_reset(table_id int, reason text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if pg_sequence_last_value('freshet.slot') = 0 then
    insert into freshet.changes_0 (table_id, kind, new_row) values (insert_reset.table_id, 'r', reason);
  else
    insert into freshet.changes_1 (table_id, kind, new_row) values (insert_reset.table_id, 'r', reason);
  end if;
end
$$;

-- A table and its partitions. As an array: asked for by an index, however many triggers there are.
create function freshet.with_partitions(target regclass) returns oid[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array(select relid::oid from pg_partition_tree(target)) || target::oid
$$;

-- Columns that are worked out as they are read: what a trigger is given has none of them.
create function freshet.has_virtual_columns(target regclass) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_attribute where attrelid = target and attgenerated = 'v')
$$;

-- The names that these columns and the primary key have now; read from the system caches, not through the transaction's snapshot.
create function freshet.names_now(relation regclass, attnums smallint[], primary_key oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg((pg_identify_object_as_address('pg_class'::regclass, relation, attnum)).object_names::text, ' ' order by attnum)
    || case when (pg_identify_object_as_address('pg_constraint'::regclass, primary_key, 0)).object_names is null then ' without its key' else '' end
  from unnest(attnums) attnum
$$;

-- An expression: whether the owner of this schema may read all of the table. (As a function of its own it would be planned at each write.)
create function freshet.may_read(relation oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('has_table_privilege(%1$s::oid, ''select'') and has_schema_privilege(%2$s::oid, ''usage'') and not row_security_active(%1$s::oid)', oid, relnamespace::oid)
  from pg_class where oid = relation
$$;

-- Whether the capture functions may and can read what they were generated for. It is no immutable function, but called so with
-- constants, it costs nothing: the planner asks it once, and again when the plan is made anew because the table (which it is told
-- of as a regclass, so that the plan depends on it) or a schema has changed.
create function freshet.is_as_watched(relation regclass, namespace oid, attnums smallint[], primary_key oid, names text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select has_table_privilege(relation, 'select') and has_schema_privilege(namespace, 'usage') and not row_security_active(relation)
    and freshet.names_now(relation, attnums, primary_key) = names
$$;

create function freshet.attributes_now(composite regclass, attnums smallint[]) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(coalesce(((pg_identify_object_as_address('pg_class'::regclass, composite, attnum)).object_names)[3], '/'), '/' order by attnum) from unnest(attnums) attnum
$$;

-- Whether a composite has the attributes that it had; called with constants, as is_as_watched is. Of the name of the type itself nothing depends.
create function freshet.is_shaped(composite regclass, attnums smallint[], names text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select freshet.attributes_now(composite, attnums) = names
$$;

create function freshet.shape_guard(composite oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('freshet.is_shaped(%L::regclass, %L, %L)', composite, attnums, freshet.attributes_now(composite::regclass, attnums))
  from (select array_agg(attnum order by attnum) || (coalesce(max(attnum), 0) + 1)::smallint as attnums from pg_attribute where attrelid = composite and attnum > 0) known
$$;

-- All columns are wanted: then a new one is a change.
create function freshet.capture_guard(watched freshet.tables) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  target regclass := watched.relation;
  attnums smallint[] := (select array_agg(attnum order by attnum) from freshet.captured_columns(watched));
  next_attnum smallint := (select max(attnum) + 1 from pg_attribute where attrelid = target);
  primary_key oid := (select oid from pg_constraint where conrelid = target and contype = 'p');
begin
  if exists (select from unnest(watched.columns || watched.key_columns || watched.filter_columns) name
      where name not in (select captured.name from freshet.captured_columns(watched) captured)) then
    return 'false';
  end if;
  return format('freshet.is_as_watched(%L::regclass, %s, %L, %s, %L)', target::oid, (select relnamespace from pg_class where oid = target),
      case when watched.columns is null then attnums || next_attnum else attnums end, primary_key, freshet.names_now(target, attnums, primary_key))
    || coalesce((select string_agg(' and ' || freshet.shape_guard(composite), '') from (
      select distinct composite from pg_attribute, freshet.composites_in(atttypid) composite
      where attrelid = target and pg_attribute.attnum = any (attnums) and not freshet.is_built_in(atttypid)) shaped), '');
end
$$;

-- A condition: the columns have the types that they had, so that what they are written with is what was meant for them. It names them, so it is asked
-- after the other guard. The table cannot change any more: whoever writes it holds its lock.
create function freshet.type_guard(watched freshet.tables) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('%L::regclass is not null', watched.relation::oid)
    || string_agg(format(' and pg_typeof((null::%s).%I) = %s::oid', freshet.quoted_name(watched.relation), attname, atttypid::oid), '' order by captured.attnum)
  from freshet.captured_columns(watched) captured join pg_attribute on attrelid = watched.relation and pg_attribute.attnum = captured.attnum
$$;

-- A condition: the trigger is one of the watched table, or of a partition of it. Anybody may create triggers that call these functions.
create function freshet.is_own_table(watched freshet.tables) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format(case when freshet.is_partitioned(watched.relation) then 'pg_partition_root(tg_relid)::oid = %s::oid' else 'tg_relid = %s::oid' end, watched.relation::oid)
$$;

-- The same by what is written down: the function may be older than the table, as after a restore, or the table is a partition itself by now.
create function freshet.is_watched_as(table_id int, relation oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from freshet.tables where id = table_id
    and (tables.relation::oid = is_watched_as.relation or tables.relation in (select pg_partition_ancestors(is_watched_as.relation))))
$$;

-- An expression that is the same for all that a statement of the client calls. A number: text of a time would depend on the settings of the moment.
create function freshet.client_statement() returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select $time$(1000000 * date_part('epoch', statement_timestamp()))::bigint::text$time$
$$;

-- Marks of the client's statement, in settings that end with the transaction: that something of a table was captured, that a clock was rung for.
-- A condition: the mark was left in the same statement (or in another of the same message).
create function freshet.is_marked(mark text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('(current_setting(%L, true) is not distinct from %s)', mark, freshet.client_statement())
$$;

create function freshet.leave_mark(mark text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  -- Assigned: PERFORM would run a query.
  select format(E'        mark := set_config(%L, %s, true);\n', mark, freshet.client_statement())
$$;

create function freshet.captured_mark(watched freshet.tables) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select 'freshet.captured_' || watched.id
$$;

-- Nearly every write: a clock is awake, or has been rung for by this statement, so that somebody serves this log and nobody need be woken; and
-- nothing was written twice. An update left the row under the key it had, and this transaction had not written it before: it need leave
-- no mark. Few conditions, because for plpgsql each costs as much as a function: hence no part of what follows.
create function freshet.capture_plainly(watched freshet.tables, level text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when freshet.has_virtual_columns(watched.relation) then '' else format($lines$
  if tg_op = %L and %s and (pg_sequence_last_value('freshet.awake_until') >= 1000 * date_part('epoch', clock_timestamp()) or %s)
      and %s and %s then
    if %s then
%s    end if;
  end if;$lines$,
    case level when 'ROW' then 'UPDATE' else 'INSERT' end, freshet.is_own_table(watched), freshet.is_marked('freshet.rung'), freshet.capture_guard(watched),
    case level when 'ROW' then 'age(old.xmin) > 0 and (new.xmax = 0 or not ' || freshet.is_marked(freshet.captured_mark(watched)) || ')'
      else 'not ' || freshet.is_marked(freshet.captured_mark(watched)) end,
    freshet.type_guard(watched),
    case level
      -- A condition of its own: where the key has another name by now, it must not even be read.
      when 'ROW' then format(E'    if %s then%s      return null;\n    end if;\n', freshet.same_key(watched),
        freshet.log_lines(watched, 'new', freshet.rendered_row(watched, 'new'), freshet.rendered_filters(watched, 'old')))
      else freshet.log_touched(watched, 'new_rows', freshet.rendered_row(watched, 'new_rows'), 'null')
        || freshet.leave_mark(freshet.captured_mark(watched)) || E'    return null;\n' end) end
$$;

create function freshet.capture_body(watched freshet.tables, level text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  lines text := format(case level
    when 'ROW' then E'    stays := tg_op = ''UPDATE'' and %3$s;\n    if tg_op <> ''DELETE'' then\n%1$s    end if;\n    if tg_op <> ''INSERT'' and not stays then\n%2$s    end if;\n'
    else E'    if tg_op = ''INSERT'' then\n%1$s    else\n%2$s    end if;\n' end,
    freshet.capture_side(watched, level, 'new'), freshet.capture_side(watched, level, 'old'), freshet.same_key(watched));
  -- PREPARE TRANSACTION forbids NOTIFY altogether, so in poll mode it is not there.
  bell text := case when (select value from freshet.settings where name = 'wake') = 'poll' then '' else format($bell$
      if rings then
        notify freshet, 'bell';
%s      end if;$bell$, freshet.leave_mark('freshet.rung')) end;
begin
  return format($body$
declare
  mark text;%10$s
begin%5$s
  if (%11$s) is not true and not freshet.is_watched_as(%1$s, tg_relid) then
    return null;
  end if;
  declare
    now_ms float8 := 1000 * date_part('epoch', clock_timestamp());
    -- What wrote rows has its transaction id by now, so that the clock's fence waits for it, should the lease end in a moment.
    rings boolean := pg_sequence_last_value('freshet.awake_until') < now_ms;
    has_captured boolean := %6$s;%9$s
  begin
    -- While a clock is awake, somebody serves this log.
    if rings and pg_sequence_last_value('freshet.abandoned_after') < now_ms then
      -- Given up for good: whoever serves next must find it, also where this clock was ahead and goes back.
      if pg_sequence_last_value('freshet.abandoned_after') > 1 then
        perform setval('freshet.abandoned_after', 1);
      end if;
      return null;
    end if;
    if tg_op = 'TRUNCATE' then
      perform freshet.insert_reset(%1$s, 'truncate');
      rings := true;
    elsif (%11$s and %2$s) is not true then
      perform freshet.insert_reset(%1$s, 'drift');
      rings := true;
    elsif (%12$s) is not true then
      perform freshet.insert_reset(%1$s, 'drift');
      rings := true;
    else
%3$s    end if;
    if found then
      if not has_captured%7$s then
%8$s      end if;%4$s
    end if;
    return null;
  end;
end
$body$, watched.id,
    -- Asked each time, before the table is read: what a role may by being a member of others changes no plan.
    freshet.may_read(watched.relation) || ' and ' || freshet.capture_guard(watched),
    lines, bell, freshet.capture_plainly(watched, level), freshet.is_marked(freshet.captured_mark(watched)),
    -- Of a row that others wrote and that keeps its key, or that goes, nobody can hold an older state than is told here.
    case level when 'ROW' then ' and (tg_op = ''INSERT'' or tg_op = ''UPDATE'' and stays is not true or age(old.xmin) <= 0)' else '' end,
    freshet.leave_mark(freshet.captured_mark(watched)), case level when 'ROW' then E'\n    stays boolean;' else '' end,
    case level when 'ROW' then '' else E'\n  written int8;' end, freshet.is_own_table(watched),
    -- By the names that the columns have: read only where they have them.
    freshet.type_guard(watched));
end
$$;

-- The settings that say how the captured columns are written, as the contract has it, whatever the writer's session says. Each costs
-- every statement something, so those that cannot matter are left out; with a type that is not known here, all of them are there, and
-- with a column that is worked out as it is read, from whatever others. (A column that changes its type is written by the old rules until
-- that is noticed, within a minute, and its channels start anew.)
create function freshet.pinned_formats(watched freshet.tables) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  with captured as (
    select atttypid::regtype as type
    from freshet.columns_not_of(watched.relation, (select array_agg(name) from freshet.captured_columns(watched)),
      array['int2', 'int4', 'int8', 'oid', 'numeric', 'bool', 'uuid', 'text', 'varchar', 'bpchar', 'json', 'jsonb', 'date', 'timestamp']::regtype[])
    union all
    select 'record' from freshet.captured_columns(watched) join pg_attribute on attrelid = watched.relation and attname = name where attgenerated = 'v'
  )
  select coalesce(string_agg(setting, ' '), '') from (values
    ('{timestamptz}', 'set timezone = ''UTC'''), ('{}', 'set datestyle = ''ISO'''), ('{interval}', 'set intervalstyle = iso_8601'),
    ('{float4,float8}', 'set extra_float_digits = 1'), ('{bytea}', 'set bytea_output = ''hex'''), ('{money}', 'set lc_monetary = ''C'''), ('{}', 'set quote_all_identifiers = off'), ('{}', 'set array_nulls = on')
  ) as pins (types, setting)
  where exists (select from captured
    where type = any (types::regtype[]) or type <> all ('{text,varchar,bpchar,timestamptz,interval,float4,float8,bytea,money}'::regtype[]))
$$;

-- (Re)generates the trigger functions of a table: capture_<id> for statements, capture_row_<id> for rows
-- (updates, partitioned tables, and logical apply, which fires no statement trigger).
create function freshet.generate_capture(watched freshet.tables) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  level text;
  name text;
  is_strange boolean := exists (select from freshet.strangers(array[watched.relation]));
begin
  foreach level in array array['STATEMENT', 'ROW'] loop
    name := format('freshet.capture_%s%s', case level when 'ROW' then 'row_' else '' end, watched.id);
    -- The plan for a statement must do for one row as for a hundred thousand, so the key's index is always used and nothing is ever compiled.
    execute format('create or replace function %s() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp %s %s as %L',
      name, case level when 'STATEMENT' then 'set enable_seqscan = off set jit = off' else '' end,
      freshet.pinned_formats(watched), case when is_strange then freshet.closed_body(watched) else freshet.capture_body(watched, level) end);
    -- Whoever creates the trigger needs it: the owner of the table, of a partition to come, and whoever owns them next. As of everybody, because
    -- a role that is named in a grant cannot be dropped. A trigger function cannot be called, and on any other table it does nothing.
    execute format('grant execute on function %s() to public', name);
  end loop;
end
$$;
