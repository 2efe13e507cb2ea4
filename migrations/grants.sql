-- What the group roles may do here; run after every migration, and skipped for a role that the cluster does not have.
-- The writer may lock the lock's row (which takes the update privilege; a trigger refuses real updates) and may insert
-- events, as stock postgres-es writers do; nobody may change or remove one.
do $$
begin
    if exists (select from pg_roles where rolname = 'config_api_writer') then
        grant usage on schema public to config_api_writer;
        grant select, insert on events to config_api_writer;
        grant select, update on event_log_lock to config_api_writer;
        grant select, insert, update, delete on snapshots, idempotency_keys to config_api_writer;
        grant select on _sqlx_migrations to config_api_writer;
    end if;
    if exists (select from pg_roles where rolname = 'config_api_reader') then
        grant usage on schema public to config_api_reader;
        grant select on events, _sqlx_migrations to config_api_reader;
    end if;
end
$$;
