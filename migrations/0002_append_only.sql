-- History is for ever: events cannot be changed or removed, whatever privileges somebody holds short of the owner's.
-- Statement-level, because TRUNCATE fires no row-level trigger, and because refusing must cost an append nothing.

create function refuse_rewrite() returns trigger language plpgsql as $$
begin
    raise exception '% on % is refused: the event log is append-only', tg_op, tg_table_name
        using errcode = 'restrict_violation',
              hint = 'Correct a value by writing a new one; the old one stays in its history.';
end
$$;

create trigger events_append_only
    before update or delete or truncate on events
    for each statement execute function refuse_rewrite();

create trigger event_log_lock_unchanged
    before insert or update or delete or truncate on event_log_lock
    for each statement execute function refuse_rewrite();
