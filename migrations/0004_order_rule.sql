-- The order rule, in words:
--
--   An append first locks the one row of event_log_lock, then reads the last position and time from events, and numbers
--   its events from there. Postgres releases a row lock only when the transaction is over: durable, on synchronous
--   standbys too, and visible. So the next append cannot even read the last position before the events of this one are
--   durable and visible: events become visible in the order of their positions, without a hole, on the primary and on
--   every standby, with any number of writers, whatever is rolled back, cancelled or killed.
--
--   A reader that has position N therefore has everything up to N. Should a reader ever see a hole, something wrote
--   around this rule: that is an alarm, and is never skipped.
--
-- No role can go around it but the owner: writers may name an event's stock columns only, and the functions below, which
-- give the others, run with their owner's rights.
--
-- It holds at read committed only: each statement below takes a new snapshot, so that what is read after the lock is
-- current. Under a stricter isolation the snapshot would be older than the lock; that is refused.

-- Takes the lock and returns the head of the log. Its holder's bounds last until the end of the transaction, whatever role
-- it has: it waits at most 5 s for the lock (SQLSTATE 55P03), and is cut off when its client idles for 5 s while every
-- other writer waits for it (25P03).
create function lock_event_log(out last_position bigint, out last_recorded_at timestamptz)
    language plpgsql security definer
    set search_path = public, pg_temp
    set enable_seqscan = off set enable_sort = off set jit = off
as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'events can be appended at isolation level read committed only, not %',
            current_setting('transaction_isolation')
            using errcode = 'feature_not_supported',
                  hint = 'Begin the transaction with: begin isolation level read committed';
    end if;
    perform set_config('lock_timeout', '5s', true), set_config('idle_in_transaction_session_timeout', '5s', true);
    perform 1 from event_log_lock for update;
    if not found then
        raise exception 'event_log_lock has lost its row' using errcode = 'data_corrupted';
    end if;
    select e.position, e.recorded_at into last_position, last_recorded_at
      from events e order by e.position desc limit 1;
    last_position := coalesce(last_position, 0);
    last_recorded_at := coalesce(last_recorded_at, '-infinity');
end
$$;

-- Appends a group of units in one statement, and answers one row per unit, in their order.
--
-- A unit is one command's events: all of them are written or none. Within a call a name may be written once, and an
-- idempotency key be used once.
--   unit_command_ids                     one per unit
--   unit_key_hashes, unit_request_hashes,
--   unit_answers                         one per unit: its idempotency key, what was asked, what to answer a repetition;
--                                        null for a unit without a key. A unit with a key may have no events.
--   key_lifetime                         how long keys are kept
--   event_*                              one per event, grouped by unit: the unit's index from 1, the name, the last
--                                        sequence its writer saw (the event gets the next), and the event itself
--   check_*                              one per name that a unit depends on without writing it: the sequence it must have
--
-- outcome: appended  its events are in, from first_position to last_position, at recorded_at
--          repeated  they already were (same command_id); the old receipt. The lock was taken, so this waits for
--                    durability like any append
--          answered  its idempotency key is taken; what was asked and answered then
--          conflict  conflict_name now has conflict_sequence (0 = never written); nothing of the unit was written
create function append_events(
    of_aggregate_type   text,
    unit_command_ids    uuid[],
    unit_key_hashes     bytea[],
    unit_request_hashes bytea[],
    unit_answers        text[],
    key_lifetime        interval,
    event_units         int[],
    event_names         text[],
    event_expected      bigint[],
    event_types         text[],
    event_versions      text[],
    event_payloads      text[],
    event_metadata      text[],
    check_units         int[],
    check_names         text[],
    check_sequences     bigint[]
) returns table (
    unit              int,
    outcome           text,
    first_position    bigint,
    last_position     bigint,
    recorded_at       timestamptz,
    conflict_name     text,
    conflict_sequence bigint,
    key_request_hash  bytea,
    key_answer        text
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
    head       bigint;
    moment     timestamptz;
    clock      timestamptz;
    next_event int := 1;
    next_check int := 1;
    first_event int;
    found_sequence bigint;
    found_part smallint;
    appended   int := 0;
    keyed      int := 0;
    -- per unit: where its first event goes less its index in the call, so that an event finds its place by one addition
    offsets    bigint[] := array_fill(null::bigint, array[units]);
    moments    timestamptz[] := array_fill(null::timestamptz, array[units]);
    first_events int[] := array_fill(0, array[units]);
begin
    select l.last_position, l.last_recorded_at into head, moment from lock_event_log() l;
    clock := clock_timestamp();

    for u in 1 .. units loop
        unit := u; outcome := null; first_position := null; last_position := null; recorded_at := null;
        conflict_name := null; conflict_sequence := null; key_request_hash := null; key_answer := null;
        first_event := next_event;

        -- Was it written before? A unit's positions have no hole, so its last event tells its first position.
        select e.position, e.part, e.recorded_at into last_position, found_part, recorded_at
          from events e where e.command_id = unit_command_ids[u] order by e.part desc limit 1;
        if found then
            outcome := 'repeated';
            first_position := last_position - found_part;
        end if;

        if outcome is null and unit_key_hashes[u] is not null then
            select k.request_hash, k.answer::text into key_request_hash, key_answer
              from idempotency_keys k where k.key_hash = unit_key_hashes[u] and k.expires_at > clock;
            if found then
                outcome := 'answered';
            end if;
        end if;

        while next_event <= events_in and event_units[next_event] = u loop
            if outcome is null then
                select e.sequence into found_sequence from events e
                 where e.aggregate_type = of_aggregate_type and e.aggregate_id = event_names[next_event]
                 order by e.sequence desc limit 1;
                if coalesce(found_sequence, 0) <> event_expected[next_event] then
                    outcome := 'conflict';
                    conflict_name := event_names[next_event];
                    conflict_sequence := coalesce(found_sequence, 0);
                end if;
            end if;
            next_event := next_event + 1;
        end loop;

        while next_check <= checks_in and check_units[next_check] = u loop
            if outcome is null then
                select e.sequence into found_sequence from events e
                 where e.aggregate_type = of_aggregate_type and e.aggregate_id = check_names[next_check]
                 order by e.sequence desc limit 1;
                if coalesce(found_sequence, 0) <> check_sequences[next_check] then
                    outcome := 'conflict';
                    conflict_name := check_names[next_check];
                    conflict_sequence := coalesce(found_sequence, 0);
                end if;
            end if;
            next_check := next_check + 1;
        end loop;

        if outcome is null then
            outcome := 'appended';
            moment := greatest(clock, moment + interval '1 microsecond');
            moments[u] := moment;
            first_events[u] := first_event;
            offsets[u] := head + 1 - first_event;
            if unit_key_hashes[u] is not null then
                keyed := keyed + 1;
            end if;
            if next_event > first_event then
                first_position := head + 1;
                head := head + (next_event - first_event);
                last_position := head;
                recorded_at := moment;
                appended := appended + 1;
            end if;
        end if;
        return next;
    end loop;

    if next_event <= events_in or next_check <= checks_in then
        raise exception 'events and checks must be grouped by unit, in the order of the units'
            using errcode = 'invalid_parameter_value';
    end if;

    if appended > 0 then
        insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                            position, recorded_at, command_id, part)
        select of_aggregate_type, e.name, e.expected + 1, e.event_type, e.event_version, e.payload::json, e.metadata::json,
               offsets[e.unit] + e.index, moments[e.unit], unit_command_ids[e.unit], e.index - first_events[e.unit]
          from unnest(event_units, event_names, event_expected, event_types, event_versions, event_payloads, event_metadata)
               with ordinality as e (unit, name, expected, event_type, event_version, payload, metadata, index)
         where offsets[e.unit] is not null;
        -- One per group: notifications serialise commits. Only a hint; readers poll.
        perform pg_notify('events', head::text);
    end if;

    if keyed > 0 then
        -- On conflict: the key was there and has expired.
        insert into idempotency_keys (key_hash, request_hash, answer, expires_at)
        select unit_key_hashes[u], unit_request_hashes[u], unit_answers[u]::json, clock + key_lifetime
          from generate_series(1, units) u
         where unit_key_hashes[u] is not null and offsets[u] is not null
            on conflict on constraint idempotency_keys_pkey do update
           set request_hash = excluded.request_hash, answer = excluded.answer, expires_at = excluded.expires_at;
    end if;
end
$$;

-- For stock writers (postgres-es inserts row by row and knows none of our columns): the same rule, under the same lock.
create function place_stock_event() returns trigger language plpgsql as $$
declare
    head record;
begin
    head := lock_event_log();
    new.position := head.last_position + 1;
    new.recorded_at := greatest(clock_timestamp(), head.last_recorded_at + interval '1 microsecond');
    new.command_id := coalesce(new.command_id, gen_random_uuid());
    new.part := coalesce(new.part, 0);
    perform pg_notify('events', new.position::text);
    return new;
end
$$;

create trigger events_place_stock_event
    before insert on events
    for each row when (new.position is null) execute function place_stock_event();

-- Functions are everybody's by default; these write. grants.sql grants them to the writer.
revoke execute on function lock_event_log() from public;
revoke execute on function append_events(text, uuid[], bytea[], bytea[], text[], interval, int[], text[], bigint[], text[],
                                         text[], text[], text[], int[], text[], bigint[]) from public;
