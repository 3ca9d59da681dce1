-- Domains, ranges, composites, arrays, enumerations, JSON, and casts of the host's own.
create domain positive as int check (value > 0);
create domain named as text not null default 'nobody' check (value <> '');
create type mood as enum ('sad', 'ok', 'happy');
create type place as (street text, number positive);
create type span as range (subtype = int);
create table t (id int primary key, p positive, w named, m mood, a place, many place[], moods mood[], r int4range, s span, d tstzrange default 'empty', j json, jb jsonb, x xml, b bytea, f float8, t timestamptz default 'epoch', i interval, n numeric(10,2), c char(5), bits bit(4), ip inet, tsv tsvector, pt point, oid_column oid, u uuid);
insert into t (id, p, m, a, many) values (1, 5, 'ok', row('main', 3), array[row('x', 1), null]::place[]);
-- fails 23514
insert into t (id, p) values (2, -1);
-- fails 23502
insert into t (id, w) values (2, null);
-- fails 23514
update t set a.number = -3;
-- fails 22P02
insert into t (id, m) values (2, 'angry');
-- fails 22000
insert into t (id, r) values (3, '[5,1)');
insert into t values (4, 7, 'w', 'happy', null, '{}', '{sad,happy}', '[1,5)', '(,7]', '[2020-01-01,)', '{"a": 1, "a": 2}', '{"b": [1, null]}', '<a/>', '\x00ff', 'NaN', '2020-02-02 02:02:02+02', '1 year 2 days', 12345678.91, 'ab', '1010', '10.0.0.1/8', 'a fat cat', '(1,2)', 42, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11') returning *;
update t set j = '{"x": "\u0000"}' where id = 4;
update t set f = '-0', i = '-1 mon', t = 'infinity', n = 'NaN', r = 'empty' where id = 4 returning f, i, t, n, r;
update t set many[2].street = 'inner', moods[3] = 'ok', jb = jb || '{"c": 3}' where id = 1 returning many, moods, jb;
alter type mood add value 'furious' after 'sad';
update t set m = 'furious';
alter type mood rename value 'ok' to 'fine';
update t set moods = array['fine', null]::mood[] where id = 1 returning m, moods;
alter type place add attribute zip text cascade;
update t set a.zip = '1000' where id = 1 returning a, many;
alter type place rename attribute street to road cascade;
update t set a.road = 'other' where id = 1 returning a;
alter type place drop attribute zip;
alter domain named add constraint brief check (length(value) < 10);
-- fails 23514
update t set w = 'much too long a name';
-- fails 23514
alter domain named add constraint briefer check (length(value) < 2);
alter domain named drop constraint brief;
update t set w = 'much too long a name' where id = 1;
create table keyed (k place primary key, v text);
insert into keyed values (row('a', 1), 'one');
update keyed set k = row('b', 2), v = 'two';
delete from keyed;
create table keyed_array (k int[], r int4range, v text, primary key (k, r));
insert into keyed_array values ('{1,2}', '[1,2)', 'x'), ('[0:1]={1,2}', '[1,2)', 'y');
update keyed_array set k = k || 3;
delete from keyed_array where v = 'y';
create type rgb as enum ('red', 'green');
create function rgb_json(c rgb) returns json language plpgsql immutable as $$
begin
  if c = 'green' then raise exception 'no JSON for %', c; end if;
  raise notice 'to JSON: %', c;
  return to_json(c::text);
end $$;
create cast (rgb as json) with function rgb_json(rgb);
create function rgb_text(c rgb) returns text language plpgsql immutable as $$
begin
  raise exception 'nor text for %', enum_last(c);
end $$;
create cast (rgb as text) with function rgb_text(rgb) as implicit;
create table colours (id int primary key, c rgb, cs rgb[]);
insert into colours values (1, 'red', '{green}');
insert into colours values (2, 'green', '{red,green}') returning *;
update colours set c = 'green';
delete from colours where id = 2;
create function text_place(t text) returns place language sql immutable as $$ select null::place $$;
create cast (text as place) with function text_place(text) as implicit;
update t set a = row('here', 4)::place, w = 'named' where id = 1 returning a;
drop type mood cascade;
update t set p = 1;
drop domain positive cascade;
select * from t order by id;
