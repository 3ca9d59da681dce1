-- Drift: the catalog is compared with what each table was watched with. At the end, who may call what.

-- What the values of a type look like depends on it: labels, attributes, what it is made of. (And filters name it.)
create function freshet.type_shape(type oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select concat_ws(',', pg_type.oid, nspname, typname, typtype, typbasetype, typtypmod, typelem,
    (select string_agg(quote_literal(enumlabel), ',' order by enumsortorder) from pg_enum where enumtypid = pg_type.oid),
    (select string_agg(concat_ws(',', attnum, quote_literal(attname), atttypid, atttypmod), ',' order by attnum)
      from pg_attribute where attrelid = typrelid and attnum > 0 and not attisdropped),
    (select rngsubtype from pg_range where rngtypid = pg_type.oid or rngmultitypid = pg_type.oid))
  from pg_type join pg_namespace on pg_namespace.oid = typnamespace where pg_type.oid = type
$$;

-- The types of the host that a type is made of.
create function freshet.made_of(type oid) returns setof oid
language sql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
  select part from (
    select unnest(array[typbasetype, typelem]) from pg_type where oid = type
    union all select atttypid from pg_type join pg_attribute on attrelid = typrelid where pg_type.oid = type and typrelid <> 0 and attnum > 0 and not attisdropped
    union all select rngsubtype from pg_range where rngtypid = type or rngmultitypid = type) parts (part)
  where part >= 16384
$$;

-- Everything about the catalog that capture and the channels of a table depend on, in four parts: what is different when any of it changes; two
-- that a rewrite of the rows (alter column ... type ... using) changes both, while a grant changes only the first and CLUSTER only the second; and who
-- wrote all columns at once, if somebody did: of a table that was a partition for a moment, when what was written through its parent fired no
-- trigger of its own, nothing else tells.
-- One query for many tables: each type is walked once.
create function freshet.fingerprints(targets regclass[]) returns table (relation regclass, fingerprint text)
language sql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
  with recursive made (type, part) as (
    select distinct atttypid, atttypid from unnest(targets) target
      cross join lateral (select atttypid from pg_attribute where attrelid = target and attnum > 0 and atttypid >= 16384 offset 0) columns
    union
    select type, next from made cross join lateral freshet.made_of(part) next
  ), shape as materialized (
    select part, freshet.type_shape(part) as text from (select distinct part from made) parts
  ), value as materialized (
    select jsonb_object_agg(type, digest) as digests from (
      select type, md5(string_agg(text, ';' order by part)) as digest from made join shape using (part) group by type) types
  )
  select target, concat_ws(' ', md5(concat_ws('|',
    (select concat_ws(',', nspname, relname, relkind, relpersistence, relrowsecurity)
      from pg_class join pg_namespace on pg_namespace.oid = relnamespace where pg_class.oid = target),
    (select string_agg(concat_ws(',', attnum, attname, atttypid::oid, atttypmod, attcollation::oid, attgenerated, value.digests->>atttypid::text), ';' order by attnum)
      from pg_attribute where attrelid = target and attnum > 0 and not attisdropped),
    (select string_agg(concat_ws(',', adnum, pg_attrdef.oid, pg_attrdef.xmin, md5(adbin::text)), ';' order by adnum)
      from pg_attribute join pg_attrdef on adrelid = attrelid and adnum = attnum where attrelid = target and attgenerated <> ''),
    (select concat_ws(',', oid, conkey::text, condeferrable) from pg_constraint where conrelid = target and contype = 'p'),
    (select string_agg(concat_ws(',', relid::oid, level), ';' order by relid::oid) from pg_partition_tree(target)),
    (select string_agg(concat_ws(',', tgrelid::oid, tgname, tgenabled, pg_trigger.xmin::text), ';' order by tgrelid, tgname)
      from pg_trigger where tgrelid = any ((select freshet.with_partitions(target))::oid[])
        and (select pronamespace from pg_proc where pg_proc.oid = tgfoid) = 'freshet'::regnamespace))),
    (select md5(string_agg(pg_attribute.xmin::text, ',' order by attnum)) from pg_attribute where attrelid = target and attnum > 0),
    (select md5(string_agg(concat_ws(',', member, (select relfilenode from pg_class where oid = member)), ';' order by member))
      from unnest(freshet.with_partitions(target)) member),
    (select case when min(xmin::text) = max(xmin::text) then min(xmin::text) else '-' end from pg_attribute where attrelid = target and attnum > 0 and not attisdropped))
  from unnest(targets) target cross join value
$$;

create function freshet.fingerprint(target regclass) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select fingerprint from freshet.fingerprints(array[target])
$$;

-- Whether what lies between two fingerprints must be told.
create function freshet.differs(one text, other text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select split_part(one, ' ', 1) <> split_part(other, ' ', 1)
    or split_part(one, ' ', 2) <> split_part(other, ' ', 2) and split_part(one, ' ', 3) <> split_part(other, ' ', 3)
    or split_part(other, ' ', 4) not in ('-', split_part(one, ' ', 4))
$$;

-- Compares the catalog with what each table was watched with. Changed but whole: functions anew and a reset. Not whole: parked.
-- Each table by itself: one that cannot be mended is parked, and keeps nobody from the others. Returns the tables it changed, with what happened.
create function freshet.detect_drift() returns table (table_name text, outcome text)
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  watched freshet.tables;
  postponed int[] := '{}';
  started_at timestamptz := clock_timestamp();
  seen record;
begin
  -- Somebody is watching or unwatching, perhaps in a transaction that stays open: another time, but not without a word.
  begin
    lock table freshet.settings in share row exclusive mode nowait;
  exception when lock_not_available then
    table_name := 'every table';
    outcome := format('postponed: what is watched is being changed%s', coalesce(' by ' || freshet.lock_holders(array['freshet.settings'::regclass], 'share row exclusive'), ''));
    return next;
    return;
  end;
  for watched in select tables.* from freshet.tables order by id loop
    outcome := freshet.adoption_fault(watched);
    if outcome is not null then
      table_name := watched.name;
      postponed := postponed || watched.id;
      return next;
    end if;
  end loop;
  -- Before functions are generated: what changes in between is found next time.
  for seen in
    with watched as materialized (select array_agg(tables.relation) as relations from freshet.tables)
    select tables as watched, now.fingerprint, stranger.fault
    from watched cross join lateral freshet.fingerprints(relations) now join freshet.tables on tables.relation = now.relation
    left join freshet.trust_faults((select relations from watched)) stranger on stranger.relation = now.relation
    where tables.id <> all (postponed) order by tables.id
  loop
    watched := seen.watched;
    table_name := watched.name;
    -- One change of a type may be one of thousands of tables: the next look goes on, before the server loses patience with this one.
    exit when clock_timestamp() > started_at + interval '20 seconds';
    outcome := freshet.mend(watched, seen.fingerprint, coalesce(seen.fault, freshet.shape_fault(watched)), seen.fault is not null);
    if outcome is not null then
      return next;
    end if;
  end loop;
end
$$;

-- Null, or why the new partitions of a table must wait. (What cannot be done at all is found to be missing.)
create function freshet.adoption_fault(watched freshet.tables) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if freshet.is_partitioned(watched.relation) then
    perform freshet.adopt_partitions(watched);
  end if;
  return null;
exception
  when lock_not_available then
    return 'postponed: ' || sqlerrm;
  when others then
    return null;
end
$$;

-- Brings one table into line with the catalog. Returns what was done; null: nothing that need be told.
create function freshet.mend(watched freshet.tables, found_now text, fault text, is_strange boolean) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  name_now text := freshet.quoted_name(watched.relation);
begin
  if fault is null and watched.parked is null and not freshet.differs(watched.fingerprint, found_now) then
    -- One half of a rewrite today and the other tomorrow are none.
    update freshet.tables set fingerprint = found_now where id = watched.id and fingerprint <> found_now;
    return null;
  elsif fault is null then
    begin
      perform freshet.regenerate(watched.id);
      update freshet.tables set fingerprint = found_now, parked = null where id = watched.id;
      perform freshet.mark(watched.id, 'drift');
      return 'reset' || case when watched.name <> name_now then format(': %s is called %s by now', watched.name, name_now) else '' end;
    exception when others then
      fault := format('its definition has changed, and the functions cannot be made anew (%s)', sqlerrm);
    end;
  elsif is_strange and fault is distinct from watched.parked then
    begin
      -- From here on they read nothing of it.
      perform freshet.generate_capture(watched);
    exception when others then
      fault := format('%s; and the functions cannot be made anew (%s)', fault, sqlerrm);
    end;
  end if;
  if fault is not distinct from watched.parked then
    return null;
  end if;
  update freshet.tables set parked = fault where id = watched.id;
  perform freshet.mark(watched.id, 'parked');
  return 'parked: ' || fault;
end
$$;

-- As below, without asking whom what it is made of belongs to.
create function freshet.shape_fault(watched freshet.tables) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  missing text;
begin
  if not exists (select from pg_class where oid = watched.relation) then
    return 'the table was dropped';
  elsif freshet.is_swapped(watched) then
    return format('the table was renamed to %s, and another one is called %s by now; watch the one that is meant',
      freshet.quoted_name(watched.relation), watched.name);
  end if;
  begin
    perform freshet.assert_watchable(watched.relation);
    perform freshet.assert_filters(watched.relation, watched.filter_columns);
  exception when others then
    return sqlerrm;
  end;
  select string_agg(distinct quote_ident(wanted), ', ') into missing
  from freshet.channels, unnest(filters || coalesce(columns, '{}')) wanted
  where table_id = watched.id and not exists (
    select from pg_attribute where attrelid = watched.relation and attname = wanted and attnum > 0 and not attisdropped);
  if missing is not null then
    return format('column %s is gone; watch the table again', missing);
  end if;
  return freshet.capture_fault(watched.relation, watched.id) || '; watch the table again';
end
$$;

-- Why a watched table can no longer be served, as one sentence; null when it can.
create function freshet.table_fault(watched freshet.tables) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce((select fault from freshet.trust_faults(array[watched.relation])), freshet.shape_fault(watched))
$$;

-- Who may what. Nothing of what the host's default privileges say: of the tables and sequences, only the owner may anything; of the functions, everybody
-- may call those that run with the rights of their caller or ask who called.
-- `grant usage on schema freshet` and `grant execute on function freshet.watch, freshet.unwatch` let a table owner who does not own
-- this schema watch their tables, if they are trusted.
do $$
declare
  given record;
begin
  for given in
    select case relkind when 'S' then 'sequence' else 'table' end as kind, oid::regclass as name, grantee
    from pg_class cross join lateral aclexplode(relacl)
    where relnamespace = 'freshet'::regnamespace and relkind in ('r', 'v', 'S') and grantee <> relowner
  loop
    execute format('revoke all on %s %s from %s', given.kind, given.name, case given.grantee when 0 then 'public' else given.grantee::regrole::text end);
  end loop;
  for given in
    select oid::regprocedure as name, grantee from pg_proc cross join lateral aclexplode(proacl)
    where pronamespace = 'freshet'::regnamespace and grantee not in (0, proowner)
  loop
    execute format('revoke all on function %s from %s', given.name, given.grantee::regrole);
  end loop;
end
$$;
grant execute on all functions in schema freshet to public;
revoke execute on function freshet.watch(regclass, text, text[], text[], boolean), freshet.unwatch(text),
  freshet.configure(text, text), freshet.uninstall(), freshet.detect_drift(), freshet.trust(regrole), freshet.distrust(regrole) from public;
