-- Publications of the host.
create table t (id int primary key, v text);
create table keyless (id int, v text);
create publication chosen for table t, keyless;
insert into t values (1, 'a');
insert into keyless values (1, 'a');
update t set v = 'b';
-- fails 55000
update keyless set v = 'b';
-- fails 55000
delete from keyless;
alter table keyless replica identity full;
update keyless set v = 'b';
alter publication chosen drop table keyless;
alter publication chosen set (publish = 'insert, update');
create publication everything for all tables;
-- from 15
create publication here for tables in schema public;
insert into t values (2, 'c');
update t set v = 'd';
delete from t where id = 1;
truncate t;
select pubname, schemaname, tablename from pg_publication_tables where schemaname = 'public' order by 1, 3;
alter table t replica identity nothing;
-- fails 55000
update t set v = 'e';
alter table t replica identity default;
drop publication everything;
drop publication chosen;
create publication twin for table t;
update t set v = 'f';
drop publication twin;
insert into t values (3, 'g') returning *;
