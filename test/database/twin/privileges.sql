-- Roles: who may write needs no more because somebody watches, and who has nothing left can go.
create role twin_owner;
create role twin_writer;
create role twin_reader;
create role twin_next;
grant create, usage on schema public to twin_owner, twin_next;
grant usage on schema public to twin_writer, twin_reader;
set session authorization twin_owner;
create table o (id serial primary key, v text, secret text default 'hidden');
reset session authorization;
insert into o (v) values ('by superuser');
set session authorization twin_owner;
grant insert, select (id, v), update (v) on o to twin_writer;
grant usage on sequence o_id_seq to twin_writer;
grant select on o to twin_reader;
insert into o (v) values ('by owner') returning *;
select lastval();
reset session authorization;
set role twin_writer;
select current_user, session_user = current_user as is_session;
insert into o (v) values ('by writer') returning id, v;
select lastval() = currval('o_id_seq');
begin;
insert into o (v) values ('in a transaction');
select lastval() = currval('o_id_seq');
update o set v = 'updated' where v = 'by owner' returning id;
select lastval() = currval('o_id_seq');
commit;
-- fails 42501
insert into o (v) values ('no') returning *;
-- fails 42501
update o set secret = 'x';
-- fails 42501
delete from o;
-- fails 42501
truncate o;
-- fails 42501
alter table o add column mine int;
set role twin_reader;
select count(*) from o;
-- fails 42501
insert into o (v) values ('no');
reset role;
create function as_owner(x text) returns void language plpgsql security definer as $$
begin
  insert into o (v) values (x);
  raise notice '% writes', current_user;
end $$;
alter function as_owner owner to twin_owner;
set role twin_reader;
select as_owner('through a function');
reset role;
revoke insert on o from twin_writer;
-- fails 42704
revoke all on o from nobody_at_all;
alter table o owner to twin_next;
set role twin_next;
insert into o (v) values ('by the next owner');
update o set v = 'all of it';
alter table o add column more int;
insert into o (v, more) values ('more', 1);
reset role;
drop function as_owner;
revoke all on schema public from twin_owner;
drop role twin_owner;
alter table o enable row level security;
create policy mine on o using (v <> 'hidden') with check (v <> 'refused');
grant all on o to twin_writer;
set role twin_writer;
select count(*) from o;
insert into o (v) values ('allowed');
-- fails 42501
insert into o (v) values ('refused');
update o set v = 'seen';
delete from o where id = 1;
set row_security = off;
-- fails 42501
select count(*) from o;
reset row_security;
reset role;
alter table o force row level security;
set role twin_next;
update o set v = 'forced';
reset role;
alter table o disable row level security;
reassign owned by twin_next to current_user;
insert into o (v) values ('reassigned');
drop owned by twin_next, twin_writer, twin_reader;
drop role twin_next, twin_writer, twin_reader;
create role twin_partitions;
grant create, usage on schema public to twin_partitions;
create table p (id int primary key, v text) partition by range (id);
create table p_1 partition of p for values from (0) to (10);
alter table p owner to twin_partitions;
alter table p_1 owner to twin_partitions;
set role twin_partitions;
create table p_2 partition of p for values from (10) to (20);
create table p_3 (id int primary key, v text);
alter table p attach partition p_3 for values from (20) to (30);
insert into p values (1, 'a'), (12, 'b'), (23, 'c');
update p set id = id + 10 where id < 20;
reset role;
drop owned by twin_partitions;
drop role twin_partitions;
