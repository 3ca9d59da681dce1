-- Names that need care.
create schema "Odd ""Schema""; drop";
create table "Odd ""Schema""; drop"."Table's $1 %s %I \" ("id" int, "key" text, "New" int default 1, "a.b" text, "ñandú €" text, "select" int, "new" int, "old" int, "new_rows" int, "old_rows" int, "alias" int, "mark" int, "written" int, "stays" int, "found" int, "rings" int, "now_ms" int, "has_captured" int, "tg_op" text, "row" int, "$body$" int, "a\b" text, "tab	tab" int, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" int, primary key (id, "key"));
insert into "Odd ""Schema""; drop"."Table's $1 %s %I \" (id, key, "a.b", "ñandú €", "select", new, old) values (1, 'k', 'dot', 'süß', 3, 4, 5), (2, 'l', null, null, null, null, null) returning *;
update "Odd ""Schema""; drop"."Table's $1 %s %I \" set "$body$" = 1, "a\b" = '\', mark = 3, tg_op = 'x' returning *;
update "Odd ""Schema""; drop"."Table's $1 %s %I \" set id = id + 10, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" = 2 returning id;
delete from "Odd ""Schema""; drop"."Table's $1 %s %I \" where key = 'l' returning id;
alter table "Odd ""Schema""; drop"."Table's $1 %s %I \" rename column "found" to "now";
update "Odd ""Schema""; drop"."Table's $1 %s %I \" set now = 2;
truncate "Odd ""Schema""; drop"."Table's $1 %s %I \";
create table t (t text primary key, n int);
insert into t values ('row', 1);
update t set t = 'other', n = 2 returning t;
delete from t;
create table new (new int primary key, old text);
insert into new values (1, 'x');
update new set old = 'y' returning new, new.new, new.old;
delete from new;
create table "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" (id int primary key) partition by range (id);
create table "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab" partition of "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" for values from (0) to (10);
insert into "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" values (1);
create table pg_class_like (oid oid primary key, xmin_copy xid, relname name, "ctid_text" tid);
insert into pg_class_like values (1, '1', 'n', '(0,1)');
update pg_class_like set relname = 'm' returning ctid_text;
create table wide (id int primary key, c1 int, c2 int, c3 int);
do $$
begin
  for i in 4..400 loop execute format('alter table wide add column c%s int', i); end loop;
end $$;
insert into wide (id, c400) values (1, 1);
update wide set c399 = 2, c1 = 5 returning id, c1, c399, c400;
delete from wide;
create table huge (id text primary key, v text);
insert into huge values (repeat('k', 2000), 'long key'), (E'line\nbreak "\\', 'quotes'), ('', 'empty'), (chr(1) || chr(127) || '€', 'control');
update huge set v = v || '!' returning length(id);
update huge set id = id || '+' where length(id) < 100 returning length(id);
delete from huge returning v;
-- fails 54000
insert into huge select string_agg(md5(i::text), '') from generate_series(1, 500) i;
create table many_keys (a int, b text, c uuid, d date, e bigint, f numeric, g bool, h "char", v int, primary key (a, b, c, d, e, f, g, h));
insert into many_keys values (1, 'b', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2020-01-01', 5, 6.50, true, 'x', 0);
update many_keys set v = 1, f = 6.5;
delete from many_keys;
