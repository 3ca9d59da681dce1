-- What a function sees of its own statements.
create table t (id serial primary key, v text, n int default 0);
do $$
declare
  touched int;
  got record;
  status text;
begin
  insert into t (v) values ('a'), ('b'), ('c');
  get diagnostics touched = row_count;
  raise notice 'inserted %, found %, last %', touched, found, lastval();
  update t set n = n + 1 where id < 3;
  get diagnostics touched = row_count;
  raise notice 'updated %, found %, last %', touched, found, lastval();
  update t set n = n + 1 where false;
  get diagnostics touched = row_count;
  raise notice 'updated %, found %', touched, found;
  insert into t (v) values ('d') returning * into strict got;
  raise notice 'got %, last %', got, lastval();
  insert into t values (1, 'x') on conflict do nothing returning * into got;
  get diagnostics touched = row_count;
  raise notice 'conflict %, found %, got %', touched, found, got;
  delete from t where id = 1 returning id into touched;
  raise notice 'deleted %, found %', touched, found;
  perform 1 from t where id = 99;
  raise notice 'found %', found;
  execute 'update t set n = $1' using 7;
  get diagnostics touched = row_count;
  raise notice 'executed %, found %', touched, found;
  for got in update t set n = n + 1 returning * loop
    raise notice 'loop %', got.id;
  end loop;
  raise notice 'found %', found;
  begin
    insert into t values (2, 'twice');
  exception when unique_violation then
    get stacked diagnostics status = pg_exception_context;
    raise notice '%: %', sqlerrm, status;
  end;
  get diagnostics status = pg_context;
  raise notice '%', status;
  truncate t;
  raise notice 'found after truncate %', found;
end $$;
select lastval();
create function add(x text) returns t language sql as $$ insert into t (v) values (x) returning * $$;
select * from add('sql');
select add('one'), lastval(), add('two'), lastval();
create function deep(depth int) returns int language plpgsql as $$
begin
  update t set n = n + 1;
  return case when depth = 0 then (select sum(n) from t) else deep(depth - 1) end;
end $$;
select deep(20);
create function changing() returns setof t language plpgsql as $$
begin
  return query update t set n = -n returning *;
  return query delete from t where v = 'one' returning *;
  raise notice 'found %', found;
end $$;
select * from changing() order by id;
create function with_settings() returns void language plpgsql set timezone = 'Asia/Tokyo' set work_mem = '1MB' as $$
begin
  insert into t (v) values (current_setting('timezone'));
  raise notice '% %', current_setting('timezone'), current_setting('work_mem');
end $$;
select with_settings();
show timezone;
do $$
begin
  perform set_config('twin.user', 'someone', true), set_config('twin.session', 'kept', false);
  insert into t (v) values (current_setting('twin.user'));
  update t set n = 1;
  raise notice 'user %', current_setting('twin.user');
end $$;
select current_setting('twin.user', true) = '' as is_gone, current_setting('twin.session');
select current_setting('twin.never', true) is null;
set plpgsql.variable_conflict = 'use_column';
set plpgsql.extra_errors = 'all';
set plpgsql.extra_warnings = 'all';
set plpgsql.check_asserts = off;
insert into t (v) values ('strict');
update t set v = 'stricter' where v = 'strict';
update t set id = id + 100;
delete from t where v = 'stricter';
truncate t;
reset all;
create function volatile_write(x int) returns int language plpgsql as $$
begin
  update t set n = n + 1 where id = x;
  return x;
end $$;
insert into t (id, v) values (1000, 'a'), (1001, 'b');
update t set v = v || volatile_write(id + 1) where id = 1000 returning *;
-- fails 27000
update t set v = 'again' where volatile_write(id) > 0;
select * from t order by id;
create procedure chained() language plpgsql as $$
declare
  r record;
begin
  for r in select id from t order by id loop
    update t set n = r.id where id = r.id;
    commit and chain;
  end loop;
  delete from t where id = 1000;
  rollback;
  insert into t (v) values ('end');
end $$;
call chained();
select * from t order by id;
