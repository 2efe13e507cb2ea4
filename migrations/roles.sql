-- The group roles that login roles are granted: create them once per cluster, again harmlessly. Roles belong to the whole
-- cluster, so this is a step of its own (`command-service migrate --create-roles`) and not a migration: migrations of
-- several databases race on roles, and an advisory lock does not help, being per database.
--
-- Neither role may hold pg_signal_backend: a cancelled wait for a synchronous standby is reported as success.
do $$
begin
    begin
        create role config_api_writer nologin;
    exception when duplicate_object or unique_violation then null;
    end;
    begin
        create role config_api_reader nologin;
    exception when duplicate_object or unique_violation then null;
    end;
end
$$;
