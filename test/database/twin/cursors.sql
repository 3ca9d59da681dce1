-- Cursors over a watched table: updates through them, and those that outlive their transaction.
create table t (id int primary key, v text, n int default 0);
insert into t select i, 'row ' || i from generate_series(1, 10) i;
begin;
declare c cursor for select * from t order by id for update;
fetch 3 from c;
update t set v = 'first' where current of c;
fetch relative 2 from c;
delete from t where current of c;
fetch from c;
select count(*), max(v) from t;
-- fails 34000
update t set n = 1 where current of nowhere;
rollback;
