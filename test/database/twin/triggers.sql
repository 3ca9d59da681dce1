-- The host's own triggers around ours: what they see, change, write again and refuse.
create table t (id int primary key, v text, n int default 0, changed_by text);
create table audit (id bigint generated always as identity primary key, op text, depth int, old_row text, new_row text, who text);
create function note() returns trigger language plpgsql as $$
begin
  insert into audit (op, depth, old_row, new_row, who) values (tg_op || ' ' || tg_when || ' ' || tg_name, pg_trigger_depth(), old::text, new::text, current_user = session_user);
  raise notice '% % % on % at %', tg_name, tg_when, tg_op, tg_table_name, pg_trigger_depth();
  return case tg_op when 'DELETE' then old else new end;
end $$;
create trigger a_note before insert or update or delete on t for each row execute function note();
create trigger z_note after insert or update or delete on t for each row execute function note();
insert into t values (1, 'a'), (2, 'b') returning *;
select lastval() = max(id) as is_of_the_host from audit;
update t set v = v || '!' returning id, v;
update t set id = id + 10;
delete from t where id = 11 returning *;
select op, depth, old_row, new_row, who from audit order by id;
create function statement_note() returns trigger language plpgsql as $$
declare
  counted int;
begin
  if tg_op = 'UPDATE' then
    select count(*) into counted from was w join is_now i using (id) where w.n is distinct from i.n;
  elsif tg_op = 'INSERT' then
    select count(*) into counted from is_now;
  else
    select count(*) into counted from was;
  end if;
  raise notice '% touched %, % argument', tg_op, counted, tg_argv[0];
  return null;
end $$;
create trigger m_insert after insert on t referencing new table as is_now for each statement execute function statement_note('x');
create trigger m_update after update on t referencing old table as was new table as is_now for each statement execute function statement_note('y');
create trigger m_delete after delete on t referencing old table as was for each statement execute function statement_note('z');
insert into t values (20, 'a'), (21, 'b');
update t set n = id where id > 20;
delete from t where id = 20;
delete from t where false;
create function rewrite() returns trigger language plpgsql as $$
begin
  if pg_trigger_depth() < 3 then
    update t set n = n + 1 where id = new.id;
    raise notice 'found % in depth %', found, pg_trigger_depth();
  end if;
  return new;
end $$;
create trigger rewrite after insert or update on t for each row execute function rewrite();
insert into t values (30, 'again') returning *;
select * from t order by id;
create trigger when_trigger before update of v on t for each row when (old.v is distinct from new.v) execute function note();
update t set v = 'same' where id = 30;
update t set v = 'same' where id = 30;
create function refuse() returns trigger language plpgsql as $$
begin
  if new.v = 'bad' then
    raise exception 'no % here', new.v using errcode = 'check_violation', hint = 'none', detail = 'all', constraint = 'mine', table = tg_table_name;
  elsif new.v = 'skip' then
    return null;
  end if;
  new.changed_by := 'refuse';
  return new;
end $$;
create trigger b_refuse before insert or update on t for each row execute function refuse();
-- fails 23514
insert into t values (40, 'good'), (41, 'bad');
insert into t values (42, 'skip'), (43, 'good') returning *;
insert into t values (44, 'skip');
update t set v = 'skip';
alter table t disable trigger user;
insert into t values (50, 'quiet');
alter table t enable trigger user;
alter table t disable trigger rewrite;
insert into t values (51, 'not rewritten');
alter trigger rewrite on t rename to rewrite_again;
drop trigger rewrite_again on t;
-- fails 2BP01
drop function note();
drop function note() cascade;
create function late() returns trigger language plpgsql as $$
begin
  raise notice 'late: % sees %', tg_op, (select v from t where id = new.id);
  return null;
end $$;
create constraint trigger late after insert or update on t deferrable initially deferred for each row execute function late();
begin;
insert into t values (60, 'first');
update t set v = 'second' where id = 60;
set constraints all immediate;
update t set v = 'third' where id = 60;
set constraints all deferred;
update t set v = 'fourth' where id = 60;
commit;
begin;
insert into t values (61, 'gone');
rollback;
truncate t, audit;
select count(*) from t;
