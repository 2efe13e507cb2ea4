-- append_events() evaluates less on the way of nearly every append: PL/pgSQL makes an expression ready anew in each transaction, for 1 to
-- 2 µs, and these were half of an append of one event. What only some calls need (keys, checks, look-ups, an anchor that is not the head)
-- is behind one condition, and a row of the answer is one expression.
--
-- A command is known by its first event: nothing of a unit is in the log without it, and its others follow it. So the index of commands
-- holds first events only; of a batch of 100 events it is one entry instead of a hundred.
--
-- The primary key has the name first: it decides nearly every comparison, where the aggregate's type, the same in every row, came before
-- it. Its columns are those of postgres-es, which asks for no order among them.
--
-- No constraint checks `sequence`, `position` and `part` any more: Postgres reads a check's expression anew for each statement. Only the
-- functions here give positions (grants.sql); what stock writers give as `sequence` is checked by their trigger; callers of append_events()
-- are trusted with sequences and parts.
--
-- What an append writes, its outcomes and the order rule of 0004 are as they were in 0010, and the old functions go at once, as they
-- did there.

alter table events
    drop constraint events_pkey,
    add constraint events_pkey primary key (aggregate_id, aggregate_type, sequence),
    drop constraint events_command_id_part_key,
    drop constraint events_sequence_check,
    drop constraint events_position_check,
    drop constraint events_part_check;
create unique index events_command_id_key on events (command_id) where part = 0;

comment on column events.command_id is 'Which command wrote it (UUIDv7); its first event, unique, makes every append safe to repeat.';
comment on column events.part is 'Place within its command: 0, 1, 2 …, at positions that follow each other.';

drop function append_events(text, uuid[], json[], bytea[], bytea[], text[], interval, int[], text[], bigint[],
                            uuid[], text[], text[], json[], int[], text[], bigint[], uuid[], bigint, uuid, int[]);
drop function lock_event_log();

-- Takes the lock and returns the head of the log, which command wrote it, and the moment of whatever comes next. Its holder's bounds last
-- until the end of the transaction, whatever role it has: it waits at most 5 s for the lock (SQLSTATE 55P03), and is cut off when its
-- client idles for 5 s while every other writer waits for it (25P03).
-- For the functions below, which have the rights and the settings that it needs.
create function take_event_log_lock(out last_position bigint, out last_command_id uuid, out next_recorded_at timestamptz)
    language plpgsql
as $$
declare
    -- An assignment of a function's result costs less than a statement that calls it.
    bounds text[];
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'events can be appended at isolation level read committed only, not %',
            current_setting('transaction_isolation')
            using errcode = 'feature_not_supported',
                  hint = 'Begin the transaction with: begin isolation level read committed';
    end if;
    bounds := array[set_config('lock_timeout', '5s', true), set_config('idle_in_transaction_session_timeout', '5s', true)];
    perform 1 from event_log_lock for update;
    if not found then
        raise exception 'event_log_lock has lost its row' using errcode = 'data_corrupted';
    end if;
    select e.position, e.command_id, greatest(clock_timestamp(), e.recorded_at + interval '1 microsecond')
      into last_position, last_command_id, next_recorded_at
      from events e order by e.position desc limit 1;
    if last_position is null then
        last_position := 0; next_recorded_at := clock_timestamp();
    end if;
end
$$;

-- The same for everybody who writes otherwise.
create function lock_event_log(out last_position bigint, out last_command_id uuid, out next_recorded_at timestamptz)
    language plpgsql security definer
    set search_path = public, pg_temp
    set enable_seqscan = off set enable_sort = off set jit = off
as $$
declare
    head record;
begin
    head := take_event_log_lock();
    last_position := head.last_position; last_command_id := head.last_command_id; next_recorded_at := head.next_recorded_at;
end
$$;

create or replace function place_stock_event() returns trigger language plpgsql as $$
declare
    head record;
begin
    if new.sequence < 0 then
        raise exception 'a sequence is 0 or more, not %', new.sequence
            using errcode = 'check_violation', table = 'events', constraint = 'events_sequence_check';
    end if;
    head := lock_event_log();
    new.position := head.last_position + 1;
    new.recorded_at := head.next_recorded_at;
    new.command_id := coalesce(new.command_id, gen_random_uuid());
    new.part := coalesce(new.part, 0);
    perform pg_notify('events', new.position::text);
    return new;
end
$$;

-- A row of the answer of append_events(): a run of units with the same outcome.
create type append_run as (
    first_unit        int,
    last_unit         int,
    outcome           text,
    first_position    bigint,
    recorded_at       timestamptz,
    conflict_name     text,
    conflict_sequence bigint,
    key_request_hash  bytea,
    key_answer        text,
    head_command_id   uuid,
    anchor_holds      boolean
);

-- Appends a group of units in one statement.
--
-- A unit is one command's events: all of them are written or none. Within a call a name may be written once, and an
-- idempotency key be used once.
--   of_aggregate_type, of_event_version  of all events
--   unit_command_ids, unit_metadata      one per unit; its events share the metadata
--   unit_key_hashes, unit_request_hashes,
--   unit_answers                         one per unit: its idempotency key, what was asked, what to answer a repetition;
--                                        null for a unit without a key; all empty when no unit has one. A unit with a key may
--                                        have no events.
--   key_lifetime                         how long keys are kept
--   event_*                              one per event, in the order of their units: the unit's index from 1, its place in
--                                        the unit from 0, the name, the last sequence its writer saw (the event gets the next)
--                                        and which command had written that (null: whichever), and the event itself. That
--                                        they are grouped so is checked when the anchor is not the log's head
--   check_*                              one per name that a unit depends on without writing it: the sequence it must have,
--                                        and which command must have written that (null: whichever)
--   anchor_position, anchor_command_id   the last event that the caller's appends left in the log; null when there is none
--   looked_up_events                     events, by their index from 1, whose names are looked up though the anchor holds: all but those
--                                        whose last version was written by the caller's appends up to the anchor, and those
--                                        that were never written (expected 0)
--
-- Answers a row per run of units with the same outcome; together they name each unit once, in no order. Runs are of
-- appended units; any other unit has a row of its own.
-- outcome: appended  their events are in, from first_position on; the first unit's at recorded_at, each further unit's 1 µs
--                    later. first_position is where the first event would be, when they have none
--          repeated  its events already were (the same unit, with the same command_id); the old receipt. The lock was taken, so this waits for
--                    durability like any append
--          answered  its idempotency key is taken; what was asked and answered then
--          conflict  conflict_name now has conflict_sequence (0 = never written), or has it from another command than was seen;
--                    nothing of the unit was written
-- In each row: head_command_id, the command that wrote the log's last event before the call (null = there was none); and whether
-- the anchor holds.
create function append_events(
    of_aggregate_type   text,
    of_event_version    text,
    unit_command_ids    uuid[],
    unit_metadata       json[],
    unit_key_hashes     bytea[],
    unit_request_hashes bytea[],
    unit_answers        text[],
    key_lifetime        interval,
    event_units         int[],
    event_parts         smallint[],
    event_names         text[],
    event_expected      bigint[],
    event_seen          uuid[],
    event_types         text[],
    event_payloads      json[],
    check_units         int[],
    check_names         text[],
    check_sequences     bigint[],
    check_seen          uuid[],
    anchor_position     bigint,
    anchor_command_id   uuid,
    looked_up_events    int[]
) returns setof append_run
    language plpgsql security definer
    set search_path = public, pg_temp
    -- Look-ups by index whatever the statistics say: a plan made while the table was empty lives as long as its session.
    set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
    set plan_cache_mode = force_generic_plan
as $$
declare
    head         record;
    anchor_holds boolean;
    run          append_run;
    found        record;
    written      bigint;
    behind       int;
    -- when the lock was taken: where the log is ahead of the clock, now
    clock        timestamptz;
    next_event   int;
    -- per event: where it stands behind the head. Null as long as all are written
    places       int[];
    -- per unit: that it is not written now. Null as long as all are
    left_out     boolean[];
    -- which events' names are looked up now, null when nothing is; whether those of all the others were, or need not be any more
    look_up      int[];
    looked_at_all boolean;
    -- which events' names, and which checks, stand elsewhere than was seen, or there by another command. Null when none do
    stale        int[];
    stale_checks int[];
begin
    head := take_event_log_lock();
    anchor_holds := coalesce(anchor_position = head.last_position and anchor_command_id = head.last_command_id, false);

    if not anchor_holds or cardinality(looked_up_events) > 0 or cardinality(check_units) > 0 or cardinality(unit_key_hashes) > 0 then
        if anchor_position < head.last_position then
            anchor_holds := exists (select from events v where v.position = anchor_position and v.command_id = anchor_command_id);
        end if;
        clock := least(head.next_recorded_at, clock_timestamp());
        run.head_command_id := head.last_command_id; run.anchor_holds := anchor_holds;
        look_up := coalesce(looked_up_events, '{}');

        -- Here only: a caller's first append always comes here, so one that groups wrongly is found out then.
        for i in 1 .. cardinality(event_units) loop
            if (case event_parts[i]
                    when 0 then event_units[i] > coalesce(event_units[i - 1], 0) and event_units[i] <= cardinality(unit_command_ids)
                    else event_units[i] = event_units[i - 1] and event_parts[i] = event_parts[i - 1] + 1
                end) is not true
            then
                raise exception 'events must be grouped by unit, in the order of the units, and their parts count from 0'
                    using errcode = 'invalid_parameter_value';
            end if;
        end loop;

        for found in
            select u.unit, k.request_hash, k.answer
              from unnest(unit_key_hashes) with ordinality as u (key_hash, unit)
             cross join lateral (select i.request_hash, i.answer::text as answer from idempotency_keys i
                                  where i.key_hash = u.key_hash and i.expires_at > clock offset 0) k
        loop
            left_out[found.unit] := true;
            run.first_unit := found.unit; run.last_unit := found.unit;
            -- It may be its own key: a unit that was written before gets its receipt.
            select 'repeated', v.position, v.recorded_at into run.outcome, run.first_position, run.recorded_at
              from events v where v.command_id = unit_command_ids[found.unit] and v.part = 0;
            if run.outcome is null then
                run.outcome := 'answered';
                run.key_request_hash := found.request_hash; run.key_answer := found.answer;
            end if;
            return next run;
            run.key_request_hash := null; run.key_answer := null;
        end loop;

        if exists (select from unnest(check_units) as c (unit) where c.unit not between 1 and cardinality(unit_command_ids)) then
            raise exception 'checks must name units by their index, from 1 on' using errcode = 'invalid_parameter_value';
        end if;
        select array_agg(i) into stale_checks
          from generate_series(1, cardinality(check_units)) i
         where not coalesce((select v.sequence = check_sequences[i] and v.command_id = coalesce(check_seen[i], v.command_id)
                               from events v
                              where v.aggregate_type = of_aggregate_type and v.aggregate_id = check_names[i]
                                and v.sequence >= check_sequences[i]
                              order by v.sequence desc limit 1), check_sequences[i] = 0);
    end if;

    -- Once; a second time, with the names that were not looked at, when an event was refused.
    loop
        if look_up is not null then
            -- All at once when the anchor is gone, or a check no longer holds: its unit may have been written before.
            if not anchor_holds or stale_checks is not null then
                look_up := array(select generate_series(1, cardinality(event_units)));
                looked_at_all := true;
            end if;

            -- Who stands elsewhere than its writer saw it, or has there what another command wrote? Only from the expected sequence on: the
            -- index is read a page at a time, and a page may hold a hundred versions of one name.
            select array_agg(i) into stale
              from unnest(look_up) i
             where left_out[event_units[i]] is null
               and not coalesce((select v.sequence = event_expected[i] and v.command_id = coalesce(event_seen[i], v.command_id)
                                   from events v
                                  where v.aggregate_type = of_aggregate_type and v.aggregate_id = event_names[i]
                                    and v.sequence >= event_expected[i]
                                  order by v.sequence desc limit 1), event_expected[i] = 0);

            -- Was it written before? Then its names have moved on, by its own events.
            run.outcome := 'repeated';
            for found in
                select u.unit, e.position, e.recorded_at
                  from (select distinct event_units[i] as unit from unnest(stale) as i) u
                 cross join lateral (select v.position, v.recorded_at from events v
                                      where v.command_id = unit_command_ids[u.unit] and v.part = 0 offset 0) e
            loop
                left_out[found.unit] := true;
                run.first_unit := found.unit; run.last_unit := found.unit;
                run.first_position := found.position; run.recorded_at := found.recorded_at;
                return next run;
            end loop;
            run.first_position := null; run.recorded_at := null;

            run.outcome := 'conflict';
            for found in
                select f.unit, f.name,
                       coalesce((select v.sequence from events v
                                  where v.aggregate_type = of_aggregate_type and v.aggregate_id = f.name
                                  order by v.sequence desc limit 1), 0) as sequence
                  from (select event_units[i] as unit, event_names[i] as name from unnest(stale) as e (i)
                         union all
                        select check_units[i], check_names[i] from unnest(stale_checks) as c (i)) f
            loop
                if left_out[found.unit] is null then
                    left_out[found.unit] := true;
                    run.first_unit := found.unit; run.last_unit := found.unit;
                    run.conflict_name := found.name; run.conflict_sequence := found.sequence;
                    return next run;
                end if;
            end loop;
            run.conflict_name := null; run.conflict_sequence := null;

            if left_out is not null then
                -- Who comes behind a unit that is left out moves up.
                behind := 0;
                for i in 1 .. cardinality(event_units) loop
                    if left_out[event_units[i]] is null then
                        behind := behind + 1;
                    end if;
                    places[i] := behind;
                end loop;
            end if;
        end if;
        begin
            insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                                position, recorded_at, command_id, part)
            select of_aggregate_type, event_names[i], event_expected[i] + 1, event_types[i], of_event_version,
                   event_payloads[i], unit_metadata[event_units[i]], head.last_position + coalesce(places[i], i),
                   head.next_recorded_at + (event_units[i] - 1) * interval '1 microsecond',
                   unit_command_ids[event_units[i]], event_parts[i]
              from generate_series(1, cardinality(event_units)) i
             where left_out[event_units[i]] is null;
            get diagnostics written = row_count;
            exit;
        exception when unique_violation then
            -- A name has moved on that was not looked at. If all were, the call is at odds with itself.
            if looked_at_all then
                raise;
            end if;
        end;
        run.head_command_id := head.last_command_id; run.anchor_holds := anchor_holds;
        look_up := array(select generate_series(1, cardinality(event_units)) except select unnest(look_up));
        looked_at_all := true;
    end loop;
    -- One per group: notifications serialise commits. Only a hint; readers poll.
    if written > 0 and pg_notify('events', (head.last_position + written)::text) is null then
        null;
    end if;

    if cardinality(unit_key_hashes) > 0 then
        -- On conflict: the key was there and has expired.
        insert into idempotency_keys (key_hash, request_hash, answer, expires_at)
        select unit_key_hashes[u], unit_request_hashes[u], unit_answers[u]::json, clock + key_lifetime
          from generate_series(1, cardinality(unit_command_ids)) u
         where unit_key_hashes[u] is not null and left_out[u] is null
            on conflict on constraint idempotency_keys_pkey do update
           set request_hash = excluded.request_hash, answer = excluded.answer, expires_at = excluded.expires_at;
    end if;

    if left_out is null then
        return next row(1, cardinality(unit_command_ids), 'appended', head.last_position + 1, head.next_recorded_at,
                        null, null, null, null, head.last_command_id, anchor_holds)::append_run;
        return;
    end if;
    run.outcome := 'appended';
    run.first_position := head.last_position + 1;
    next_event := 1;
    for u in 1 .. cardinality(unit_command_ids) loop
        if left_out[u] is null then
            run.first_unit := u; run.last_unit := u;
            run.recorded_at := head.next_recorded_at + (u - 1) * interval '1 microsecond';
            return next run;
        end if;
        while next_event <= cardinality(event_units) and event_units[next_event] = u loop
            if left_out[u] is null then
                run.first_position := run.first_position + 1;
            end if;
            next_event := next_event + 1;
        end loop;
    end loop;
end
$$;

revoke execute on function take_event_log_lock() from public;
revoke execute on function lock_event_log() from public;
revoke execute on function append_events(text, text, uuid[], json[], bytea[], bytea[], text[], interval, int[], smallint[], text[],
                                         bigint[], uuid[], text[], json[], int[], text[], bigint[], uuid[], bigint, uuid, int[]) from public;
