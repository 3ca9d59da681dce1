-- Capture: the trigger functions are generated for each watched table, from its definition in freshet.tables.
--
-- One insert-select a statement. The truth about a key is the row in the table as this transaction sees it now. The
-- transition row is that row unless a host's own trigger or function has written it again since, and such a write was captured
-- before: each capture leaves a mark with the time of the client's statement that it belongs to. So the first one takes the
-- transition rows, which halves the cost of a bulk load and adds no conflict in SERIALIZABLE; those that find the mark read the table.
--
-- Columns are named statically, for speed; the guard compares the names with the catalog first, outside MVCC, so that
-- a renamed column, a dropped key or a revoked privilege writes one reset line and never fails the host's statement.
-- Names of the host appear only behind an alias: no column of its can be mistaken for one of ours.

create function freshet.quoted_name(relation oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('%I.%I', nspname, relname)
  from pg_class join pg_namespace on pg_namespace.oid = relnamespace where pg_class.oid = relation
$$;

-- How an equality of the primary key is written, e.g. `operator(pg_catalog.=)`: extension types live outside search_path.
create function freshet.key_equality(relation regclass, column_name text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('operator(%I.%s)', operator_schema.nspname, operator.oprname)
  from pg_index
  cross join lateral unnest(indkey::smallint[], indclass::oid[]) with ordinality as part (attnum, opclass, position)
  join pg_attribute on attrelid = indrelid and pg_attribute.attnum = part.attnum
  join pg_opclass on pg_opclass.oid = part.opclass
  join pg_amop on amopfamily = opcfamily and amopstrategy = 3 and amoplefttype = opcintype and amoprighttype = opcintype
  join pg_operator operator on operator.oid = amopopr
  join pg_namespace operator_schema on operator_schema.oid = operator.oprnamespace
  where indrelid = relation and indisprimary and attname = column_name
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

-- '' or the cast under which a column is captured.
create function freshet.capture_cast(watched freshet.tables, name text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when name = any (watched.text_columns) then '::text' else '' end
$$;

-- The columns that capture reads, in the order of the table: the published ones, the key and the filters.
create function freshet.captured_columns(watched freshet.tables) returns table (name text, attnum smallint)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select attname::text, pg_attribute.attnum from pg_attribute
  where attrelid = watched.relation and pg_attribute.attnum > 0 and not attisdropped
    and (watched.columns is null or attname = any (watched.columns || watched.key_columns || watched.filter_columns))
  order by pg_attribute.attnum
$$;

-- An expression that renders the named columns of `alias` as a JSON object, exactly as they are in a captured row.
create function freshet.rendered(watched freshet.tables, alias text, names text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('%L', '{') || string_agg(
    format(' || %L || coalesce(to_json(%s.%I%s)::text, ''null'')',
      case when position > 1 then ',' else '' end || to_json(name) || ':', alias, name, freshet.capture_cast(watched, name)), '' order by position)
    || format(' || %L', '}')
  from unnest(names) with ordinality as column_list (name, position)
$$;

-- An expression for the captured part of a row. `alias.*` names the row even where a column is called like the alias.
-- In NEW the columns are in the order of the partition, so there they are listed.
create function freshet.rendered_row(watched freshet.tables, alias text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case
    when watched.columns is not null or watched.text_columns <> '{}' or alias = 'new' then (
      select format('(select row_to_json(part.*)::text from (select %s) as part)',
        string_agg(format('%1$s.%2$I%3$s as %2$I', alias, name, freshet.capture_cast(watched, name)), ', ' order by attnum))
      from freshet.captured_columns(watched))
    else format('row_to_json(%s.*)::text', alias)
  end
$$;

-- The key of `touched`, rendered alike. Nothing in a primary key is null.
create function freshet.rendered_key(watched freshet.tables) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('%L || to_json(touched.key_%s%s)::text', case when position > 1 then ',' else '{' end || to_json(name) || ':', position,
    freshet.capture_cast(watched, name)), ' || ' order by position) || format(' || %L', '}')
  from unnest(watched.key_columns) with ordinality as keys (name, position)
$$;

-- The columns of these names whose types are not among those given, nor plain enumerations; and texts whose collation makes different ones equal.
create function freshet.columns_not_of(relation regclass, names text[], types regtype[]) returns setof pg_attribute
language sql stable set search_path = pg_catalog, pg_temp as $$
  select pg_attribute.* from pg_attribute join pg_type on pg_type.oid = atttypid left join pg_collation on pg_collation.oid = attcollation
  where attrelid = relation and attname = any (names) and not (atttypid = any (types) and coalesce(collisdeterministic, true)
    or typtype = 'e' and not exists (select from pg_cast where castsource = atttypid and casttarget = 'json'::regtype))
$$;

-- Whether equal keys always render alike. Numbers do not (1.0 and 1.00), nor do texts of some collations.
create function freshet.renders_alike(watched freshet.tables) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select not exists (select from freshet.columns_not_of(watched.relation, watched.key_columns,
    array['int2', 'int4', 'int8', 'oid', 'bool', 'uuid', 'text', 'varchar', 'date', 'timestamp', 'timestamptz']::regtype[]))
$$;

-- One side of what a statement or a row touched: a query with `key_1`, `key_2`, …, `given_row` and `old_filters`.
create function freshet.touched_side(watched freshet.tables, level text, side text, given boolean) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('select %s, %s as given_row, %s as old_filters%s',
    (select string_agg(format('%s.%I as key_%s', alias, name, position), ', ')
      from unnest(watched.key_columns) with ordinality as keys (name, position)),
    case when side = 'new' and given then freshet.rendered_row(watched, alias) else 'null::text' end,
    case when watched.filter_columns = '{}' then 'null::text'
      when side = 'old' then freshet.rendered(watched, alias, watched.filter_columns)
      -- The row that had this key before is the old one only if the key stayed.
      when level = 'ROW' then format('case when tg_op = ''UPDATE'' and %s = %s then %s end', freshet.rendered(watched, 'old', watched.key_columns),
        freshet.rendered(watched, 'new', watched.key_columns), freshet.rendered(watched, 'old', watched.filter_columns))
      else 'null::text' end,
    case level when 'ROW' then '' else format(' from %s_rows %s', side, alias) end)
  from (select case level when 'ROW' then side else 'rows_' || side end) as aliases (alias)
$$;

-- What a statement touched. A changed key is touched twice: the old one (gone, or taken over by another row) and the new one.
-- The join is on the keys, which costs less than grouping the two sides. (Where actions of foreign keys name one twice, folding makes it one.)
create function freshet.touched_keys(watched freshet.tables, operation text, given boolean) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case operation
    when 'INSERT' then freshet.touched_side(watched, 'STATEMENT', 'new', given)
    when 'DELETE' then freshet.touched_side(watched, 'STATEMENT', 'old', given)
    else (
      select format('select %s, after.given_row, before.old_filters from (%s) as after full join (%s) as before on %s',
        string_agg(format('coalesce(after.key_%1$s, before.key_%1$s) as key_%1$s', position), ', '),
        freshet.touched_side(watched, 'STATEMENT', 'new', given), freshet.touched_side(watched, 'STATEMENT', 'old', given),
        string_agg(format(case when freshet.renders_alike(watched) then 'after.key_%1$s %2$s before.key_%1$s'
          else 'to_json(after.key_%1$s)::text = to_json(before.key_%1$s)::text' end, position, freshet.key_equality(watched.relation, name)), ' and '))
      from unnest(watched.key_columns) with ordinality as keys (name, position))
  end
$$;

-- What was touched, joined to the truth, into the log table in use.
create function freshet.capture_statement(watched freshet.tables, operation text, touched text, given boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  same_key text := (select string_agg(format('t.%I %s touched.key_%s', name, freshet.key_equality(watched.relation, name), position), ' and ')
    from unnest(watched.key_columns) with ordinality as keys (name, position));
  -- Where equal keys may render differently the text may be gone although a row is there.
  same_text text := case when freshet.renders_alike(watched) then ''
    else format(' and %s = %s', freshet.rendered(watched, 't', watched.key_columns), freshet.rendered_key(watched)) end;
  -- In REPEATABLE READ the snapshot may still see the row that had this key before another transaction deleted it. What was
  -- touched is ours: nobody else has this key until we end, so only a row that we wrote (no older than we are) is the truth.
  truth text := format('(select %s from %s%s t where %s%s and age(t.xmin) <= 0)', freshet.rendered_row(watched, 't'),
    case when (select relkind = 'p' from pg_class where oid = watched.relation) then '' else 'only ' end,
    freshet.quoted_name(watched.relation), same_key, same_text);
  -- A bulk load is an insert: one number for all its rows is a quarter of what capture adds to it. For a single row, asking for it apart
  -- costs more than it saves.
  seq text := case operation when 'INSERT' then '(select nextval(''freshet.change_seq''))' else 'nextval(''freshet.change_seq'')' end;
  line text := format('select %s, %s, %s, %s, touched.old_filters from (%s) as touched',
    seq, watched.id, freshet.rendered_key(watched), case when given then 'touched.given_row' else truth end, touched);
begin
  return format($statement$
      if slot = 0 then
        insert into freshet.changes_0 (seq, table_id, key, new_row, old_filters) %1$s;
      else
        insert into freshet.changes_1 (seq, table_id, key, new_row, old_filters) %1$s;
      end if;
$statement$, line);
end
$$;

-- A line about a whole table: its clients start anew, for this reason.
create function freshet.insert_reset(table_id int, reason text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if pg_sequence_last_value('freshet.slot') = 0 then
    insert into freshet.changes_0 (table_id, new_row) values (insert_reset.table_id, reason);
  else
    insert into freshet.changes_1 (table_id, new_row) values (insert_reset.table_id, reason);
  end if;
end
$$;

-- A table and its partitions. As an array: asked for by an index, however many triggers there are.
create function freshet.with_partitions(target regclass) returns oid[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array(select relid::oid from pg_partition_tree(target)) || target::oid
$$;

-- Whether a host's trigger may write a row again before the statement that wrote it is captured.
create function freshet.has_triggers(target regclass) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (
    select from pg_trigger join pg_proc on pg_proc.oid = tgfoid
    where tgrelid = any ((select freshet.with_partitions(target))::oid[])
      and not tgisinternal and pronamespace <> 'freshet'::regnamespace)
$$;

-- Whether a transition row is the last state of its key where nothing was captured since. Actions of foreign keys write within the
-- statement, so that a row may be in there twice; and a transition row has no virtual columns.
create function freshet.has_whole_transitions(target regclass) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select not exists (
      select from pg_constraint
      where conrelid = target and contype = 'f' and not (confupdtype in ('a', 'r') and confdeltype in ('a', 'r')))
    and not exists (select from pg_attribute where attrelid = target and attgenerated = 'v')
$$;

-- The captured part of a statement, or of a row, for the three operations.
create function freshet.capture_lines(watched freshet.tables, level text, given boolean) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case level when 'STATEMENT' then format($lines$
    if tg_op = 'INSERT' then%s    elsif tg_op = 'UPDATE' then%s    else%s    end if;
$lines$,
    freshet.capture_statement(watched, 'INSERT', freshet.touched_keys(watched, 'INSERT', given), given),
    freshet.capture_statement(watched, 'UPDATE', freshet.touched_keys(watched, 'UPDATE', given), given),
    freshet.capture_statement(watched, 'DELETE', freshet.touched_keys(watched, 'DELETE', given), given))
  else format($lines$
    if tg_op <> 'DELETE' then%s    end if;
    if tg_op = 'DELETE' or tg_op = 'UPDATE' and %s <> %s then%s    end if;
$lines$,
    freshet.capture_statement(watched, 'ROW', freshet.touched_side(watched, level, 'new', given), given),
    freshet.rendered(watched, 'old', watched.key_columns), freshet.rendered(watched, 'new', watched.key_columns),
    freshet.capture_statement(watched, 'ROW', freshet.touched_side(watched, level, 'old', given), given))
  end
$$;

-- The names that these columns and the primary key have now; read from the system caches, not through the transaction's
-- snapshot. It is no immutable function, but called so with constants, it costs nothing: the planner asks it once,
-- and again when the plan is made anew because the table (or a schema) has changed.
create function freshet.names_now(relation oid, attnums smallint[], primary_key oid) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select string_agg((pg_identify_object_as_address('pg_class'::regclass, relation, attnum)).object_names::text, ' ' order by attnum)
    || case when (pg_identify_object_as_address('pg_constraint'::regclass, primary_key, 0)).object_names is null then ' without its key' else '' end
  from unnest(attnums) attnum
$$;

-- True while the capture function may and can read what it was generated for. All columns are wanted: then a new one is a change.
create function freshet.capture_guard(watched freshet.tables) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  target oid := watched.relation;
  attnums smallint[] := (select array_agg(attnum order by attnum) from freshet.captured_columns(watched));
  next_attnum smallint := (select max(attnum) + 1 from pg_attribute where attrelid = target);
  primary_key oid := (select oid from pg_constraint where conrelid = target and contype = 'p');
begin
  if exists (select from unnest(watched.columns || watched.key_columns || watched.filter_columns) name
      where name not in (select captured.name from freshet.captured_columns(watched) captured)) then
    return 'false';
  end if;
  -- The type of a regclass constant keeps the plan dependent on the table.
  return format('has_table_privilege(%1$s::oid, ''select'') and has_schema_privilege(%2$s::oid, ''usage'') and not row_security_active(%1$s::oid)'
    || ' and pg_typeof(%1$s::regclass) is not null and freshet.names_now(%1$s, %3$L, %4$s) = %5$L',
    target, (select relnamespace::oid from pg_class where oid = target),
    case when watched.columns is null then attnums || next_attnum else attnums end, primary_key,
    freshet.names_now(target, attnums, primary_key));
end
$$;

create function freshet.capture_body(watched freshet.tables, level text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  -- Null: never. Row triggers come once a row, and would find the mark of the row before; in SERIALIZABLE they take the transition row
  -- where no trigger could have written (but a volatile function could: there the log may end with the older row until its next write).
  takes_given text := case
    when not freshet.has_whole_transitions(watched.relation) then null
    when level = 'STATEMENT' then 'not has_captured'
    when not freshet.has_triggers(watched.relation) then 'current_setting(''transaction_isolation'') = ''serializable'' and pg_trigger_depth() = 1' end;
  truly text := freshet.capture_lines(watched, level, false);
  lines text := case when takes_given is null then truly
    else format(E'    if %s then%s    else%s    end if;\n', takes_given, freshet.capture_lines(watched, level, true), truly) end;
  -- PREPARE TRANSACTION forbids NOTIFY altogether, so in poll mode it is not there.
  bell text := case when (select value from freshet.settings where name = 'wake') = 'poll' then '' else $bell$
    if rings then
      notify freshet, 'bell';
    end if;$bell$ end;
begin
  return format($body$
declare
  slot bigint := pg_sequence_last_value('freshet.slot');
  now_ms float8 := 1000 * date_part('epoch', clock_timestamp());
  -- What wrote rows has its transaction id by now, so that the clock's fence waits for it, should the lease end in a moment.
  rings boolean := pg_sequence_last_value('freshet.awake_until') < now_ms;
  -- Whatever it calls has the same time. As a number: text of a time would depend on the settings of the moment.
  statement text := (1000000 * date_part('epoch', statement_timestamp()))::bigint::text;
  has_captured boolean := current_setting('freshet.captured_%1$s', true) is not distinct from statement;
begin
  -- While a clock is awake, somebody serves this log.
  if rings and pg_sequence_last_value('freshet.abandoned_after') < now_ms then
    return null;
  end if;
  if tg_op = 'TRUNCATE' then
    perform freshet.insert_reset(%1$s, 'truncate');
    rings := true;
  elsif (%2$s) is not true then
    perform freshet.insert_reset(%1$s, 'drift');
    rings := true;
  else
%3$s  end if;
  if found then
    if not has_captured then
      -- Assigned: PERFORM would run a query.
      statement := set_config('freshet.captured_%1$s', statement, true);
    end if;%4$s
  end if;
  return null;
end
$body$, watched.id, freshet.capture_guard(watched), lines, bell);
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
    ('{float4,float8}', 'set extra_float_digits = 1'), ('{bytea}', 'set bytea_output = ''hex'''), ('{money}', 'set lc_monetary = ''C''')
  ) as pins (types, setting)
  where exists (select from captured
    where type = any (types::regtype[]) or type <> all ('{text,varchar,bpchar,timestamptz,interval,float4,float8,bytea,money}'::regtype[]))
$$;

-- (Re)generates the trigger functions of a table: capture_<id> for statements, capture_row_<id> for rows
-- (partitioned tables, and logical apply, which fires no statement trigger).
create function freshet.generate_capture(watched freshet.tables) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  level text;
  name text;
  has_many_partitions boolean := (select count(*) > 16 from pg_partition_tree(watched.relation));
begin
  foreach level in array array['STATEMENT', 'ROW'] loop
    name := format('freshet.capture_%s%s', case level when 'ROW' then 'row_' else '' end, watched.id);
    -- The plan is kept for a session: it must do for one row as for a hundred thousand, so the key's index is always used and
    -- nothing is ever compiled.
    execute format('create or replace function %s() returns trigger language plpgsql security definer '
      'set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off %s %s as %L',
      name, freshet.pinned_formats(watched),
      -- A generic plan locks every partition for every row; with a few it is still the cheaper one.
      case when level = 'ROW' and has_many_partitions then 'set plan_cache_mode = force_custom_plan' else '' end,
      freshet.capture_body(watched, level));
    execute format('revoke all on function %s() from public', name);
    -- Creating the trigger needs it; calling a trigger function is impossible.
    execute format('grant execute on function %s() to %I', name,
      (select rolname from pg_class join pg_roles on pg_roles.oid = relowner where pg_class.oid = watched.relation));
  end loop;
end
$$;
