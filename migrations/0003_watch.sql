-- watch, unwatch, configure, uninstall: what a table owner calls.
--
-- They run as their caller, who must own the table, because creating a trigger does. Writing Freshet's own tables is left to
-- a few SECURITY DEFINER functions, which can be called directly and trust nothing they are told: each asks again who
-- called (the session's user or the role it has SET, never current_user) and checks what it writes.

create function freshet.caller() returns name
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case current_setting('role') when 'none' then session_user::name else current_setting('role')::name end
$$;

create function freshet.assert_owner(target regclass) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from pg_class where oid = target and pg_has_role(freshet.caller(), relowner, 'usage')) then
    raise exception 'role % does not own %', quote_ident(freshet.caller()), target
      using errcode = 'insufficient_privilege', hint = 'Call it as the owner of the table.';
  end if;
  perform freshet.assert_may_watch();
end
$$;

create function freshet.assert_may_watch() returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  caller name := freshet.caller();
begin
  if not has_function_privilege(caller, 'freshet.watch(regclass, text, text[], text[], boolean)', 'execute') then
    raise exception 'role % may not watch tables', quote_ident(caller)
      using errcode = 'insufficient_privilege',
        hint = format('grant usage on schema freshet to %1$I; grant execute on function freshet.watch, freshet.unwatch to %1$I;', caller);
  end if;
end
$$;

-- Refuses by name what cannot be captured without loss. Changes nothing.
create function freshet.assert_watchable(target regclass) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  relation record;
  reader name := (select rolname from pg_namespace join pg_roles on pg_roles.oid = nspowner where nspname = 'freshet');
  extension_schema name;
  ambiguous record;
begin
  select pg_class.*, nspname into relation
  from pg_class join pg_namespace on pg_namespace.oid = relnamespace where pg_class.oid = target;
  if relation.relkind in ('r', 'p') and relation.relpersistence <> 'p' then
    raise exception 'cannot watch %: it is % and loses its rows without a trace', target,
      case relation.relpersistence when 't' then 'temporary' else 'unlogged' end
      using errcode = 'wrong_object_type', hint = 'Use an ordinary table (alter table ... set logged).';
  elsif relation.nspname = 'freshet' or relation.nspname = 'information_schema' or left(relation.nspname, 3) = 'pg_' then
    raise exception 'cannot watch %: it is a system table', target
      using errcode = 'wrong_object_type', hint = 'Watch a table of your own.';
  elsif relation.relkind not in ('r', 'p') then
    raise exception 'cannot watch %: it is %, and only tables can be watched', target,
      case relation.relkind when 'v' then 'a view' when 'm' then 'a materialized view' when 'f' then 'a foreign table'
        when 'S' then 'a sequence' when 'i' then 'an index' when 'I' then 'an index' when 'c' then 'a type' else 'something else' end
      using errcode = 'wrong_object_type', hint = 'Watch the tables it reads from.';
  elsif relation.relispartition then
    raise exception 'cannot watch %: it is a partition', target
      using errcode = 'wrong_object_type', hint = 'Watch the partitioned table it belongs to.';
  elsif relation.relkind = 'r' and exists (select from pg_inherits where inhparent = target or inhrelid = target) then
    raise exception 'cannot watch %: a write to an inheritance parent fires no trigger of its children', target
      using errcode = 'wrong_object_type', hint = 'Use declarative partitioning.';
  elsif relation.relrowsecurity then
    raise exception 'cannot watch %: row-level security is enabled on it, and a channel would show every row', target
      using errcode = 'wrong_object_type', hint = 'Disable row-level security on the table, or keep it unwatched.';
  elsif exists (select from pg_partition_tree(target) where (select relpersistence from pg_class where oid = relid) <> 'p') then
    raise exception 'cannot watch %: it has an unlogged partition, which loses its rows without a trace', target
      using errcode = 'wrong_object_type', hint = 'Use ordinary tables as partitions (alter table ... set logged).';
  end if;
  if not exists (select from pg_index where indrelid = target and indisprimary) then
    raise exception 'cannot watch %: it has no primary key', target
      using errcode = 'invalid_table_definition', hint = 'Add one: alter table ... add primary key (...).';
  elsif not exists (select from pg_index where indrelid = target and indisprimary and indimmediate) then
    raise exception 'cannot watch %: its primary key is deferrable', target
      using errcode = 'invalid_table_definition', hint = 'Make the primary key not deferrable.';
  end if;
  select attname, format_type(atttypid, atttypmod) as type_name into ambiguous
  from pg_index join pg_attribute on attrelid = indrelid and attnum = any ((indkey::smallint[])[0:indnkeyatts - 1])
  where indrelid = target and indisprimary and freshet.is_ambiguous(atttypid);
  if found then
    raise exception 'cannot watch %: keys of type % (%) cannot be told apart by their JSON', target, ambiguous.type_name, quote_ident(ambiguous.attname)
      using errcode = 'invalid_table_definition', hint = 'Use a primary key of numbers, texts, uuids, enumerations, dates or times.';
  end if;
  if not has_table_privilege(reader, target, 'select') or not has_schema_privilege(reader, relation.relnamespace, 'usage') then
    raise exception 'cannot watch %: role % may not read it', target, quote_ident(reader)
      using errcode = 'insufficient_privilege',
        hint = format('grant usage on schema %I to %I; grant select on %s to %I;', relation.nspname, reader, target, reader);
  end if;
  select nspname into extension_schema from freshet.key_operators(target) join pg_namespace on pg_namespace.oid = namespace
  where not has_schema_privilege(reader, namespace, 'usage');
  if found then
    raise exception 'cannot watch %: role % may not compare its keys, whose type is of schema %', target, quote_ident(reader), quote_ident(extension_schema)
      using errcode = 'insufficient_privilege', hint = format('grant usage on schema %I to %I;', extension_schema, reader);
  end if;
end
$$;

-- Whether two keys of this type may have JSON that reads the same although they differ, or the other way round: numbers in it lose digits and signs in
-- most clients. (Of a column that is a number by itself that is known, and prevented.)
create function freshet.is_ambiguous(type oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select (base).typtype = 'c' or (base).oid = 'jsonb'::regtype or coalesce((element).typtype = 'c'
    or (element).oid in ('jsonb'::regtype, 'float4'::regtype, 'float8'::regtype) or freshet.element_type(element) is not null, false)
  from (select base, freshet.base_type(freshet.element_type(base)) as element from (select freshet.base_type(type) as base) bases) types
$$;

create function freshet.key_columns(target regclass) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array_agg(attname::text order by position)
  from pg_index
  cross join lateral unnest(indkey::smallint[]) with ordinality as part (attnum, position)
  join pg_attribute on attrelid = indrelid and pg_attribute.attnum = part.attnum
  where indrelid = target and indisprimary and position <= indnkeyatts
$$;

create function freshet.assert_columns(target regclass, names text[], purpose text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  wanted text;
begin
  foreach wanted in array coalesce(names, '{}') loop
    if wanted is null or not exists (select from pg_attribute where attrelid = target and attname = wanted and attnum > 0 and not attisdropped) then
      raise exception 'cannot watch %: it has no column % to %', target, coalesce(quote_ident(wanted), 'null'), purpose
        using errcode = 'undefined_column', hint = format('Its columns: %s.', (
          select string_agg(quote_ident(attname), ', ' order by attnum)
          from pg_attribute where attrelid = target and attnum > 0 and not attisdropped));
    end if;
  end loop;
end
$$;

-- Names that the URLs of the API have a meaning for, now or to come.
create function freshet.is_reserved(filter text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select filter in ('since', 'limit', 'wait', 'next', 'last_event_id', 'lastEventId', 'evs_last_event_id', 'evs_preamble', 'padding',
    'min', 'receipts', 'fresh', 'ticket', 'channels', 'access_token', 'token', 'apikey', 'jwt', 'slot') or position('.' in filter) > 0
$$;

create function freshet.assert_filter_names(filters text[]) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  refused text;
begin
  select name into refused from unnest(filters) name where freshet.is_reserved(name);
  if found then
    raise exception 'cannot filter by %: the name is a parameter of the API', quote_ident(refused)
      using errcode = 'reserved_name', hint = 'Rename the column or filter by another one. Names with a dot are reserved too.';
  end if;
end
$$;

-- A filter is compared by its rendered text on every node, so its type must render equal values equally (of numeric, readers trim the scale).
create function freshet.assert_filters(target regclass, filters text[]) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  refused record;
begin
  select attname into refused from pg_attribute where attrelid = target and attname = any (filters) and attgenerated = 'v';
  if found then
    raise exception 'cannot filter by %: it is a virtual column, whose old value a trigger is not told', quote_ident(refused.attname)
      using errcode = 'wrong_object_type', hint = 'Make it a stored one (generated always as (...) stored).';
  end if;
  select attname, format_type(atttypid, atttypmod) as type_name into refused
  from pg_attribute
  join pg_type on pg_type.oid = atttypid
  left join pg_type base on base.oid = pg_type.typbasetype
  left join pg_collation on pg_collation.oid = attcollation
  where attrelid = target and attname = any (filters)
    and (not collisdeterministic or not (
      coalesce(base.typtype, pg_type.typtype) = 'e'
      or coalesce(base.oid, pg_type.oid) in ('bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype, 'oid'::regtype,
        'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'name'::regtype, '"char"'::regtype, 'uuid'::regtype, 'date'::regtype, 'time'::regtype,
        'timestamp'::regtype, 'timestamptz'::regtype, 'inet'::regtype, 'cidr'::regtype, 'macaddr'::regtype)));
  if found then
    raise exception 'cannot filter by %: equal values of type % may be written differently', quote_ident(refused.attname), refused.type_name
      using errcode = 'datatype_mismatch', hint = 'Filter by a column of a boolean, integer, numeric, text, uuid, enum, date or time type.';
  end if;
  -- With such a cast, what is compared is no longer the enumeration.
  select attname, format_type(castsource, null) as type_name, castsource::regtype as source, casttarget::regtype as target into refused
  from pg_attribute join pg_cast on castsource = (freshet.base_type(atttypid)).oid
  where attrelid = target and attname = any (filters) and castcontext = 'i' and (freshet.base_type(atttypid)).typtype = 'e';
  if found then
    raise exception 'cannot filter by %: type % is cast to % wherever that seems to fit', quote_ident(refused.attname), refused.type_name, refused.target
      using errcode = 'datatype_mismatch', hint = format('Drop the cast, or make it an explicit one: drop cast (%s as %s).', refused.source, refused.target);
  end if;
end
$$;

-- What a trigger's function or a partition is, is looked up one by one, here and in 0005: the planner expects few functions in this
-- schema and few unlogged tables, and would join by reading all functions of ours, or all tables, for each that is watched.

-- A trigger of ours: its name has the number of the table that it is for, so that a watched table can become a partition of another.
create function freshet.trigger_name(kind text, table_id int) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('freshet_%s_%s', kind, table_id)
$$;

-- What is wrong with the triggers of a watched table; null when capture is whole.
create function freshet.capture_fault(target regclass, table_id int) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  expected record;
  state "char";
begin
  for expected in
    select relid, freshet.trigger_name(kind, table_id) as name, enabled from (
      select target as relid, kind, enabled
        from (values ('insert', 'O'), ('update', 'O'), ('delete', 'O'), ('row', 'R')) as plain (kind, enabled)
        where not freshet.is_partitioned(target)
      union all select target, 'truncate', 'A'
      union all select relid, kind, 'A' from pg_partition_tree(target), unnest(array['row', 'truncate']) kind
        where freshet.is_partitioned(target)) as triggers
  loop
    select tgenabled into state from pg_trigger join pg_proc on pg_proc.oid = tgfoid
    where tgrelid = expected.relid and tgname = expected.name and pronamespace = 'freshet'::regnamespace
      and proname in ('capture_' || table_id, 'capture_row_' || table_id);
    if not found then
      return format('trigger %s is missing on %s', expected.name, expected.relid);
    elsif state <> expected.enabled::"char" then
      return format('trigger %s on %s is %s', expected.name, expected.relid,
        case state when 'D' then 'disabled' else 'not enabled as watch() left it' end);
    end if;
  end loop;
  return null;
end
$$;

-- Replacing a trigger, unlike dropping it, does not wait for readers.
create function freshet.create_trigger(target regclass, kind text, table_id int, enabled text, definition text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  name text := freshet.trigger_name(kind, table_id);
begin
  execute format('create or replace trigger %I %s', name, format(definition, freshet.quoted_name(target), table_id));
  if enabled <> '' then
    execute format('alter table %s enable %s trigger %I', freshet.quoted_name(target), enabled, name);
  end if;
end
$$;

create function freshet.create_triggers(target regclass, table_id int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  each_row text := 'after insert or update or delete on %s for each row execute function freshet.capture_row_%s()';
  member regclass;
begin
  if not freshet.is_partitioned(target) then
    -- Logical apply and replica sessions fire only this one, and the one for TRUNCATE.
    perform freshet.create_trigger(target, 'row', table_id, 'replica', each_row),
      freshet.create_trigger(target, 'insert', table_id, '',
        'after insert on %s referencing new table as new_rows for each statement execute function freshet.capture_%s()'),
      freshet.create_trigger(target, 'update', table_id, '', 'after update on %s for each row execute function freshet.capture_row_%s()'),
      freshet.create_trigger(target, 'delete', table_id, '',
        'after delete on %s referencing old table as old_rows for each statement execute function freshet.capture_%s()'),
      freshet.create_truncate_trigger(target, table_id);
  else
    perform freshet.create_trigger(target, 'row', table_id, '', each_row);
    for member in select relid from pg_partition_tree(target) loop
      execute format('alter table %s enable always trigger %I', freshet.quoted_name(member), freshet.trigger_name('row', table_id));
      perform freshet.create_truncate_trigger(member, table_id);
    end loop;
  end if;
end
$$;

create function freshet.create_truncate_trigger(target regclass, table_id int) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  select freshet.create_trigger(target, 'truncate', table_id, 'always', 'after truncate on %s for each statement execute function freshet.capture_%s()')
$$;

-- Those of this watched table: a partition may have been watched by itself before it became one.
create function freshet.drop_triggers(target regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  member record;
  table_id int := freshet.table_id(target);
begin
  for member in
    select tgrelid::regclass as relid, tgname from pg_trigger where tgrelid = any ((select freshet.with_partitions(target))::oid[])
      and tgparentid = 0 and exists (select from pg_proc where pg_proc.oid = tgfoid and pronamespace = 'freshet'::regnamespace
        and proname in ('capture_' || table_id, 'capture_row_' || table_id))
  loop
    execute format('drop trigger %I on %s', member.tgname, freshet.quoted_name(member.relid));
  end loop;
end
$$;

-- For who may not read Freshet's tables.
create function freshet.table_id(target regclass) returns int
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select id from freshet.tables where relation = target
$$;

-- Takes a lock without queueing all writers behind itself for long: short tries, then names who blocks.
create function freshet.lock_table(target regclass, mode text, tries int default 45) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $$
begin
  for try in 1..tries loop
    begin
      execute format('lock table %s in %s mode', freshet.quoted_name(target), mode);
      return;
    exception when lock_not_available then
      if try = tries then
        raise exception 'cannot lock %: it is in use%', target, coalesce(' by ' || freshet.lock_holders(array[target], mode), '')
          using errcode = 'lock_not_available', hint = 'Wait for that transaction to end, or end it, and call again.';
      end if;
    end;
    perform pg_sleep(0.05 + random() * 0.05);
  end loop;
end
$$;

create function freshet.lock_holders(targets regclass[], mode text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(distinct case when pid is null then 'a prepared transaction'
    else format('process %s (%s)', pid, coalesce(nullif(application_name, ''), usename, 'gone meanwhile')) end, ', ')
  from pg_locks left join pg_stat_activity using (pid)
  where database = (select oid from pg_database where datname = current_database())
    and relation in (select unnest(freshet.with_partitions(target)) from unnest(targets) target)
    and granted and pid is distinct from pg_backend_pid()
    -- Readers block only the strongest lock.
    and (lock_holders.mode = 'access exclusive' or pg_locks.mode not in ('AccessShareLock', 'RowShareLock'))
$$;

-- One at a time changes what is watched. A lock on a table of ours, because an advisory one may be taken by anybody who may connect. (Nobody
-- writes this table but configure.)
create function freshet.lock_definitions() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  lock table freshet.settings in share row exclusive mode;
end
$$;

-- Writes the definition of one channel, if all is well. Null: nothing would change.
create function freshet.define_channel(target regclass, channel text, filters text[], columns text[], public boolean) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '8s' as $$
#variable_conflict use_variable
declare
  wanted_filters text[] := (select coalesce(array_agg(distinct filter order by filter), '{}') from unnest(filters) filter);
  wanted_columns text[];
  holder freshet.tables;
  watched freshet.tables;
begin
  perform freshet.assert_owner(target);
  if channel !~ '^[a-z0-9][a-z0-9_.-]{0,62}$' then
    raise exception '% is not a channel name', quote_literal(channel)
      using errcode = 'invalid_name',
        hint = 'Pass channel => ''...'': lower-case letters, digits, _ . and -, at most 63, beginning with a letter or digit.';
  elsif channel ~ '^freshet[.]' then
    raise exception 'channel % cannot be taken: names that begin with freshet. are reserved', quote_literal(channel)
      using errcode = 'reserved_name', hint = 'Pass channel => ''another_name''.';
  end if;
  perform freshet.assert_watchable(target);
  perform freshet.assert_trusted(target);
  perform freshet.assert_columns(target, wanted_filters, 'filter by');
  perform freshet.assert_columns(target, columns, 'publish');
  perform freshet.assert_filter_names(wanted_filters);
  perform freshet.assert_filters(target, wanted_filters);
  -- Key columns are always published.
  if columns is not null then
    wanted_columns := (select array_agg(distinct wanted order by wanted) from unnest(columns || freshet.key_columns(target)) wanted);
  end if;

  perform freshet.lock_definitions();
  select tables.* into holder from freshet.channels join freshet.tables on tables.id = table_id where channels.name = channel and relation <> target;
  if exists (select from pg_class where oid = holder.relation) then
    raise exception 'channel % is taken by %', quote_literal(channel), holder.relation
      using errcode = 'duplicate_object', hint = 'Pass channel => ''another_name'', or unwatch the other one first.';
  elsif holder.relation is not null and freshet.forget_channel(channel) then
    -- Its table was dropped, perhaps to be made anew.
    perform freshet.forget_table(holder.relation);
  end if;

  select tables.* into watched from freshet.tables where relation = target;
  if watched.parked is null and watched.fingerprint = freshet.fingerprint(target) and exists (
      select from freshet.channels where channels.name = channel and channels.filters = wanted_filters
        and channels.columns is not distinct from wanted_columns and channels.public = define_channel.public) then
    return null;
  end if;
  if watched.id is null then
    insert into freshet.tables (relation, name, key_columns, columns, filter_columns)
    values (target, freshet.quoted_name(target), freshet.key_columns(target), wanted_columns, wanted_filters)
    returning * into watched;
  end if;
  insert into freshet.channels (name, table_id, columns, filters, public)
  values (channel, watched.id, wanted_columns, wanted_filters, define_channel.public)
  on conflict (name) do update set columns = excluded.columns, filters = excluded.filters, public = excluded.public;
  return watched.id;
end
$$;

-- Whether another table bears the name under which this one was watched.
create function freshet.is_swapped(watched freshet.tables) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select watched.name is distinct from freshet.quoted_name(watched.relation) and exists (
    select from pg_class where relname = (parse_ident(watched.name))[2] and relkind in ('r', 'p', 'f') and oid <> watched.relation
      and relnamespace = (select oid from pg_namespace where nspname = (parse_ident(watched.name))[1]))
$$;

-- What the channels of a table need together; then the functions.
create function freshet.regenerate(table_id int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  watched freshet.tables;
begin
  update freshet.tables set
    -- What was not chosen by a call of watch is not followed.
    name = case when freshet.is_swapped(tables) then name else freshet.quoted_name(relation) end,
    key_columns = freshet.key_columns(relation),
    columns = (select case when bool_and(channels.columns is not null) then array_agg(distinct published order by published) end
      from freshet.channels left join unnest(channels.columns) published on true where channels.table_id = tables.id),
    filter_columns = (select coalesce(array_agg(distinct filter order by filter), '{}')
      from freshet.channels, unnest(filters) filter where channels.table_id = tables.id),
    text_columns = (select coalesce(array_agg(attname::text order by attnum), '{}')
      from pg_attribute where attrelid = relation and attnum > 0 and not attisdropped and freshet.needs_text(atttypid))
  where id = regenerate.table_id and exists (select from pg_class where oid = relation)
  returning * into watched;
  if found then
    perform freshet.create_shapes(watched.relation);
    perform freshet.generate_capture(watched);
  end if;
end
$$;

-- Under the lock: from here to the end no writer is in flight, and the catalog stands still.
create function freshet.prepare_capture(target regclass) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform freshet.assert_owner(target);
  perform freshet.assert_watchable(target);
  perform freshet.assert_trusted(target);
  update freshet.tables set name = freshet.quoted_name(relation) where relation = target;
  perform freshet.regenerate(id) from freshet.tables where relation = target;
end
$$;

-- After the triggers stand: remember the catalog, and let no cursor cross the hole there was.
create function freshet.seal(target regclass) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform freshet.assert_owner(target);
  -- Called by itself it must not unpark what is parked.
  perform freshet.assert_trusted(target);
  update freshet.tables set fingerprint = freshet.fingerprint(target), parked = null where relation = target;
  perform freshet.mark(id, 'watch') from freshet.tables where relation = target;
end
$$;

-- A line that resets every client of a table, and rings.
create function freshet.mark(table_id int, reason text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform freshet.insert_reset(table_id, reason);
  if (select value from freshet.settings where name = 'wake') <> 'poll' then
    notify freshet, 'bell';
  end if;
end
$$;

create function freshet.watch(
  target regclass,
  channel text default null,
  filters text[] default '{}',
  columns text[] default null,
  public boolean default true
) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  name text := coalesce(channel, (select relname from pg_class where oid = target));
  table_id int;
begin
  if target is null or not exists (select from pg_class where oid = target) then
    raise exception 'no such table' using errcode = 'undefined_table', hint = 'Pass the table as ''schema.name''.';
  end if;
  table_id := freshet.define_channel(target, name, filters, columns, coalesce(public, true));
  if table_id is null then
    return name;
  end if;
  -- Also where only the columns change: what a writer in flight captured the old way must not come after the reset.
  perform freshet.lock_table(target, 'share row exclusive');
  perform freshet.prepare_capture(target);
  if freshet.capture_fault(target, table_id) is not null then
    perform freshet.create_triggers(target, table_id);
  end if;
  perform freshet.seal(target);
  return name;
end
$$;

create function freshet.channel_table(channel text) returns regclass
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select relation from freshet.channels join freshet.tables on tables.id = table_id where channels.name = channel
$$;

-- Forgets a channel. True: it was the last one of its table, whose triggers and functions must go.
create function freshet.forget_channel(channel text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '8s' as $$
declare
  watched freshet.tables;
begin
  -- A table that was dropped has no owner.
  perform freshet.assert_may_watch();
  select tables.* into watched from freshet.channels join freshet.tables on tables.id = table_id where channels.name = channel;
  if watched.id is null then
    return false;
  elsif exists (select from pg_class where oid = watched.relation) then
    perform freshet.assert_owner(watched.relation);
  end if;
  perform freshet.lock_definitions();
  delete from freshet.channels where channels.name = channel;
  if not exists (select from freshet.channels where table_id = watched.id) then
    return true;
  end if;
  -- The fingerprint stays: what has drifted meanwhile is still to be found.
  perform freshet.regenerate(watched.id);
  perform freshet.mark(watched.id, 'unwatch');
  return false;
end
$$;

-- Triggers that are left call them: on partitions that were detached, and whoever may have made one on a table of theirs. Where such a table
-- is in use, a function that does nothing stays behind.
create function freshet.drop_functions(table_id int) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' set client_min_messages = warning as $$
declare
  name text;
begin
  foreach name in array array['capture_' || table_id, 'capture_row_' || table_id] loop
    begin
      execute format('drop function if exists freshet.%I() cascade', name);
    exception when lock_not_available then
      execute format('create or replace function freshet.%I() returns trigger language plpgsql as %L', name, 'begin return null; end');
    end;
  end loop;
end
$$;

create function freshet.forget_table(target regclass) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  gone int;
begin
  perform freshet.assert_may_watch();
  if exists (select from pg_class where oid = target) then
    perform freshet.assert_owner(target);
  end if;
  delete from freshet.tables where relation = target and not exists (select from freshet.channels where table_id = tables.id) returning id into gone;
  if gone is not null then
    perform freshet.drop_functions(gone);
    perform freshet.mark(gone, 'unwatch');
  end if;
end
$$;

create function freshet.unwatch(channel text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  target regclass := freshet.channel_table(channel);
begin
  if target is null then
    return false;
  end if;
  if freshet.forget_channel(channel) then
    if exists (select from pg_class where oid = target) then
      perform freshet.lock_table(target, 'access exclusive');
      perform freshet.drop_triggers(target);
    end if;
    perform freshet.forget_table(target);
  end if;
  return true;
end
$$;

create function freshet.configure(name text, value text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '8s' as $$
begin
  if configure.name is null or configure.name not in ('wake', 'bulk_rows') then
    raise exception '% is not a setting', coalesce(quote_literal(configure.name), 'null')
      using errcode = 'invalid_parameter_value', hint = 'The settings: wake, bulk_rows.';
  elsif value is null or value !~ (case configure.name when 'wake' then '^(notify|poll)$' else '^([1-9][0-9]{3,8}|never)$' end) then
    raise exception '% cannot be %', configure.name, coalesce(quote_literal(value), 'null')
      using errcode = 'invalid_parameter_value', hint = case configure.name
        when 'wake' then 'Use ''notify'' (writers wake the server) or ''poll'' (for PREPARE TRANSACTION or a transaction pooler).'
        else 'Use a number of rows from 1000 on (a statement of more, and of more than half of its table, starts it anew) or ''never''.' end;
  end if;
  perform freshet.lock_definitions();
  update freshet.settings set value = configure.value where settings.name = configure.name;
  perform freshet.regenerate(id) from freshet.tables;
end
$$;

-- Removes the schema with all that is in it, and with its functions every trigger. Short tries, as in lock_table.
create function freshet.uninstall() returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' set client_min_messages = warning as $$
declare
  watched regclass[] := (select array_agg(relation) from freshet.tables);
begin
  if exists (select from pg_class where relnamespace = 'freshet'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')
      and relname not in ('state', 'settings', 'tables', 'channels', 'changes', 'changes_0', 'changes_1', 'versions', 'touched', 'trusted', 'migrations')) then
    raise exception 'schema freshet holds tables that are not Freshet''s' using errcode = 'dependent_objects_still_exist',
      hint = 'Move them to another schema first: alter table ... set schema .... (A role called freshet creates its tables there.)';
  end if;
  for try in 1..45 loop
    begin
      drop schema freshet cascade;
      return;
    exception when lock_not_available then
      if try = 45 then
        raise exception 'cannot uninstall: a watched table is in use%', coalesce(' by ' || freshet.lock_holders(watched, 'access exclusive'), '')
          using errcode = 'lock_not_available', hint = 'Wait for that transaction to end, or end it, and call again.';
      end if;
    end;
    perform pg_sleep(0.05 + random() * 0.05);
  end loop;
end
$$;

-- A partition attached later has its row triggers (PostgreSQL clones them), but not the one for TRUNCATE.
-- Where this schema's owner may not create it, capture_fault names it.
create function freshet.adopt_partitions(watched freshet.tables) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  member regclass;
begin
  for member in
    select relid from pg_partition_tree(watched.relation) join pg_class on pg_class.oid = relid
    where level > 0 and relkind in ('r', 'p') and pg_has_role(relowner, 'usage')
      and not exists (select from pg_trigger where tgrelid = relid and tgname = freshet.trigger_name('truncate', watched.id))
  loop
    perform freshet.lock_table(member, 'share row exclusive', 1);
    perform freshet.create_truncate_trigger(member, watched.id);
  end loop;
end
$$;
