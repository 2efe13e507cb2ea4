-- What was at a position, and what changed between two, name by name, in pieces: for reads of whole states of the past.
--
-- Positions are contiguous and grow with recorded_at, and so does a name's sequence: binary searches in the keys that are
-- there anyway find the position of a moment, and the version that a name had at a position. Names are found by a skip scan
-- over the primary key. So what a piece costs grows with the names that it looks at, and neither with the length of the log
-- nor with how often a name was changed; and no append pays for a further index.

-- The last position that was recorded at the moment or before it; 0 before the first event.
create function position_at(moment timestamptz) returns bigint
    language plpgsql stable
    set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
    set plan_cache_mode = force_generic_plan
as $$
declare
    -- the answer is at least low and below high
    low      bigint := 0;
    high     bigint;
    middle   bigint;
    found_at timestamptz;
begin
    select e.position, e.recorded_at into high, found_at from events e order by e.position desc limit 1;
    if not found or found_at <= moment then
        return coalesce(high, 0);
    end if;
    while low + 1 < high loop
        middle := (low + high) / 2;
        select e.recorded_at into found_at from events e where e.position <= middle order by e.position desc limit 1;
        if found and found_at <= moment then
            low := middle;
        else
            high := middle;
        end if;
    end loop;
    return low;
end
$$;

-- The names that begin with name_prefix, come behind after_name (null: all do) and were changed behind from_position and up to
-- to_position, in the order of their bytes: the last such change of each, and the one that it had at from_position (nulls
-- when it had none). With from_position 0 that is the state at to_position, deletions among it.
--
--   walk_events    look for names among the events of the range, and not among all names: cheaper when the range is short
--   with_payloads  without, payloads are null, and nothing is read of them
--   most_names     that are looked at; most_changes that are told; most_bytes of payloads and metadata that are told, but for
--                  the last change. The first bound that is reached ends the piece with a row that has a name and nulls:
--                  the next piece begins behind that name. Without such a row there is nothing more.
create function changes_between(
    of_aggregate_type text,
    from_position     bigint,
    to_position       bigint,
    name_prefix       text,
    after_name        text,
    walk_events       boolean,
    with_payloads     boolean,
    most_names        int,
    most_changes      int,
    most_bytes        bigint
) returns table (
    name            text,
    is_sequence     bigint,
    is_type         text,
    is_version      text,
    is_payload      text,
    is_metadata     text,
    is_recorded_at  timestamptz,
    is_position     bigint,
    was_sequence    bigint,
    was_type        text,
    was_version     text,
    was_payload     text
)
    language plpgsql stable
    -- Look-ups by index whatever the statistics say.
    set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
    set plan_cache_mode = force_generic_plan
as $$
declare
    current_name   text collate "C" := after_name;
    -- the first name may be the prefix itself
    at_start       boolean := after_name is null or after_name collate "C" < name_prefix collate "C";
    walked         text[];
    walked_next    int := 1;
    found_position bigint;
    found_sequence bigint;
    bound          bigint;
    low            bigint;
    high           bigint;
    middle         bigint;
    probe_position bigint;
    probe_sequence bigint;
    names          int := 0;
    changes        int := 0;
    bytes          bigint := 0;
begin
    if walk_events then
        -- Ordered by position, so that the range is read by its index, and only then by name.
        with range as materialized (
            select e.aggregate_type, e.aggregate_id from events e
             where e.position > from_position and e.position <= to_position order by e.position
        )
        select array(select distinct r.aggregate_id from range r
                      where r.aggregate_type = of_aggregate_type and starts_with(r.aggregate_id, name_prefix)
                        and (after_name is null or r.aggregate_id > after_name)
                      order by r.aggregate_id limit most_names + 1)
          into walked;
    end if;

    loop
        -- The next name, and the position of its first event, or 0 when that is not known.
        if walk_events then
            exit when walked_next > cardinality(walked);
        end if;
        if names >= most_names or changes >= most_changes or bytes >= most_bytes then
            name := current_name;
            is_sequence := null; is_type := null; is_version := null; is_payload := null; is_metadata := null;
            is_recorded_at := null; is_position := null;
            was_sequence := null; was_type := null; was_version := null; was_payload := null;
            return next;
            exit;
        end if;
        if walk_events then
            current_name := walked[walked_next];
            walked_next := walked_next + 1;
            found_position := 0;
        else
            if at_start then
                select e.aggregate_id, e.position into name, found_position from events e
                 where e.aggregate_type = of_aggregate_type and e.aggregate_id >= name_prefix
                 order by e.aggregate_id, e.sequence limit 1;
                at_start := false;
            else
                select e.aggregate_id, e.position into name, found_position from events e
                 where e.aggregate_type = of_aggregate_type and e.aggregate_id > current_name
                 order by e.aggregate_id, e.sequence limit 1;
            end if;
            exit when not found or not starts_with(name, name_prefix);
            current_name := name;
        end if;
        names := names + 1;
        continue when found_position > to_position;

        -- Its newest version, then the one that it had at each bound, the later first. 0 stands for none.
        select e.sequence, e.position into found_sequence, found_position from events e
         where e.aggregate_type = of_aggregate_type and e.aggregate_id = current_name
         order by e.sequence desc limit 1;
        is_position := null;
        foreach bound in array array[to_position, from_position] loop
            if found_position > bound then
                -- the version at the bound is at least low and below high
                low := 0;
                high := found_sequence;
                found_sequence := 0;
                found_position := 0;
                while low + 1 < high and bound > 0 loop
                    middle := (low + high) / 2;
                    select e.sequence, e.position into probe_sequence, probe_position from events e
                     where e.aggregate_type = of_aggregate_type and e.aggregate_id = current_name and e.sequence <= middle
                     order by e.sequence desc limit 1;
                    if found and probe_position <= bound then
                        low := middle;
                        found_sequence := probe_sequence;
                        found_position := probe_position;
                    else
                        high := middle;
                    end if;
                end loop;
            end if;
            if is_position is null then
                is_position := found_position;
                is_sequence := found_sequence;
                exit when found_position <= from_position;
            end if;
        end loop;
        continue when is_position <= from_position;

        select e.event_type, e.event_version, case when with_payloads then e.payload::text end, e.metadata::text, e.recorded_at
          into is_type, is_version, is_payload, is_metadata, is_recorded_at
          from events e
         where e.aggregate_type = of_aggregate_type and e.aggregate_id = current_name and e.sequence = is_sequence;
        was_sequence := null; was_type := null; was_version := null; was_payload := null;
        if found_position > 0 then
            was_sequence := found_sequence;
            select e.event_type, e.event_version, case when with_payloads then e.payload::text end
              into was_type, was_version, was_payload
              from events e
             where e.aggregate_type = of_aggregate_type and e.aggregate_id = current_name and e.sequence = was_sequence;
        end if;
        name := current_name;
        changes := changes + 1;
        bytes := bytes + octet_length(is_metadata) + coalesce(octet_length(is_payload), 0) + coalesce(octet_length(was_payload), 0);
        return next;
    end loop;
end
$$;
