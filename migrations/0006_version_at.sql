-- Which version a name had at a moment. A name's sequence and recorded_at grow together, so a binary search on the primary
-- key finds it: about 20 look-ups for a million versions, and no second index to pay for at every append.

create function version_at(of_aggregate_type text, of_aggregate_id text, moment timestamptz) returns bigint
    language plpgsql stable
    set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
    set plan_cache_mode = force_generic_plan
as $$
declare
    -- the answer is at least low (0 = not yet written then) and below high
    low    bigint := 0;
    high   bigint;
    middle bigint;
    found_at timestamptz;
begin
    select e.sequence + 1 into high from events e
     where e.aggregate_type = of_aggregate_type and e.aggregate_id = of_aggregate_id
     order by e.sequence desc limit 1;
    if not found then
        return 0;
    end if;
    while low + 1 < high loop
        middle := (low + high) / 2;
        select e.recorded_at into found_at from events e
         where e.aggregate_type = of_aggregate_type and e.aggregate_id = of_aggregate_id and e.sequence <= middle
         order by e.sequence desc limit 1;
        if found and found_at <= moment then
            low := middle;
        else
            high := middle;
        end if;
    end loop;
    return low;
end
$$;
