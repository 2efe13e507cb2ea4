//! The database's schema: applying the migrations, and refusing a database that is not at our version.

use std::time::Duration;

use sqlx::{
    Connection, Executor, PgConnection,
    migrate::{Migrate, MigrateError, Migrator},
    postgres::PgConnectOptions,
};

use crate::database::{self, Access, ConnectError};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");
const ROLES: &str = include_str!("../../migrations/roles.sql");
const GRANTS: &str = include_str!("../../migrations/grants.sql");

/// Why a database cannot be used as it is. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// It lacks migrations of ours.
    #[error(
        "the database's schema is at version {found}, older than this release's {ours}; run `command-service migrate`"
    )]
    Older {
        /// Its version; 0 when it was never migrated.
        found: i64,
        /// The version of this release.
        ours: i64,
    },
    /// A newer release has migrated it.
    #[error("the database's schema is at version {found}, newer than this release's {ours}; run the newer release")]
    Newer {
        /// Its version.
        found: i64,
        /// The version of this release.
        ours: i64,
    },
    /// Something of the same number was applied, but not ours.
    #[error(
        "migration {version} of the database is not this release's; DATABASE_URL names another database or a changed release"
    )]
    Different {
        /// Which one.
        version: i64,
    },
    /// A migration began and did not end.
    #[error("migration {version} of the database ended half-way; restore the database or finish it by hand")]
    Dirty {
        /// Which one.
        version: i64,
    },
    /// A migration failed; it is rolled back.
    #[error("a migration failed and was rolled back{}", remedy(.0))]
    Failed(#[source] MigrateError),
    /// The cluster's group roles could not be made.
    #[error("the group roles could not be created; do it as a superuser, or as a role with createrole")]
    Roles(#[source] sqlx::Error),
    /// The user may not do with the log what the service is for.
    #[error(
        "the database user {user} may not {what} the event log; as a superuser: grant {group} to \"{user}\" (after \
         `command-service migrate --create-roles`)"
    )]
    MissingRight {
        /// As whom we are connected.
        user: String,
        /// `read` or `append to`.
        what: &'static str,
        /// The group role that has the right.
        group: &'static str,
    },
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database went away, or refused.
    #[error("the schema's version could not be read")]
    Database(#[from] sqlx::Error),
}

/// What to do about a failed migration.
fn remedy(error: &MigrateError) -> &'static str {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else { return "" };
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        Some("42501") => "; only the database's owner may migrate it: name it in MIGRATE_DATABASE_URL",
        Some("42P07" | "42710" | "42723") => {
            "; the database holds other things of the same names: give Config API a database of its own"
        }
        _ => "",
    }
}

/// The schema version of this release.
#[must_use]
pub fn version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Applies what is missing, then the grants. Safe to repeat, and to run from several processes at once.
///
/// # Errors
/// When the database is newer, different, or refuses.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), SchemaError> {
    // The migrator's own lock, which may be taken twice, around the grants too: grants of one table at once fail with
    // "tuple concurrently updated". After a failure it is kept until the connection ends, as the migrator does.
    connection.lock().await.map_err(SchemaError::Failed)?;
    MIGRATIONS.run_direct(connection).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) => SchemaError::Newer { found, ours: version() },
        MigrateError::VersionMismatch(version) => SchemaError::Different { version },
        MigrateError::Dirty(version) => SchemaError::Dirty { version },
        other => SchemaError::Failed(other),
    })?;
    connection.execute(GRANTS).await?;
    connection.unlock().await.map_err(SchemaError::Failed)
}

/// Creates the group roles of the cluster. Safe to repeat; needs the right to create roles.
///
/// # Errors
/// When the database refuses.
pub async fn create_roles(connection: &mut PgConnection) -> Result<(), SchemaError> {
    connection.execute(ROLES).await.map_err(SchemaError::Roles)?;
    Ok(())
}

/// What [`Access`] needs, by name: [`check`] has to tell it in a database that lacks the objects, too.
const RIGHTS: &str = "
select current_user::text,
       coalesce((select bool_and(has_table_privilege(to_regclass(needed.name), needed.privilege))
                   from (values ('events', 'select', false), ('_sqlx_migrations', 'select', false),
                                ('idempotency_keys', 'select', true), ('idempotency_keys', 'delete', true)
                        ) as needed (name, privilege, to_append)
                  where $1 or not needed.to_append), true)
       and (not $1 or coalesce((select bool_and(has_function_privilege(oid, 'execute'))
                                  from pg_proc where proname = 'append_events' and pronamespace = 'public'::regnamespace), true))";

/// Checks that the database is at this release's version, neither older nor newer, and that we may use it.
///
/// # Errors
/// When it is not, or cannot be asked.
pub async fn check(connection: &mut PgConnection, access: Access) -> Result<(), SchemaError> {
    let table: Option<String> =
        sqlx::query_scalar("select to_regclass('_sqlx_migrations')::text").fetch_one(&mut *connection).await?;
    if table.is_none() {
        return Err(SchemaError::Older { found: 0, ours: version() });
    }
    let (user, allowed): (String, bool) =
        sqlx::query_as(RIGHTS).bind(access == Access::Append).fetch_one(&mut *connection).await?;
    if !allowed {
        let (what, group) = match access {
            Access::Read => ("read", "config_api_reader"),
            Access::Append => ("append to", "config_api_writer"),
        };
        return Err(SchemaError::MissingRight { user, what, group });
    }
    if let Some(version) = connection.dirty_version().await.map_err(SchemaError::Failed)? {
        return Err(SchemaError::Dirty { version });
    }
    let applied = connection.list_applied_migrations().await.map_err(SchemaError::Failed)?;
    let found = applied.iter().map(|migration| migration.version).max().unwrap_or(0);
    if found > version() {
        return Err(SchemaError::Newer { found, ours: version() });
    }
    for ours in MIGRATIONS.iter() {
        match applied.iter().find(|applied| applied.version == ours.version) {
            None => return Err(SchemaError::Older { found, ours: version() }),
            Some(applied) if applied.checksum != ours.checksum => {
                return Err(SchemaError::Different { version: ours.version });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Connects and checks, for the start of a service. A database that is not up yet is waited for, up to `limit`.
///
/// # Errors
/// As [`check`]; and when the database is out of reach.
pub async fn check_at(options: &PgConnectOptions, access: Access, limit: Duration) -> Result<(), SchemaError> {
    let mut connection = database::connect_when_up(options, limit).await?;
    check(&mut connection, access).await?;
    Ok(connection.close().await?)
}

/// Connects and migrates: `command-service migrate`, and the start of the standalone. A database that is not up yet is
/// waited for, up to `limit`.
///
/// # Errors
/// When the database is out of reach, newer, different, or refuses.
pub async fn migrate_at(options: &PgConnectOptions, roles: bool, limit: Duration) -> Result<(), SchemaError> {
    let mut connection = database::connect_when_up(options, limit).await?;
    // A migration may take its time, and so may that of another process, which is waited for.
    connection.execute("set statement_timeout = 0").await?;
    if roles {
        create_roles(&mut connection).await?;
    }
    migrate(&mut connection).await?;
    Ok(connection.close().await?)
}
