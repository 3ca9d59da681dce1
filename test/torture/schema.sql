-- What the writers write. Every transaction keeps the rules of schema.ts.
create table account (id int primary key, region text not null, balance bigint not null, stamp text not null, probe int not null default 0);
create table bank (region text primary key, total bigint not null, stamp text not null, probe int not null default 0);
create table pair (pair int, side text, stamp text not null, probe int not null default 0, primary key (pair, side));
create table mirror (pair int, side text, stamp text not null, probe int not null default 0, primary key (pair, side)) partition by range (pair);
create table mirror_low partition of mirror for values from (minvalue) to (20);
create table mirror_high partition of mirror for values from (20) to (maxvalue);
create table echo (id int primary key, value int not null, echoes int not null default 0, checksum text not null default '', stamp text not null, probe int not null default 0);
create table queue (position int primary key, item text not null, stamp text not null, probe int not null default 0);
create table bulk (id int primary key, batch int not null, size int not null, stamp text not null, probe int not null default 0);
create index bulk_batch on bulk (batch);

-- Not watched: who writes a whole group of rows takes its guard first, which is right in every isolation level.
create table guard (name text primary key, taken bigint not null default 0);
insert into guard (name) values ('queue'), ('bulk');

-- Before: what is stored is not what the statement said.
create function echo_before() returns trigger language plpgsql as $$
begin
  new.checksum := md5(concat_ws(':', new.id, new.value, new.echoes, new.stamp));
  return new;
end $$;
create trigger echo_before before insert or update on echo for each row execute function echo_before();

-- After: the same row is written again, and its sibling, whose triggers do likewise. The inner statements are captured first.
create function echo_after() returns trigger language plpgsql as $$
begin
  if tg_op = 'DELETE' then
    delete from echo where id = old.id # 1;
    return null;
  end if;
  if new.echoes <> new.value then
    update echo set echoes = value where id = new.id;
  end if;
  insert into echo (id, value, stamp) values (new.id # 1, new.value, new.stamp)
  on conflict (id) do update set value = excluded.value, stamp = excluded.stamp where echo.value <> excluded.value or echo.stamp <> excluded.stamp;
  return null;
end $$;
create trigger echo_after after insert or update or delete on echo for each row execute function echo_after();

insert into bank (region, total, stamp) select unnest('{north,east,south,west}'::text[]), 0, 'seed';
-- Below zero: the last account of each region, which is never closed.
insert into account (id, region, balance, stamp) select -i, ('{north,east,south,west}'::text[])[i], 0, 'seed' from generate_series(1, 4) i;
insert into account (id, region, balance, stamp) select i, ('{north,east,south,west}'::text[])[1 + i % 4], 0, 'seed' from generate_series(1, 40) i;
insert into pair (pair, side, stamp) select i, side, 'seed' from generate_series(0, 19) i, unnest('{a,b}'::text[]) side;
insert into mirror (pair, side, stamp) select pair, side, stamp from pair;
insert into echo (id, value, stamp) values (0, 1, 'seed'), (4, 1, 'seed'), (8, 1, 'seed');
insert into queue (position, item, stamp) values (1, 'probe', 'seed');
insert into bulk (id, batch, size, stamp) values (0, 0, 1, 'seed');
