-- TRUNCATE, alone, in cascades, of partitions, undone.
create table t (id serial primary key, v text);
create table child (id int primary key, t int references t);
insert into t (v) values ('a'), ('b');
insert into child values (1, 1);
-- fails 0A000
truncate t;
truncate t, child;
insert into t (v) values ('c') returning id;
insert into child values (1, 3);
truncate t restart identity cascade;
insert into t (v) values ('d') returning id;
begin;
truncate t cascade;
select count(*) from t;
insert into t (v) values ('e');
rollback;
select * from t;
begin;
insert into t (v) values ('f');
truncate child;
truncate t cascade;
savepoint s;
insert into t (id, v) values (50, 'g');
truncate t cascade;
rollback to s;
commit;
select * from t;
create function told() returns trigger language plpgsql as $$
begin
  raise notice '% % %', tg_when, tg_op, tg_table_name;
  return null;
end $$;
create trigger before_truncate before truncate on t for each statement execute function told();
create trigger zz_truncate after truncate on t for each statement execute function told();
truncate t cascade;
create table p (id int primary key) partition by range (id);
create table p_1 partition of p for values from (0) to (10);
create table p_2 partition of p for values from (10) to (20);
insert into p values (1), (11);
truncate p_1;
select * from p;
truncate only p_2;
-- fails 42809
truncate only p;
truncate p;
select lastval();
