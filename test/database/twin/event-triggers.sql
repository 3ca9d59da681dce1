-- Event triggers of the host: what it is told of its own commands.
create function told() returns event_trigger language plpgsql as $$
declare
  r record;
begin
  for r in select command_tag, object_type, object_identity from pg_event_trigger_ddl_commands() loop
    raise notice '% %: % %', tg_event, r.command_tag, r.object_type, r.object_identity;
  end loop;
end $$;
create function dropped() returns event_trigger language plpgsql as $$
declare
  r record;
begin
  for r in select object_type, object_identity, original from pg_event_trigger_dropped_objects() where object_type <> 'trigger' order by 1, 2 loop
    raise notice 'dropped % % %', r.object_type, r.object_identity, r.original;
  end loop;
end $$;
create function rewritten() returns event_trigger language plpgsql as $$
begin
  raise notice 'rewrite of % because %', pg_event_trigger_table_rewrite_oid()::regclass, pg_event_trigger_table_rewrite_reason();
end $$;
create event trigger told on ddl_command_end execute function told();
create event trigger dropped on sql_drop execute function dropped();
create event trigger rewritten on table_rewrite execute function rewritten();
create table t (id serial primary key, v text);
insert into t (v) values ('a'), ('b');
alter table t add column n int default 3;
update t set n = id;
alter table t alter column n type bigint;
update t set n = n + 1;
alter table t drop column n;
create index on t (v);
truncate t;
create table p (id int primary key, v text) partition by range (id);
create table p_1 partition of p for values from (0) to (10);
insert into p values (1, 'x');
create table p_2 (id int primary key, v text);
alter table p attach partition p_2 for values from (10) to (20);
alter table p detach partition p_1;
alter table p_1 rename to p_one;
drop table p;
drop table t;
drop event trigger told;
drop event trigger dropped;
drop event trigger rewritten;
insert into p_one values (2, 'y');
