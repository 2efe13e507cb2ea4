#!/bin/sh
# Makes the login roles of the services, once, in a new Postgres: the image runs it when it has made its data directory, and
# ./dev stack runs it too. Connects as psql is told to by its environment (PGHOST, PGUSER …).
#
#   POSTGRES_DB      the event log's database, which is there
#   SECRETS          folder with owner_password, command_password, query_password and replication_password
#   ROLES_SQL        migrations/roles.sql: the group roles
set -eu

SECRETS=${SECRETS:-/run/secrets}
ROLES_SQL=${ROLES_SQL:-/usr/share/config-api/roles.sql}
if [ -n "${POSTGRES_USER:-}" ]; then export PGUSER="$POSTGRES_USER"; fi

# All or none. Passwords go by standard input, so that no list of processes shows them.
{
    for role in owner command query replication; do
        printf "\\\\set %s_password '%s'\n" "$role" "$(cat "$SECRETS/${role}_password")"
    done
    cat "$ROLES_SQL"
    cat <<'SQL'
create role config_api_owner login password :'owner_password';
create role config_api_command login password :'command_password' in role config_api_writer;
create role config_api_query login password :'query_password' in role config_api_reader;
create role config_api_replication login replication password :'replication_password';
alter database :"database" owner to config_api_owner;
revoke connect on database :"database" from public;
grant connect on database :"database" to config_api_command, config_api_query;
SQL
} | psql -X -q -1 -v ON_ERROR_STOP=1 -v database="$POSTGRES_DB" -d "$POSTGRES_DB"
