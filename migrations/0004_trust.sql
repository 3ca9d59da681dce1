-- One circle of trust. Whoever reads a table runs code of others with rights of their own: the planner evaluates immutable functions of
-- index expressions, predicates, statistics and partition bounds, and values are compared and written by functions of their types. So a
-- table is watched only if all who could put code there may do whatever the owner of this schema may.

-- Roles that may, by the word of that owner. (As regrole: a dump names them.)
create table freshet.trusted (
  role regrole primary key
);

-- A superuser is a member of every role.
create function freshet.is_trusted(role oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select pg_has_role(role, nspowner, 'member') or exists (select from freshet.trusted where pg_has_role(is_trusted.role, trusted.role, 'member'))
  from pg_namespace where nspname = 'freshet'
$$;

-- What an object of the host leads to. The dependencies that PostgreSQL keeps, and what it keeps none of: the attributes of a composite type,
-- the checks of a domain, the members of an operator family, casts. A cast between a type and one of PostgreSQL's own was made by the owner
-- of the type; of two types of the host's, either owner can have made it, and nobody calls it. Collations and schemas run nothing.
create function freshet.leads_to(class oid, object oid) returns table (next_class oid, next_object oid)
language sql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
  select distinct found.class, found.object from (
    select refclassid as class, refobjid as object from pg_depend where classid = class and objid = object
    union all
    select 'pg_type'::regclass, atttypid from pg_type join pg_attribute on attrelid = typrelid
      where class = 'pg_type'::regclass and pg_type.oid = object and typrelid <> 0 and attnum > 0 and not attisdropped
    union all
    select refclassid, refobjid from (select oid from pg_constraint where class = 'pg_type'::regclass and contypid = object offset 0) checks
      cross join lateral (select refclassid, refobjid from pg_depend where classid = 'pg_constraint'::regclass and objid = checks.oid offset 0) dependency
    union all
    select 'pg_proc'::regclass, castfunc from pg_cast
      where class = 'pg_type'::regclass and (castsource = object and casttarget < 16384 or casttarget = object and castsource < 16384)
    union all
    select 'pg_opfamily'::regclass, opcfamily from pg_opclass where class = 'pg_opclass'::regclass and pg_opclass.oid = object
    union all
    select 'pg_proc'::regclass, amproc from pg_amproc where class = 'pg_opfamily'::regclass and amprocfamily = object
    union all
    select 'pg_operator'::regclass, amopopr from pg_amop where class = 'pg_opfamily'::regclass and amopfamily = object
  ) as found (class, object)
  where found.object <> 0 and found.class in ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass)
    -- What PostgreSQL comes with is its own; but a family of its own may have members of the host's.
    and (found.object >= 16384 or found.class = 'pg_opfamily'::regclass and leads_to.class = 'pg_opclass'::regclass)
$$;

create function freshet.object_owner(class oid, object oid) returns oid
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case class
    when 'pg_class'::regclass then (select relowner from pg_class where oid = object)
    when 'pg_proc'::regclass then (select proowner from pg_proc where oid = object)
    when 'pg_operator'::regclass then (select oprowner from pg_operator where oid = object)
    when 'pg_type'::regclass then (select typowner from pg_type where oid = object)
    when 'pg_opclass'::regclass then (select opcowner from pg_opclass where oid = object)
    when 'pg_opfamily'::regclass then (select opfowner from pg_opfamily where oid = object)
  end
$$;

-- Of these tables and their partitions, and of all that they lead to: what belongs to a role that is not trusted. One query for many tables:
-- what they lead to is walked once for each first step. Each lookup is one in an index (offset 0): the catalog of the host may be large, and the
-- planner may not know it; it expects so much that it would compile what takes a millisecond.
create function freshet.strangers(targets regclass[]) returns table (relation regclass, class oid, object oid, owner oid)
language sql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
  with recursive part (relation, member) as materialized (
    select distinct target, member from unnest(targets) target cross join lateral unnest(freshet.with_partitions(target)) member
  ), bearer (relation, class, object) as (
    select relation, 'pg_class'::regclass, member from part
    union all
    select relation, of_table.class, of_table.object from part cross join lateral (
      select 'pg_class'::regclass, indexrelid from pg_index where indrelid = member
      union all select 'pg_constraint'::regclass, oid from pg_constraint where conrelid = member
      union all select 'pg_statistic_ext'::regclass, oid from pg_statistic_ext where stxrelid = member
      union all select 'pg_policy'::regclass, oid from pg_policy where polrelid = member
      union all select 'pg_attrdef'::regclass, oid from pg_attrdef where adrelid = member
      offset 0) as of_table (class, object)
  ), step (relation, class, object) as materialized (
    select distinct relation, refclassid, refobjid from bearer
    cross join lateral (select refclassid, refobjid from pg_depend where classid = class and objid = object offset 0) dependency
    where refobjid >= 16384 and refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass)
  ), walk (first_class, first_object, class, object) as (
    select distinct class, object, class, object from step
    union
    select first_class, first_object, next_class, next_object from walk cross join lateral freshet.leads_to(class, object)
  ), owned (class, object, owner) as materialized (
    select class, object, freshet.object_owner(class, object) from (
      select distinct 'pg_class'::regclass::oid as class, member as object from part union select class, object from walk) as every
  ), stranger as materialized (
    select owner from (select distinct owner from owned) owners where not freshet.is_trusted(owner)
  ), strange as materialized (
    select * from owned where owner in (select owner from stranger)
  )
  select part.relation, strange.class, strange.object, strange.owner from strange
    join part on strange.class = 'pg_class'::regclass and part.member = strange.object
  union
  select step.relation, strange.class, strange.object, strange.owner from strange
    join walk on walk.class = strange.class and walk.object = strange.object
    join step on step.class = first_class and step.object = first_object
$$;

-- Why a table is outside of the circle, as one sentence for each such table. (Also for `check`, whose role need not own this schema.)
create function freshet.trust_faults(targets regclass[]) returns table (relation regclass, fault text, owner oid)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select distinct on (relation) relation,
    format('cannot watch %s: %s belongs to role %s, whom Freshet does not trust', relation,
      case when class <> 'pg_class'::regclass then pg_describe_object(class, object, 0)
        when object = relation then 'it' else 'its partition ' || object::regclass end,
      owner::regrole), owner
  from freshet.strangers(targets) order by relation, class, object
$$;

create function freshet.assert_trusted(target regclass) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  refused record;
begin
  select * into refused from freshet.trust_faults(array[target]);
  if found then
    raise exception '%', refused.fault using errcode = 'insufficient_privilege',
      hint = format('Start Freshet as the role that owns the tables; or, if %s may do whatever Freshet''s own role may: select freshet.trust(%L);',
        refused.owner::regrole, refused.owner::regrole::text);
  end if;
end
$$;

-- Whether the owners of a table and of its partitions are trusted now. For a server, whose role need not own this schema.
create function freshet.has_trusted_owners(relation oid) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select coalesce(bool_and(freshet.is_trusted(relowner)), false) from pg_class where oid = any ((select freshet.with_partitions(relation))::oid[])
$$;

-- For capture, which names only what its trigger is given, but for the row that it reads by its key. Before that the owners are compared with those
-- it was generated for: between two looks at the catalog a table may have got an owner who is not trusted, and an index of theirs. In the higher
-- isolation levels a query of the catalog sees the owner of before: there a reset is written instead, unless the table is Freshet's own.
create function freshet.if_trusted(watched freshet.tables, lines text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($trusted$
      if not exists (select from pg_class where oid = any (%L::oid[])
          and relowner <> all (case when current_setting('transaction_isolation') like 'read%%' then %L::oid[] else %L::oid[] end)) and %s then%s
      else
        perform freshet.insert_reset(%s, 'drift');
        rings := true;
      end if;
$trusted$, members, owners, array[(select nspowner from pg_namespace where nspname = 'freshet')], freshet.equality_guard(watched), lines, watched.id)
  from freshet.with_partitions(watched.relation) members
  cross join lateral (select array_agg(distinct relowner) from pg_class where oid = any (members) and freshet.is_trusted(relowner)) as trusted (owners)
$$;

-- What captures a table that is not trusted any more: it runs nothing that could be the host's. (The table is parked, or will be in a moment.)
create function freshet.closed_body(watched freshet.tables) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($body$
begin
  if greatest(pg_sequence_last_value('freshet.awake_until'), pg_sequence_last_value('freshet.abandoned_after')) >= 1000 * date_part('epoch', clock_timestamp()) then
    perform freshet.mark(%s, 'drift');
  end if;
  return null;
end
$body$, watched.id)
$$;

-- Both run with the rights of their caller, who must be the owner of this schema.
create function freshet.trust(role regrole) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from pg_roles where oid = trust.role) then
    raise exception 'no such role' using errcode = 'undefined_object', hint = 'Pass the role as ''name''.';
  end if;
  insert into freshet.trusted values (trust.role) on conflict do nothing;
end
$$;

-- What leaves the circle by this is parked at once.
create function freshet.distrust(role regrole) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '8s' as $$
begin
  -- Who holds it in an open transaction would keep us from looking.
  perform freshet.lock_definitions();
  delete from freshet.trusted where trusted.role = distrust.role;
  perform freshet.detect_drift();
end
$$;
