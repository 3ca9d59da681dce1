-- Row locks, table locks, and two sessions that wait for each other.
create table t (id int primary key, v text, n int default 0);
insert into t select i, 'row ' || i from generate_series(1, 5) i;
begin;
update t set v = 'a was here' where id = 1;
b: set lock_timeout = '50ms';
-- fails 55P03
b: update t set v = 'b too' where id = 1;
b: reset lock_timeout;
-- fails 55P03
b: select * from t where id = 1 for update nowait;
b: select * from t where id < 4 order by id for update skip locked;
b waits: update t set n = n + 1 where id = 1 returning *;
update t set n = 40 where id = 1;
commit;
b resumes
begin;
select * from t where id = 2 for share;
b: begin;
b: select * from t where id = 2 for key share;
b: update t set v = 'not locked' where id = 3;
b waits: update t set v = 'b waits' where id = 2;
rollback;
b resumes
b: commit;
begin;
update t set n = 1 where id = 2;
b: begin isolation level repeatable read;
b: select count(*) from t;
b waits: update t set n = 2 where id = 2;
commit;
-- fails 40001
b resumes
b: rollback;
begin;
delete from t where id = 5;
b waits: update t set v = 'it goes' where id in (4, 5) returning id;
commit;
b resumes
begin;
insert into t values (6, 'six');
b waits: insert into t values (6, 'also six');
commit;
-- fails 23505
b resumes
begin;
insert into t values (7, 'seven');
b waits: insert into t values (7, 'also seven') on conflict (id) do update set v = t.v || ' and ' || excluded.v returning *;
commit;
b resumes
begin;
lock table t in share row exclusive mode;
b waits: insert into t values (8, 'eight');
commit;
b resumes
begin;
lock table t in access share mode;
b: alter table t alter column v set statistics 5;
commit;
commit;
b: set deadlock_timeout = '10min';
set deadlock_timeout = '20ms';
begin;
update t set n = 11 where id = 1;
b: begin;
b: update t set n = 12 where id = 2;
b waits: update t set n = 12 where id = 1;
-- fails 40P01
update t set n = 11 where id = 2;
rollback;
b resumes
b: commit;
select * from t order by id;
begin;
select pg_advisory_xact_lock(5);
b: select pg_try_advisory_lock(5);
commit;
b: select pg_try_advisory_lock(5);
create index concurrently t_v on t (v);
reindex index concurrently t_v;
drop index concurrently t_v;
begin;
update t set n = 0;
b waits: truncate t;
commit;
b resumes
b: insert into t values (1, 'after');
