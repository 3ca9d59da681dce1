-- SERIALIZABLE: conflicts where there are some, and none that we add.
create table t (id int primary key, v text, n int default 0);
create table u (id int primary key, n int);
create table p (id int primary key, n int) partition by range (id);
create table p_1 partition of p for values from (0) to (10000);
insert into t select i, 'row ' || i, i from generate_series(1, 4000) i;
insert into u select i, i from generate_series(1, 4000) i;
insert into p select i, i from generate_series(1, 4000) i;
analyze t, u, p;
set default_transaction_isolation = 'serializable';
b: set default_transaction_isolation = 'serializable';
-- Neither reads what the other writes.
begin;
b: begin;
update t set n = n + 1 where id = 1;
b: update t set n = n + 1 where id = 3900;
insert into u values (5000, 1);
b: insert into u values (5001, 1);
update p set n = n + 1 where id = 1;
b: update p set n = n + 1 where id = 3900;
commit;
b: commit;
-- Write skew.
begin;
b: begin;
select sum(n) from u;
b: select sum(n) from u;
insert into u values (5002, 1);
b: insert into u values (5003, 1);
commit;
-- fails 40001
b: commit;
-- A row each, by key, and a statement that touches many.
begin;
b: begin;
select n from t where id = 10;
b: select n from t where id = 3011;
update t set n = 0 where id = 12;
b: update t set n = 0 where id = 3013;
delete from t where id = 14;
b: delete from t where id = 3015;
insert into t values (6001, 'x') on conflict (id) do update set v = 'y';
b: insert into t values (9002, 'x') on conflict (id) do update set v = 'y';
update t set id = -5 where id = 16;
b: update t set id = 7502 where id = 3017;
commit;
b: commit;
-- The same row twice in a transaction, with a savepoint.
begin;
b: begin;
update t set n = 1 where id = 20;
savepoint s;
update t set n = 2 where id = 20;
delete from t where id = 20;
insert into t values (20, 'back', 0);
b: update t set n = 1 where id = 3120;
b: update t set n = 2 where id = 3120;
b: delete from t where id = 3120;
b: insert into t values (3120, 'back', 0);
rollback to s;
update t set n = 3 where id = 20;
commit;
b: commit;
begin isolation level serializable read only deferrable;
select count(*) from t;
commit;
begin;
b: begin;
truncate u;
-- fails 55P03
b: lock table u in row exclusive mode nowait;
b: rollback;
commit;
select count(*) from u;
select id, v, n from t where id in (-5, 3120, 3120, 3013, 6001, 9002, 7502) or id < 25 order by id;
