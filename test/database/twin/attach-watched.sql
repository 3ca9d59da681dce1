-- A table that grew becomes the first partition of another; partitions go from parent to parent.
create table one (id int primary key, v text);
create table pair (id int primary key, v text) partition by range (id);
insert into one values (1, 'a');
alter table pair attach partition one for values from (0) to (10);
insert into pair values (2, 'b');
update one set v = 'c';
alter table pair detach partition one;
insert into one values (3, 'd');
create table third (id int primary key, v text) partition by range (id);
alter table third attach partition one for values from (0) to (20);
alter table third add column w int;
insert into third values (4, 'e', 1);
truncate one;
-- fails 42809
create table child () inherits (third);
drop table third;
-- fails 42P01
select * from one;
create table parts (id int primary key, v text) partition by range (id);
create table low partition of parts for values from (0) to (10);
create table high (id int primary key, v text) partition by range (id);
create table highest partition of high for values from (10) to (20);
insert into high values (11, 'x');
alter table parts attach partition high for values from (10) to (100);
update parts set id = 5 where id = 11;
update parts set id = 12 where id = 5 returning tableoid::regclass, *;
alter table parts detach partition high;
update high set v = 'z';
select * from high;
