-- Updatable views, INSTEAD OF triggers and rules above a watched table.
create table t (id int primary key, v text default 'table', n int default 0, hidden text);
create view simple as select id, v, n from t where n < 100;
create view checked as select * from simple where n >= 0 with cascaded check option;
insert into simple values (1, 'a', 1), (2, 'b', 2) returning *;
update simple set n = n + 1 where v = 'a' returning *;
alter view simple alter column v set default 'view';
insert into simple (id) values (3) returning *;
-- fails 44000
insert into checked values (4, 'd', 100);
-- fails 44000
update checked set n = -1;
insert into checked values (4, 'd', 5) on conflict (id) do nothing;
insert into checked values (4, 'd', 5) on conflict (id) do update set v = excluded.v || '?' returning *;
delete from checked where id = 4;
create view joined as select a.id, a.v, b.n from t a join t b using (id);
-- fails 55000
insert into joined values (9, 'x', 1);
create function instead() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    insert into t (id, v, n) values (new.id, new.v, new.n);
  elsif tg_op = 'UPDATE' then
    update t set v = new.v, n = new.n where id = old.id;
    if not found then return null; end if;
  else
    delete from t where id = old.id;
  end if;
  return case tg_op when 'DELETE' then old else new end;
end $$;
create trigger instead instead of insert or update or delete on joined for each row execute function instead();
insert into joined values (9, 'x', 1) returning *;
update joined set v = 'y', n = 8 where id > 2 returning id, v;
delete from joined where id = 9;
create table log (id bigserial primary key, what text);
create rule logged as on update to t do also insert into log (what) values (old.id || ': ' || old.v || ' to ' || new.v);
create rule kept as on delete to t where old.v = 'keep' do instead nothing;
update t set v = 'keep' where id = 1 returning *;
select lastval() = max(id) as is_of_the_host from log;
delete from t;
select * from t order by id;
create rule elsewhere as on insert to t where new.id > 1000 do instead insert into log (what) values ('instead ' || new.id);
insert into t values (1001), (7);
create rule notified as on delete to log do also notify twin_gone;
listen twin_gone;
delete from log;
unlisten *;
drop rule logged on t;
drop rule kept on t;
drop rule elsewhere on t;
update t set v = 'without rules';
create materialized view m as select count(*), max(v) from t;
insert into t values (8, 'more');
refresh materialized view m;
select * from m;
create view barrier with (security_barrier) as select id, v from t where n > 0;
update barrier set v = 'barred' returning *;
-- fails 2BP01
alter table t drop column v;
drop view checked, simple, joined, barrier;
drop materialized view m;
alter table t drop column hidden;
insert into t values (10, 'fewer', 1) returning *;
select * from log order by id;
