-- MERGE and the other ways to insert or update.
create table t (id int primary key, v text, n int default 0 check (n < 100));
create table source (id int primary key, v text, n int);
insert into t values (1, 'a', 1), (2, 'b', 2), (3, 'c', 3);
insert into source values (2, 'B', 20), (3, null, 30), (4, 'D', 40);
-- from 15
merge into t using source s on s.id = t.id when matched and s.v is null then delete when matched then update set v = s.v, n = t.n + s.n when not matched then insert values (s.id, s.v, s.n);
select * from t order by id;
-- from 15
merge into t using source s on s.id = t.id when matched then do nothing when not matched then do nothing;
-- from 15
-- fails 21000
merge into t using (values (1, 'x'), (1, 'y')) s (id, v) on s.id = t.id when matched then update set v = s.v;
-- from 15
-- fails 23514
merge into t using source s on s.id = t.id when matched then update set n = 1000 when not matched then insert values (s.id, s.v, s.n);
-- from 17
merge into t using source s on s.id = t.id when matched then update set v = 'twice' when not matched by source then delete when not matched then insert values (s.id, s.v) returning merge_action(), t.*;
-- from 18
update t set n = n + 1 returning old.n, new.n, t.v;
-- from 18
insert into t values (2, 'conflict') on conflict (id) do update set v = excluded.v returning old.v, new.v;
create table p (id int primary key, v text) partition by range (id);
create table p_low partition of p for values from (0) to (10);
create table p_high partition of p for values from (10) to (100);
insert into p values (1, 'low'), (11, 'high');
-- from 15
merge into p using (values (1), (11), (12)) s (id) on s.id = p.id when matched and p.id < 10 then update set id = p.id + 20, v = 'moved' when matched then delete when not matched then insert values (s.id, 'new');
select tableoid::regclass, * from p order by id;
insert into t values (50, 'fifty') on conflict (id) do update set v = 'never';
insert into t values (50, 'again'), (51, 'new') on conflict (id) do update set v = excluded.v, n = t.n + 1 where t.n < 1 returning *, xmax = 0 as is_new;
insert into t values (50, 'again') on conflict (id) do update set v = excluded.v where t.n < 1 returning *;
insert into t values (50, 'ignored'), (52, 'taken') on conflict do nothing returning *;
-- fails 21000
insert into t values (60, 'x'), (60, 'y') on conflict (id) do update set v = excluded.v;
-- fails 42P10
insert into t values (60, 'x') on conflict (v) do nothing;
with up as (update t set n = n + 1 where id = 50 returning *) insert into source select id, v, n from up;
with gone as (delete from source returning *), added as (insert into t select id + 200, v, n from gone returning *) select * from added order by id;
-- The same row twice in one statement: what wins is PostgreSQL's affair.
with one as (update t set v = 'one' where id = 50 returning id), two as (delete from t where id = 51 returning id) select * from one, two;
select * from t order by id;
