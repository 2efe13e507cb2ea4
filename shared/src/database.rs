//! Connections to Postgres, and what its errors mean. Errors are known by SQLSTATE, never by their text.

use std::{str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};

/// Longest wait for a connection from a pool; then the request gets 503.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest that a statement of ours may run in the server.
const STATEMENT_TIMEOUT: &str = "30s";

/// `DATABASE_URL` cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("DATABASE_URL is no Postgres URL; it looks like postgres://user:password@host:5432/database")]
pub struct InvalidUrl(#[source] sqlx::Error);

/// How to reach the database, for pools and for single connections.
///
/// The server is told to notice within about 6 s that a client's machine is gone, so that a lock which its session holds
/// is released.
///
/// # Errors
/// When the URL is malformed.
pub fn connect_options(url: &str, application: &str) -> Result<PgConnectOptions, InvalidUrl> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(InvalidUrl(sqlx::Error::Configuration("its scheme is not postgres".into())));
    }
    let options = PgConnectOptions::from_str(url).map_err(InvalidUrl)?;
    Ok(options
        .application_name(application)
        .options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("tcp_keepalives_idle", "3"),
            ("tcp_keepalives_interval", "1"),
            ("tcp_keepalives_count", "3"),
        ])
        .log_statements(tracing::log::LevelFilter::Trace)
        .log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(5)))
}

/// A pool that opens its connections when they are needed, so that a service can start before its database.
#[must_use]
pub fn pool(options: PgConnectOptions, max_connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A connection that a restart of Postgres closed is replaced, not handed out.
        .test_before_acquire(true)
        .connect_lazy_with(options)
}

/// What a database error means for who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The server is not there, or the connection to it ended. Of a statement under way the outcome is *unknown*.
    ConnectionLost,
    /// The server said no, and has done nothing.
    Refused,
}

/// Tells the two apart.
#[must_use]
pub fn meaning(error: &sqlx::Error) -> Meaning {
    match error {
        sqlx::Error::Database(error) => {
            // 08: connection exceptions. 57P0x: the server ends sessions, also in the middle of a commit; its word that it
            // ended one does not say whether the commit was first.
            let code = error.code().unwrap_or_default();
            if code.starts_with("08") || code.starts_with("57P0") { Meaning::ConnectionLost } else { Meaning::Refused }
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Meaning::ConnectionLost,
        _ => Meaning::Refused,
    }
}

/// The old system's word for why the event store is out of reach, as its log lines end.
#[must_use]
pub fn short_cause(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(error) => error.kind().to_string().replace(' ', "_"),
        sqlx::Error::PoolTimedOut => "timeout".to_owned(),
        sqlx::Error::Database(error) => format!("sqlstate_{}", error.code().unwrap_or_default()),
        _ => "connection_failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_postgres_url_is_one() {
        for url in ["postgres://u:p@localhost:5432/d", "postgresql:///d?host=/run/postgresql"] {
            assert!(connect_options(url, "test").is_ok(), "{url}");
        }
        for url in ["", "localhost", "mysql://localhost/d", "postgres://localhost:notaport/d"] {
            assert!(connect_options(url, "test").is_err(), "{url}");
        }
    }
}
