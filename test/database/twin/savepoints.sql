-- Savepoints, and what fails inside of a transaction.
create table t (id int primary key, v text unique, n int default 0);
begin;
insert into t values (1, 'a');
savepoint one;
insert into t values (2, 'b');
savepoint two;
update t set n = 2;
-- fails 23505
insert into t values (1, 'again');
-- fails 25P02
select 1;
rollback to two;
update t set n = 3 where id = 1 returning *;
rollback to one;
select * from t order by id;
release one;
-- fails 3B001
rollback to one;
rollback;
begin;
insert into t values (1, 'a'), (2, 'b');
savepoint s;
delete from t where id = 1;
savepoint s;
update t set v = 'c';
rollback to s;
release s;
rollback to s;
update t set n = n + 1;
release s;
commit;
select * from t order by id;
do $$
begin
  for i in 1..5 loop
    begin
      insert into t values (i, 'v' || i);
      raise notice 'inserted %', i;
    exception when unique_violation then
      raise notice '% %', sqlstate, sqlerrm;
      update t set n = n + 10 where id = i;
    end;
  end loop;
end $$;
create procedure in_parts() language plpgsql as $$
begin
  for i in 10..13 loop
    insert into t values (i, 'part ' || i);
    if i % 2 = 0 then commit; else rollback; end if;
  end loop;
end $$;
call in_parts();
delete from t where id > 9;
-- fails 2D000
begin; call in_parts(); commit;
rollback;
select * from t order by id;
begin;
update t set n = 0;
commit and chain;
update t set n = 1;
rollback and chain;
delete from t where id = 10;
commit;
-- fails 23505
update t set v = 'same';
begin read only;
-- fails 25006
insert into t values (90, 'no');
rollback;
begin isolation level repeatable read;
select count(*) from t;
update t set n = 7 where id = 1;
select pg_current_xact_id_if_assigned() is not null as has_id;
commit;
begin;
update t set n = 1 where false;
delete from t where false;
insert into t select 1, 'x' where false;
insert into t values (1, 'x') on conflict do nothing;
select pg_current_xact_id_if_assigned() is null as has_no_id;
commit;
insert into t values (20, 'one message'); insert into t values (21, 'two'); select count(*) from t;
-- fails 23505
insert into t values (22, 'one message undone'); insert into t values (22, 'two');
select count(*) from t;
select * from t order by id;
