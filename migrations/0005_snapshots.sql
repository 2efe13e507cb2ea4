-- The aggregate's state as of some version, so that a name with many versions loads from its last few events. As
-- postgres-es defines it, and one row per aggregate.

create table snapshots (
    aggregate_type   text   collate "C" not null,
    aggregate_id     text   collate "C" not null,
    last_sequence    bigint not null constraint snapshots_last_sequence_check check (last_sequence >= 0),
    current_snapshot bigint not null constraint snapshots_current_snapshot_check check (current_snapshot >= 0),
    payload          json   not null,
    constraint snapshots_pkey primary key (aggregate_type, aggregate_id, last_sequence),
    constraint snapshots_aggregate_key unique (aggregate_type, aggregate_id)
);

comment on table snapshots is 'A cache of aggregates: it may be emptied at any time, nothing but loading speed is lost.';
