-- The event log: the one table that is the truth, and the lock that orders it.
--
-- `events` has the columns, types and primary key that postgres-es defines, so that a stock writer works on it, and
-- four more: the place in the one global order, the database's own time, and which command wrote the event. Text that is
-- looked up or ordered is collated "C": names compare as bytes here as they do in memory.

create table events (
    aggregate_type text        collate "C" not null,
    aggregate_id   text        collate "C" not null,
    sequence       bigint      not null constraint events_sequence_check check (sequence >= 0),
    event_type     text        not null,
    event_version  text        not null,
    payload        json        not null,
    metadata       json        not null,
    position       bigint      not null constraint events_position_check check (position > 0),
    recorded_at    timestamptz not null,
    command_id     uuid        not null,
    part           smallint    not null constraint events_part_check check (part >= 0),
    constraint events_pkey primary key (aggregate_type, aggregate_id, sequence),
    constraint events_position_key unique (position),
    constraint events_command_id_part_key unique (command_id, part)
);

comment on table events is 'Append-only. Every change of every configuration, in one global order. Written by append_events().';
comment on column events.position is 'Place in the one global order: 1, 2, 3 … without a hole.';
comment on column events.recorded_at is 'Given under the log''s lock; at least 1 µs later than the unit before, so a moment names one state.';
comment on column events.command_id is 'Which command wrote it (UUIDv7); with part it makes every append safe to repeat.';
comment on column events.part is 'Place within its command: 0, 1, 2 …';

-- Whoever appends holds this table's one row until commit. It is never updated: an updated row would leave a dead version
-- per append, which a long snapshot elsewhere keeps from being pruned, and every later append then walks over them.
create table event_log_lock (
    only_row boolean not null default true,
    constraint event_log_lock_pkey primary key (only_row),
    constraint event_log_lock_only_row_check check (only_row)
);
insert into event_log_lock default values;

comment on table event_log_lock is 'One row, locked by whoever appends to events, never changed.';
