-- The log, the versions and the leases. Everything Freshet owns lives in this one schema.

-- Asked first: "if not exists" would demand the right to create schemas even where an administrator has made this one.
do $$
begin
  if to_regnamespace('freshet') is null then
    create schema freshet;
  end if;
end
$$;

-- One row: who this log is, and where it begins.
create table freshet.state (
  singleton boolean primary key default true check (singleton),
  -- Random; replaced whenever version numbers could lie (another cluster, timeline or database, a lost log).
  epoch text not null default substr(md5(gen_random_uuid()::text), 1, 6),
  -- What the epoch was minted for: system identifier, timeline and database oid. Null until a clock has led.
  identity text,
  -- Oldest version whose successors are all still in the log.
  floor bigint not null default 0,
  -- `freshet.touched` is complete up to this version.
  touched_at bigint not null default 0,
  -- When the log last turned to its other table, a transaction id that every writer of the table it left is below, and the
  -- newest version then.
  turned_at timestamptz not null default clock_timestamp(),
  turn_fence xid8,
  turned_version bigint not null default 0
);
insert into freshet.state default values;

create table freshet.settings (
  name text primary key,
  value text not null
);
insert into freshet.settings values ('wake', 'notify'), ('bulk_rows', '100000');

-- A watched table. Its columns here are what the capture function was generated from.
create table freshet.tables (
  id int primary key generated always as identity,
  relation regclass not null unique,
  name text not null,
  key_columns text[] not null,
  -- Null: every column of the table.
  columns text[],
  filter_columns text[] not null,
  -- Those that are captured as text, because JSON would not keep their numbers.
  text_columns text[] not null default '{}',
  fingerprint text not null default '',
  parked text
);

create table freshet.channels (
  name text primary key check (name ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
  table_id int not null references freshet.tables,
  columns text[],
  filters text[] not null,
  public boolean not null
);
create index channels_table_id on freshet.channels (table_id);

-- The log is two plain tables used in turn. The idle one is emptied by TRUNCATE before the log turns to it, when no
-- transaction that could have written it is open, so that retention never makes a writer wait.
-- `xid` is taken at the insert and says which snapshots see the change; ids taken before commit say nothing of order between transactions.
-- `lsn` does, for any one key: each line that a transaction writes moves the place in the WAL on, and who waited for its lock on the row
-- reads it after the commit. (No sequence: nextval in a session of the host would change what its lastval() says.) Concurrent transactions may
-- read the same place, and so do the rows of one INSERT or DELETE; of one table and key a place is told once.
create table freshet.changes_0 (
  lsn pg_lsn not null default pg_current_wal_insert_lsn(),
  xid xid8 not null default pg_current_xact_id(),
  -- 0: not of a table, but of Freshet itself.
  table_id int not null,
  -- 'c': a change of a key. 'r': a reset; everything about the table may have changed, and `new_row` says why.
  kind "char" not null default 'c',
  -- The key as rendered JSON. Null: the line is of no row.
  key text collate "C",
  -- The captured columns as row_to_json renders them, of text_columns their text; so is the key. Null: the key is gone.
  new_row text,
  -- The filter columns before the statement, rendered alike. Null where the row is new or nothing is filtered.
  old_filters text,
  -- What the writer says about its transaction; nothing yet.
  trace text
) with (autovacuum_vacuum_insert_threshold = -1);
create table freshet.changes_1 (like freshet.changes_0 including all) with (autovacuum_vacuum_insert_threshold = -1);
-- A publication FOR ALL TABLES takes them too, and then nothing may be deleted from a table without an identity: see emptyLog. Inserts cost no more for it.
alter table freshet.changes_0 replica identity full;
alter table freshet.changes_1 replica identity full;
create index changes_0_xid on freshet.changes_0 (xid);
create index changes_1_xid on freshet.changes_1 (xid);
create view freshet.changes as
  select * from freshet.changes_0 union all select * from freshet.changes_1;

-- Version N is everything that snapshot N can see. Minted by the clock alone.
create table freshet.versions (
  number bigint primary key,
  snapshot pg_snapshot not null,
  minted_at timestamptz not null default clock_timestamp(),
  -- The last version before a leap; numbers in between were never issued, or were lost in a crash. Leaps are kept for ever.
  leapt_from bigint,
  -- Tables with changes in this version, and those of them that start anew.
  touched int[] not null default '{}',
  reset int[] not null default '{}',
  changes bigint not null default 0
);

-- The last version that touched (and that reset) each table: outlives retention, so that the cursor of a quiet channel stays good.
create table freshet.touched (
  table_id int primary key,
  version bigint not null,
  born bigint not null
);

-- Sequences are read outside MVCC: a writer in any isolation level sees a lease the moment it changes.
-- Milliseconds since 1970. Until `awake_until` the clock reads on its own and writers need not ring.
create sequence freshet.awake_until cache 1;
-- Past `abandoned_after` nobody serves this log, and capture writes nothing into it.
create sequence freshet.abandoned_after cache 1;
-- Which of the two log tables takes the changes.
create sequence freshet.slot minvalue 0 maxvalue 1 cache 1;

do $$
begin
  perform setval('freshet.awake_until', 1);
  perform setval('freshet.abandoned_after', (extract(epoch from clock_timestamp()) * 1000)::bigint + 86400000);
  perform setval('freshet.slot', 0);
end
$$;
