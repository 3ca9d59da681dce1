-- LISTEN and NOTIFY of the host, which hears nothing of ours.
create table t (id int primary key, v text);
listen twin_news;
b: listen twin_news;
create function tell() returns trigger language plpgsql as $$
begin
  perform pg_notify('twin_news', tg_op || ' ' || coalesce(new.id, old.id));
  return null;
end $$;
create trigger tell after insert or update or delete on t for each row execute function tell();
insert into t values (1, 'a'), (2, 'b');
b: select 1;
begin;
update t set v = 'c';
notify twin_news, 'own';
savepoint s;
delete from t where id = 1;
rollback to s;
commit;
b: select 2;
begin;
delete from t;
rollback;
select pg_notification_queue_usage() < 0.1 as is_small;
select pg_listening_channels();
b: delete from t where id = 2;
select 3;
unlisten *;
insert into t values (9, 'unheard');
b: select 4;
