-- Drift: the catalog is compared with what each table was watched with. At the end, who may call what.

-- Everything about the catalog that capture and the channels of a table depend on.
create function freshet.fingerprint(target regclass) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select md5(concat_ws('|',
    (select concat_ws(',', nspname, relname, relkind, relpersistence, relrowsecurity)
      from pg_class join pg_namespace on pg_namespace.oid = relnamespace where pg_class.oid = target),
    (select string_agg(concat_ws(',', attnum, attname, atttypid::oid, atttypmod, attcollation::oid, attgenerated), ';' order by attnum)
      from pg_attribute where attrelid = target and attnum > 0 and not attisdropped),
    (select concat_ws(',', oid, conkey::text, condeferrable) from pg_constraint where conrelid = target and contype = 'p'),
    (select string_agg(concat_ws(',', relid::oid, level), ';' order by relid::oid) from pg_partition_tree(target)),
    freshet.has_virtual_columns(target),
    (select string_agg(concat_ws(',', tgrelid::oid, tgname, tgenabled, pg_trigger.xmin::text), ';' order by tgrelid, tgname)
      from pg_trigger where tgrelid = any ((select freshet.with_partitions(target))::oid[])
        and (select pronamespace from pg_proc where pg_proc.oid = tgfoid) = 'freshet'::regnamespace)))
$$;

-- Compares the catalog with what each table was watched with. Changed but whole: functions anew and a reset. Not whole: parked.
-- Returns the tables it changed, with what happened.
create function freshet.detect_drift() returns table (table_name text, outcome text)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  watched freshet.tables;
  found_now text;
  fault text;
begin
  -- Somebody is watching or unwatching, perhaps in a transaction that stays open: another time.
  if not pg_try_advisory_xact_lock(hashtextextended('freshet.watch', 0)) then
    return;
  end if;
  for watched in select * from freshet.tables order by id loop
    table_name := watched.name;
    begin
      perform freshet.adopt_partitions(watched);
    exception when lock_not_available then
      outcome := 'postponed: ' || sqlerrm;
      return next;
      continue;
    end;
    -- Before the functions are generated: what changes in between is found next time.
    found_now := freshet.fingerprint(watched.relation);
    fault := freshet.table_fault(watched);
    if fault is null and (watched.parked is not null or watched.fingerprint <> found_now) then
      perform freshet.regenerate(watched.id);
      update freshet.tables set fingerprint = found_now, parked = null where id = watched.id;
      perform freshet.mark(watched.id, 'drift');
      outcome := 'reset';
      return next;
    elsif fault is distinct from watched.parked then
      update freshet.tables set parked = fault where id = watched.id;
      perform freshet.mark(watched.id, 'parked');
      outcome := 'parked: ' || fault;
      return next;
    end if;
  end loop;
end
$$;

-- Why a watched table can no longer be served, as one sentence; null when it can.
create function freshet.table_fault(watched freshet.tables) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  missing text;
begin
  if not exists (select from pg_class where oid = watched.relation) then
    return 'the table was dropped';
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

-- `grant usage on schema freshet` and `grant execute on function freshet.watch, freshet.unwatch` let a table owner who does not own
-- this schema watch their tables. The other functions either run with the caller's rights or ask for the owner themselves.
-- It is for roles that are trusted: rendering a row calls the cast to json that the owner of a type may have defined, as this schema's owner.
revoke execute on function freshet.watch(regclass, text, text[], text[], boolean), freshet.unwatch(text),
  freshet.configure(text, text), freshet.uninstall(), freshet.detect_drift() from public;
