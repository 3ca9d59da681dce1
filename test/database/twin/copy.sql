-- COPY, in and out.
create table t (id int primary key, v text, n int default 5);
copy t (id, v) from stdin;
1	one
2	\N
3	with\ttab
\.
copy t from stdin with (format csv, header);
id,v,n
10,"ten, quoted",1
11,,2
\.
-- fails 23505
copy t (id, v) from stdin;
20	twenty
10	again
\.
-- fails 22P02
copy t (id) from stdin;
30
x
\.
copy t to stdout;
copy (update t set n = n + 1 returning id, n) to stdout with (format csv);
copy (select count(*) from t) to stdout;
copy t (id, v) from stdin where id > 41;
41	left out
42	let in
\.
begin;
truncate t;
copy t from stdin with (freeze);
1	frozen	1
2	cold	2
\.
commit;
copy t (v) to stdout;
create table p (id int primary key, v text) partition by range (id);
create table p_1 partition of p for values from (0) to (10);
create table p_2 partition of p for values from (10) to (20);
copy p from stdin;
1	low
11	high
\.
-- fails 23514
copy p from stdin;
2	low
99	nowhere
\.
-- fails 0A000
copy p from stdin with (freeze);
3	frozen
\.
copy p_2 to stdout;
copy t from program 'seq -f "%.0f,copied,3" 1000 2500' with (format csv);
select count(*), sum(id) from t;
delete from t where id >= 1000;
copy t (id) from stdin;
\.
copy t to stdout;
