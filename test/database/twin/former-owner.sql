-- A role that owned a watched table and owns nothing any more is dropped like any other, also after the table is gone.
create role twin_old;
create role twin_new;
grant create, usage on schema public to twin_old, twin_new;
set role twin_old;
create table t (id int primary key);
reset role;
revoke all on schema public from twin_old;
insert into t values (1);
alter table t owner to twin_new;
update t set id = 2;
drop role twin_old;
set role twin_new;
create table of_new (id int primary key);
insert into of_new values (1);
reset role;
drop table t, of_new;
revoke all on schema public from twin_new;
drop role twin_new;
create role twin_owner;
create table u (id int primary key, v text);
insert into u values (1, 'a');
alter table u owner to twin_owner;
insert into u values (2, 'b');
-- fails 2BP01
drop role twin_owner;
reassign owned by twin_owner to current_user;
drop role twin_owner;
update u set v = 'c' returning *;
