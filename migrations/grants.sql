-- What the group roles may do here; run after every migration, and skipped for a role that the cluster does not have.
-- The writer may insert the columns that stock postgres-es writers know; positions are given by the functions and the
-- trigger, which run with their owner's rights. Nobody may change or remove an event.
do $$
begin
    if exists (select from pg_roles where rolname = 'config_api_writer') then
        grant usage on schema public to config_api_writer;
        grant select on events to config_api_writer;
        grant insert (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
           on events to config_api_writer;
        grant execute on function lock_event_log(), append_events to config_api_writer;
        grant select, insert, update, delete on snapshots, idempotency_keys to config_api_writer;
        grant select on _sqlx_migrations to config_api_writer;
    end if;
    if exists (select from pg_roles where rolname = 'config_api_reader') then
        grant usage on schema public to config_api_reader;
        grant select on events, _sqlx_migrations to config_api_reader;
    end if;
end
$$;
