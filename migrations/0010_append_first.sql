-- append_events() writes first, and looks a name up only when it must: what its caller wrote itself, it does not ask for again.
--
-- An event's place in its stream is unique, and streams have no holes: every writer takes the next place, postgres-es too. So an
-- event whose name has moved on is refused by the index that it goes into anyhow.
-- What that does not show is a failover that lost the log's end: then a version may be another's than the one that was seen, or
-- be gone (0009). For that the caller names its anchor: the last event that its own appends left. While that is in the log, so is
-- all that they wrote before it. The names whose last version it wrote itself need no look-up of their own then; those of other
-- writers, which it loaded, have one. All names are looked up as before when the anchor is gone, a check no longer holds, or an event
-- is refused.
--
-- An append also says who wrote the log's last event before it: whoever has the log up to there may go on with what was appended.
--
-- What it writes, its outcomes and the order rule of 0004 are as they were in 0009. The old functions go at once, as they did there.

drop function append_events(text, uuid[], json[], bytea[], bytea[], text[], interval, int[], text[], bigint[],
                            uuid[], text[], text[], json[], int[], text[], bigint[], uuid[]);
drop function lock_event_log();

-- Takes the lock and returns the head of the log, and which command wrote it. Its holder's bounds last until the end of the transaction,
-- whatever role it has: it waits at most 5 s for the lock (SQLSTATE 55P03), and is cut off when its client idles for 5 s while every
-- other writer waits for it (25P03).
create function lock_event_log(out last_position bigint, out last_recorded_at timestamptz, out last_command_id uuid)
    language plpgsql security definer
    set search_path = public, pg_temp
    set enable_seqscan = off set enable_sort = off set jit = off
as $$
declare
    -- An assignment of a function's result costs less than a statement that calls it.
    set_to text;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'events can be appended at isolation level read committed only, not %',
            current_setting('transaction_isolation')
            using errcode = 'feature_not_supported',
                  hint = 'Begin the transaction with: begin isolation level read committed';
    end if;
    set_to := set_config('lock_timeout', '5s', true);
    set_to := set_config('idle_in_transaction_session_timeout', '5s', true);
    perform 1 from event_log_lock for update;
    if not found then
        raise exception 'event_log_lock has lost its row' using errcode = 'data_corrupted';
    end if;
    select e.position, e.recorded_at, e.command_id into last_position, last_recorded_at, last_command_id
      from events e order by e.position desc limit 1;
    last_position := coalesce(last_position, 0);
    last_recorded_at := coalesce(last_recorded_at, '-infinity');
end
$$;

-- Appends a group of units in one statement.
--
-- A unit is one command's events: all of them are written or none. Within a call a name may be written once, and an
-- idempotency key be used once.
--   unit_command_ids, unit_metadata      one per unit; its events share the metadata
--   unit_key_hashes, unit_request_hashes,
--   unit_answers                         one per unit: its idempotency key, what was asked, what to answer a repetition;
--                                        null for a unit without a key; all empty when no unit has one. A unit with a key may
--                                        have no events.
--   key_lifetime                         how long keys are kept
--   event_*                              one per event, grouped by unit: the unit's index from 1, the name, the last
--                                        sequence its writer saw (the event gets the next) and which command had written
--                                        that (null: whichever), and the event itself
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
    unit_command_ids    uuid[],
    unit_metadata       json[],
    unit_key_hashes     bytea[],
    unit_request_hashes bytea[],
    unit_answers        text[],
    key_lifetime        interval,
    event_units         int[],
    event_names         text[],
    event_expected      bigint[],
    event_seen          uuid[],
    event_types         text[],
    event_versions      text[],
    event_payloads      json[],
    check_units         int[],
    check_names         text[],
    check_sequences     bigint[],
    check_seen          uuid[],
    anchor_position     bigint,
    anchor_command_id   uuid,
    looked_up_events    int[]
) returns table (
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
)
    language plpgsql security definer
    set search_path = public, pg_temp
    -- Look-ups by index whatever the statistics say: a plan made while the table was empty lives as long as its session.
    set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
    set plan_cache_mode = force_generic_plan
as $$
declare
    units      constant int := cardinality(unit_command_ids);
    events_in  constant int := cardinality(event_units);
    checks_in  constant int := cardinality(check_units);
    keys_in    constant int := cardinality(unit_key_hashes);
    head       bigint;
    moment     timestamptz;
    clock      timestamptz;
    found      record;
    of_unit    int := -1;
    written    int := 0;
    next_event int := 1;
    part       int := 0;
    -- per event: its place in its unit
    parts      int[] := array_fill(0, array[events_in]);
    -- per event: where it stands behind the head. Null as long as all are written
    places     int[];
    -- per unit: that it is not written now. Null as long as all are
    left_out   boolean[];
    -- which events' names are looked up now; whether those of all the others were, or need not be any more
    look_up    int[] := looked_up_events;
    looked_at_all boolean := false;
    -- which events' names, and which checks, stand elsewhere than was seen, or there by another command. Null when none do
    stale      int[];
    stale_checks int[];
begin
    for i in 1 .. events_in loop
        if event_units[i] = of_unit then
            part := part + 1;
            parts[i] := part;
        elsif event_units[i] > of_unit and event_units[i] between 1 and units then
            of_unit := event_units[i];
            part := 0;
        else
            raise exception 'events must be grouped by unit, in the order of the units'
                using errcode = 'invalid_parameter_value';
        end if;
    end loop;

    select l.last_position, l.last_recorded_at, l.last_command_id into head, moment, head_command_id from lock_event_log() l;
    clock := clock_timestamp();
    moment := greatest(clock, moment + interval '1 microsecond');
    if anchor_position = head then
        anchor_holds := coalesce(anchor_command_id = head_command_id, false);
    else
        anchor_holds := anchor_position is not null and exists (
            select from events v where v.position = anchor_position and v.command_id = anchor_command_id);
    end if;

    if keys_in > 0 then
        for found in
            select u.unit, k.request_hash, k.answer
              from unnest(unit_key_hashes) with ordinality as u (key_hash, unit)
             cross join lateral (select i.request_hash, i.answer::text as answer from idempotency_keys i
                                  where i.key_hash = u.key_hash and i.expires_at > clock offset 0) k
        loop
            left_out[found.unit] := true;
            first_unit := found.unit; last_unit := found.unit;
            -- It may be its own key: a unit that was written before gets its receipt.
            select 'repeated', v.position - v.part, v.recorded_at into outcome, first_position, recorded_at
              from events v where v.command_id = unit_command_ids[found.unit] order by v.part desc limit 1;
            if outcome is null then
                outcome := 'answered';
                key_request_hash := found.request_hash; key_answer := found.answer;
            end if;
            return next;
            key_request_hash := null; key_answer := null;
        end loop;
    end if;

    if checks_in > 0 then
        if exists (select from unnest(check_units) as c (unit) where c.unit not between 1 and units) then
            raise exception 'checks must name units by their index, from 1 on' using errcode = 'invalid_parameter_value';
        end if;
        select array_agg(i) into stale_checks
          from generate_series(1, checks_in) i
         where not coalesce((select v.sequence = check_sequences[i] and v.command_id = coalesce(check_seen[i], v.command_id)
                               from events v
                              where v.aggregate_type = of_aggregate_type and v.aggregate_id = check_names[i]
                                and v.sequence >= check_sequences[i]
                              order by v.sequence desc limit 1), check_sequences[i] = 0);
    end if;

    -- Once; a second time for the others, when an event was refused. All at once when the anchor is gone, or a check no longer holds:
    -- its unit may have been written before.
    loop
        if not anchor_holds or stale_checks is not null then
            look_up := array(select generate_series(1, events_in));
            looked_at_all := true;
        end if;

        -- Who stands elsewhere than its writer saw it, or has there what another command wrote? Only from the expected sequence on: the
        -- index is read a page at a time, and a page may hold a hundred versions of one name.
        stale := null;
        if cardinality(look_up) > 0 then
            select array_agg(i) into stale
              from unnest(look_up) i
             where left_out[event_units[i]] is null
               and not coalesce((select v.sequence = event_expected[i] and v.command_id = coalesce(event_seen[i], v.command_id)
                                   from events v
                                  where v.aggregate_type = of_aggregate_type and v.aggregate_id = event_names[i]
                                    and v.sequence >= event_expected[i]
                                  order by v.sequence desc limit 1), event_expected[i] = 0);
        end if;

        -- Was it written before? Then its names have moved on, by its own events. A unit's positions have no hole, so its last event
        -- tells its first position.
        if stale is not null then
            outcome := 'repeated';
            for found in
                select u.unit, e.first_position, e.recorded_at
                  from (select distinct event_units[i] as unit from unnest(stale) as i) u
                 cross join lateral (select v.position - v.part as first_position, v.recorded_at from events v
                                      where v.command_id = unit_command_ids[u.unit] order by v.part desc limit 1) e
            loop
                left_out[found.unit] := true;
                first_unit := found.unit; last_unit := found.unit;
                first_position := found.first_position; recorded_at := found.recorded_at;
                return next;
            end loop;
        end if;
        first_position := null; recorded_at := null;

        if stale is not null or stale_checks is not null then
            outcome := 'conflict';
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
                    first_unit := found.unit; last_unit := found.unit;
                    conflict_name := found.name; conflict_sequence := found.sequence;
                    return next;
                end if;
            end loop;
            conflict_name := null; conflict_sequence := null;
        end if;

        exit when events_in = 0;
        if left_out is not null then
            -- Who comes behind a unit that is left out moves up.
            written := 0;
            for i in 1 .. events_in loop
                if left_out[event_units[i]] is null then
                    written := written + 1;
                end if;
                places[i] := written;
            end loop;
        end if;
        begin
            insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                                position, recorded_at, command_id, part)
            select of_aggregate_type, event_names[i], event_expected[i] + 1, event_types[i], event_versions[i],
                   event_payloads[i], unit_metadata[event_units[i]], head + coalesce(places[i], i),
                   moment + (event_units[i] - 1) * interval '1 microsecond', unit_command_ids[event_units[i]], parts[i]
              from generate_series(1, events_in) i
             where left_out[event_units[i]] is null;
            get diagnostics written = row_count;
            exit;
        exception when unique_violation then
            -- A name has moved on that was not looked at. If all were, the call is at odds with itself.
            if looked_at_all then
                raise;
            end if;
        end;
        look_up := array(select i from generate_series(1, events_in) i except select unnest(look_up));
        looked_at_all := true;
    end loop;
    -- One per group: notifications serialise commits. Only a hint; readers poll. A condition costs less than a statement that calls it.
    if written > 0 then
        if pg_notify('events', (head + written)::text) is null then
            null;
        end if;
    end if;

    if keys_in > 0 then
        -- On conflict: the key was there and has expired.
        insert into idempotency_keys (key_hash, request_hash, answer, expires_at)
        select unit_key_hashes[u], unit_request_hashes[u], unit_answers[u]::json, clock + key_lifetime
          from generate_series(1, units) u
         where unit_key_hashes[u] is not null and left_out[u] is null
            on conflict on constraint idempotency_keys_pkey do update
           set request_hash = excluded.request_hash, answer = excluded.answer, expires_at = excluded.expires_at;
    end if;

    outcome := 'appended';
    if left_out is null then
        first_unit := 1; last_unit := units; first_position := head + 1; recorded_at := moment;
        return next;
        return;
    end if;
    for u in 1 .. units loop
        if left_out[u] is null then
            first_unit := u; last_unit := u; first_position := head + 1;
            recorded_at := moment + (u - 1) * interval '1 microsecond';
            return next;
        end if;
        while next_event <= events_in and event_units[next_event] = u loop
            if left_out[u] is null then
                head := head + 1;
            end if;
            next_event := next_event + 1;
        end loop;
    end loop;
end
$$;

revoke execute on function lock_event_log() from public;
revoke execute on function append_events(text, uuid[], json[], bytea[], bytea[], text[], interval, int[], text[], bigint[],
                                         uuid[], text[], text[], json[], int[], text[], bigint[], uuid[], bigint, uuid, int[]) from public;
