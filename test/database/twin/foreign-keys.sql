-- Foreign keys with every action, among watched tables.
create table parent (id int primary key, v text, code int unique);
create table child (id int primary key, parent int references parent on delete cascade on update cascade, v text);
create table grandchild (id int primary key, child int references child on delete set null on update cascade, v text);
create table defaulted (id int primary key, parent int default 1 references parent on delete set default on update set default);
create table strict (id int primary key, code int references parent (code) on delete no action on update no action deferrable initially immediate);
insert into parent values (1, 'one', 10), (2, 'two', 20), (3, 'three', 30), (4, 'four', 40);
insert into child select i, 1 + i % 3, 'child ' || i from generate_series(1, 9) i;
insert into grandchild select i, 1 + i % 9, 'grand ' || i from generate_series(1, 12) i;
insert into defaulted values (1, 2), (2, 3), (3, 1);
insert into strict values (1, 40);
-- fails 23503
insert into child values (100, 100, 'lost');
-- fails 23503
update child set parent = 99 where id = 1;
update parent set id = id + 100 where id > 1 returning *;
select * from child order by id;
select * from defaulted order by id;
delete from parent where id = 102;
-- fails 23503
delete from parent where code = 40;
-- fails 23503
update parent set code = 41 where code = 40;
begin;
set constraints all deferred;
update parent set code = 41 where code = 40;
insert into strict values (2, 77);
update strict set code = 41;
commit;
begin;
set constraints all deferred;
update parent set code = 42 where code = 41;
-- fails 23503
commit;
create table tree (id int primary key, up int references tree on delete cascade);
insert into tree values (1, null), (2, 1), (3, 2), (4, 3), (5, 1);
delete from tree where id = 2;
select * from tree;
create function around() returns trigger language plpgsql as $$
begin
  raise notice '% % % in depth %', tg_name, tg_op, tg_table_name, pg_trigger_depth();
  if tg_op = 'DELETE' then return old; end if;
  new.v := new.v || '*';
  return new;
end $$;
create trigger around before update or delete on child for each row execute function around();
update parent set id = 201 where id = 103;
delete from parent where id = 201;
create table part_parent (id int primary key, v text) partition by range (id);
create table part_parent_1 partition of part_parent for values from (0) to (10);
create table part_parent_2 partition of part_parent for values from (10) to (20);
create table part_child (id int, parent int references part_parent on update cascade on delete cascade, primary key (id, parent)) partition by list (parent);
create table part_child_1 partition of part_child for values in (1, 2, 3);
create table part_child_2 partition of part_child default;
insert into part_parent values (1, 'a'), (2, 'b'), (11, 'c');
insert into part_child values (1, 1), (2, 2), (3, 11);
update part_parent set id = 12 where id = 1;
update part_parent set id = id + 3;
delete from part_parent where id = 14;
select tableoid::regclass, * from part_child order by 2, 3;
-- fails 0A000
truncate part_parent;
truncate part_parent cascade;
-- fails 2BP01
drop table parent;
drop table parent cascade;
