-- Capture: the trigger functions are generated for each watched table, from the definitions in freshet.tables.
--
-- One insert-select a statement. The truth about a key is the row in the table as this transaction sees it now, not the
-- transition row: a host's own trigger or function may have written the same row again. A transition row is
-- used only in SERIALIZABLE, where reading the table would add conflicts, and only when nobody else could have written.
--
-- Columns are named statically, for speed; the guard compares those names with the catalog first, outside MVCC, so
-- that a renamed column or a revoked privilege writes one reset line and never fails the host's statement.

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

-- An expression that renders the named columns of `alias` as a JSON object, exactly as row_to_json would.
create function freshet.rendered(alias text, names text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('%L', '{') || string_agg(
    format(' || %L || coalesce(to_json(%s.%I)::text, ''null'')',
      case when position > 1 then ',' else '' end || to_json(name) || ':', alias, name), '' order by position)
    || format(' || %L', '}')
  from unnest(names) with ordinality as column_list (name, position)
$$;

-- An expression for the published part of a row (with what routes it: key and filters). `alias.*` needs care: plpgsql's
-- OLD and NEW are records themselves.
create function freshet.rendered_row(watched freshet.tables, alias text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case
    when watched.columns is not null then (
      select format('row_to_json((select published from (select %s) as published))::text', string_agg(format('%s.%I', alias, name), ', ' order by name))
      from (select distinct name from unnest(watched.columns || watched.key_columns || watched.filter_columns) name) as names)
    when alias in ('new', 'old') then format('row_to_json(%s)::text', alias)
    else format('row_to_json(%s.*)::text', alias)
  end
$$;

-- One side of what a statement (or a row) touched: a query with the key columns, `key`, `given_row` and `old_filters`.
create function freshet.touched_side(watched freshet.tables, level text, side text, given boolean) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('select %s, %s as key, %s as given_row, %s as old_filters%s',
    (select string_agg(format('%s.%I', alias, name), ', ') from unnest(watched.key_columns) name),
    freshet.rendered(alias, watched.key_columns),
    case when side = 'new' and given then freshet.rendered_row(watched, alias) else 'null::text' end,
    case when side = 'old' and watched.filter_columns <> '{}' then freshet.rendered(alias, watched.filter_columns) else 'null::text' end,
    case level when 'ROW' then '' else format(' from %s_rows %s', side, alias) end)
  from (select case level when 'ROW' then side else 'rows_' || side end) as aliases (alias)
$$;

create function freshet.touched_keys(watched freshet.tables, level text, operation text, given boolean) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case operation
    when 'INSERT' then freshet.touched_side(watched, level, 'new', given)
    when 'DELETE' then freshet.touched_side(watched, level, 'old', given)
    -- A changed key is touched twice: the old one (gone, or taken over by another row) and the new one.
    else format('select %1$s, key, max(given_row) as given_row, max(old_filters) as old_filters from (%2$s union all %3$s) as sides group by %1$s, key',
      (select string_agg(format('sides.%I', name), ', ') from unnest(watched.key_columns) name),
      freshet.touched_side(watched, level, 'new', given), freshet.touched_side(watched, level, 'old', given))
  end
$$;

-- One statement of the trigger: what was touched, joined to the truth, into one of the two log tables.
create function freshet.capture_statement(watched freshet.tables, level text, operation text, slot int, given boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  same_key text := (select string_agg(format('t.%1$I %2$s touched.%1$I', name, freshet.key_equality(watched.relation, name)), ' and ')
    from unnest(watched.key_columns) name);
  -- Equal keys may render differently (numeric 1.0 and 1.00): then the text is gone although a row is there.
  truth text := format('(select %s from %s%s t where %s and %s = touched.key)', freshet.rendered_row(watched, 't'),
    case when (select relkind = 'p' from pg_class where oid = watched.relation) then '' else 'only ' end,
    freshet.quoted_name(watched.relation), same_key, freshet.rendered('t', watched.key_columns));
begin
  return format('insert into freshet.changes_%s (table_id, key, new_row, old_filters) select %s, touched.key, %s, touched.old_filters from (%s) as touched;',
    slot, watched.id, case when given then 'touched.given_row' else truth end,
    freshet.touched_keys(watched, level, operation, given));
end
$$;

create function freshet.quoted_name(relation oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('%I.%I', nspname, relname)
  from pg_class join pg_namespace on pg_namespace.oid = relnamespace where pg_class.oid = relation
$$;

-- True while every name that the capture function uses still means what it meant.
create function freshet.capture_guard(watched freshet.tables) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('has_table_privilege(%1$s::oid, ''select'')', watched.relation::oid)
    || string_agg(format(' and (pg_identify_object_as_address(1259, %s, %s)).object_names = %L::text[]',
      watched.relation::oid, attnum, array[nspname, relname, attname]::text), '' order by attnum)
  from pg_attribute
  join pg_class on pg_class.oid = attrelid
  join pg_namespace on pg_namespace.oid = relnamespace
  where attrelid = watched.relation
    and attname = any (watched.key_columns || watched.filter_columns || coalesce(watched.columns, '{}'))
$$;

-- Time zone and formats as the contract has them, whatever the writer's session says; only those that the table's types feel.
create function freshet.capture_pins(relation regclass) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(string_agg(distinct pin, ' '), '')
  from pg_attribute
  join pg_type on pg_type.oid = atttypid
  cross join lateral unnest(case
    when typcategory = 'N' and typname not in ('float4', 'float8', 'money') then '{}'
    when typname in ('float4', 'float8') then array['set extra_float_digits = 1']
    when typname = 'money' then array['set lc_monetary = ''C''']
    when typname in ('text', 'varchar', 'bpchar', 'bool', 'uuid', 'json', 'jsonb') then '{}'
    -- Domains, arrays, composites, ranges and the rest may hold anything.
    else array['set timezone = ''UTC''', 'set datestyle = ''ISO''', 'set intervalstyle = iso_8601', 'set extra_float_digits = 1',
      'set bytea_output = ''hex''', 'set lc_monetary = ''C''']
  end) as pin
  where attrelid = relation and attnum > 0 and not attisdropped
$$;

create function freshet.other_triggers(relation regclass) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (
    select from pg_trigger join pg_proc on pg_proc.oid = tgfoid
    where tgrelid in (select relid from pg_partition_tree(relation) union all select relation)
      and not tgisinternal and pronamespace <> 'freshet'::regnamespace)
$$;

create function freshet.capture_body(watched freshet.tables, level text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  operation text;
  statements text := '';
  may_be_given boolean := not freshet.other_triggers(watched.relation);
  is_alone text := 'current_setting(''transaction_isolation'') = ''serializable'' and pg_trigger_depth() = 1';
begin
  foreach operation in array array['INSERT', 'UPDATE', 'DELETE'] loop
    statements := statements || format(E'  %s tg_op = %L then\n', case operation when 'INSERT' then 'if' else 'elsif' end, operation);
    for slot in 0..1 loop
      statements := statements || format(E'    %s slot = %s then\n', case slot when 0 then 'if' else 'elsif' end, slot);
      if may_be_given then
        statements := statements || format(E'      if %s then\n        %s\n      else\n        %s\n      end if;\n', is_alone,
          freshet.capture_statement(watched, level, operation, slot, true), freshet.capture_statement(watched, level, operation, slot, false));
      else
        statements := statements || format(E'      %s\n', freshet.capture_statement(watched, level, operation, slot, false));
      end if;
    end loop;
    statements := statements || E'    end if;\n';
  end loop;

  return format($body$
declare
  now_ms double precision := extract(epoch from clock_timestamp()) * 1000;
  slot bigint := pg_sequence_last_value('freshet.slot');
begin
  if pg_sequence_last_value('freshet.abandoned_after') < now_ms then
    return null;
  end if;
  if tg_op = 'TRUNCATE' then
    insert into freshet.changes (table_id, new_row) values (%1$s, 'truncate');
  elsif (%2$s) is not true then
    insert into freshet.changes (table_id, new_row) values (%1$s, 'drift');
  else
%3$s    end if;
  end if;
  -- After the insert, so that this transaction has an id and the clock's fence can wait for it.
  if found and pg_sequence_last_value('freshet.awake_until') < now_ms then
    notify freshet, 'bell';
  end if;
  return null;
end
$body$, watched.id, freshet.capture_guard(watched), statements);
end
$$;

-- Rare lines (resets) are written through the view, into whichever table is in use.
create function freshet.insert_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if pg_sequence_last_value('freshet.slot') = 0 then
    insert into freshet.changes_0 (table_id, key, new_row, old_filters) values (new.table_id, new.key, new.new_row, new.old_filters);
  else
    insert into freshet.changes_1 (table_id, key, new_row, old_filters) values (new.table_id, new.key, new.new_row, new.old_filters);
  end if;
  return new;
end
$$;
create trigger insert_change instead of insert on freshet.changes for each row execute function freshet.insert_change();

-- (Re)generates the trigger functions of a table: capture_<id> for statements, capture_row_<id> for rows
-- (partitioned tables, and logical apply, which fires no statement trigger).
create function freshet.generate_capture(watched freshet.tables) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  level text;
  name text;
begin
  foreach level in array array['STATEMENT', 'ROW'] loop
    name := format('freshet.capture_%s%s', case level when 'ROW' then 'row_' else '' end, watched.id);
    execute format('create or replace function %s() returns trigger language plpgsql security definer '
      'set search_path = pg_catalog, pg_temp set row_security = off set enable_seqscan = off %s as %L',
      name, freshet.capture_pins(watched.relation), freshet.capture_body(watched, level));
    execute format('revoke all on function %s() from public', name);
    -- Creating the trigger needs it; calling a trigger function is impossible.
    execute format('grant execute on function %s() to %I', name,
      (select rolname from pg_class join pg_roles on pg_roles.oid = relowner where pg_class.oid = watched.relation));
  end loop;
end
$$;
