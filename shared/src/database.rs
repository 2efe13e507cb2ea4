//! Connections to Postgres, and what its errors mean. Errors are known by SQLSTATE, never by their text.

use std::{io, str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};
use tokio::time::{Instant, timeout};

use url::Url;

use crate::{BoxError, backoff::Backoff, telemetry::Chain};

/// Longest wait for a connection from a pool; then the request gets 503.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest that a connection may take to answer before it goes back to its pool; then it is closed. On a link that died
/// silently it would keep its place in the pool until TCP gives up, after a quarter of an hour.
const RETURN_LIMIT: Duration = Duration::from_secs(2);

/// Longest that a statement of ours may run in the server.
const STATEMENT_TIMEOUT: &str = "30s";

/// A statement that takes longer is told. Longer than an append may wait for the log's lock, which tells itself.
const SLOW_STATEMENT: Duration = Duration::from_secs(10);

/// How long a process waits at its start for its database.
pub const STARTUP_WAIT: Duration = Duration::from_secs(60);

/// Longest that one attempt to connect may take; a listener may take the connection and never say a word.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// `DATABASE_URL` cannot be understood. Neither form shows any of it: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum InvalidUrl {
    /// It is another thing.
    #[error("DATABASE_URL is no Postgres URL; it looks like postgres://user:password@host:5432/database")]
    Malformed(#[source] BoxError),
    /// A parameter that means nothing: misspelt, it would be ignored in silence.
    #[error("DATABASE_URL has the parameter `{name}`, which is not known; known: {}", URL_PARAMETERS.join(", "))]
    Parameter {
        /// Its name.
        name: String,
    },
}

/// Parameters of a Postgres URL that the driver knows.
pub(crate) const URL_PARAMETERS: [&str; 15] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-mode",
    "sslcert",
    "sslkey",
    "sslmode",
    "ssl-root-cert",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// How to reach the database, for pools and for single connections.
///
/// The server is told to notice within about 6 s that a client's machine is gone, so that a lock which its session holds
/// is released.
///
/// # Errors
/// When the URL is malformed.
pub fn connect_options(url: &str, application: &str) -> Result<PgConnectOptions, InvalidUrl> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(InvalidUrl::Malformed("its scheme is not postgres".into()));
    }
    let parsed = Url::parse(url).map_err(|error| InvalidUrl::Malformed(error.into()))?;
    let unknown = parsed.query_pairs().find(|(name, _)| !URL_PARAMETERS.contains(&&**name));
    if let Some((name, _)) = unknown {
        return Err(InvalidUrl::Parameter { name: name.into_owned() });
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| InvalidUrl::Malformed(error.into()))?;
    Ok(options
        .application_name(application)
        .options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("tcp_keepalives_idle", "3"),
            ("tcp_keepalives_interval", "1"),
            ("tcp_keepalives_count", "3"),
        ])
        .log_statements(tracing::log::LevelFilter::Trace)
        .log_slow_statements(tracing::log::LevelFilter::Warn, SLOW_STATEMENT))
}

/// Shortest time that an attempt to connect gets.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);

/// A pool that opens its connections when they are needed, so that a service can start before its database.
#[must_use]
pub fn pool(options: PgConnectOptions, max_connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A connection that a restart of Postgres closed is replaced, not handed out.
        .test_before_acquire(true)
        .after_release(|connection, _| Box::pin(still_answers(connection)))
        .connect_lazy_with(options)
}

/// The driver asks the same again when this is answered, but waits for ever.
async fn still_answers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let answer = timeout(RETURN_LIMIT, connection.ping()).await;
    answer.map_err(|_| sqlx::Error::Io(io::ErrorKind::TimedOut.into()))?.map(|()| true)
}

/// Whether a transaction on this connection could write.
///
/// # Errors
/// When the server does not answer.
pub async fn is_writable(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select current_setting('transaction_read_only') = 'off'").fetch_one(connection).await
}

/// What a service does with the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it; it can serve what it has read while the log is away.
    Read,
    /// Appends to it, and can do nothing without it.
    Append,
}

/// No database was named.
#[derive(Debug, thiserror::Error)]
#[error("no database is named; set DATABASE_URL or --database-url to postgres://user:password@host:5432/config_api")]
pub struct NoDatabase;

/// Why there is no connection at the start.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It never came up.
    #[error("the database did not answer within {} s; check DATABASE_URL, and that Postgres runs", .waited.as_secs())]
    NoAnswer {
        /// How long it was waited for.
        waited: Duration,
        /// The last attempt's failure.
        source: sqlx::Error,
    },
    /// It is there and refuses us.
    #[error("the database refuses the connection; {}", remedy(.0))]
    Refused(#[source] sqlx::Error),
}

/// Connects, for the start of a process: a database that is not up yet is waited for, one that refuses us is not.
///
/// # Errors
/// When it does not come up within `limit`, or refuses.
pub async fn connect_when_up(options: &PgConnectOptions, limit: Duration) -> Result<PgConnection, ConnectError> {
    let until = Instant::now() + limit;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut told = false;
    loop {
        let silent = || sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "connected, but no answer"));
        // At least one attempt, which has its time whatever the limit.
        let attempt = until.saturating_duration_since(Instant::now()).clamp(SHORTEST_ATTEMPT, CONNECT_LIMIT);
        let connected = timeout(attempt, PgConnection::connect_with(options)).await;
        let source = match connected.unwrap_or_else(|_| Err(silent())) {
            Ok(connection) => return Ok(connection),
            Err(error) if may_pass(&error) => error,
            Err(refused) => return Err(ConnectError::Refused(refused)),
        };
        if Instant::now() >= until {
            return Err(ConnectError::NoAnswer { waited: limit, source });
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(error = %Chain(&source), limit_s = limit.as_secs(), "Waiting for the database");
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// What to do about a refused connection.
fn remedy(error: &sqlx::Error) -> &'static str {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        Some("28P01" | "28000") => "check user and password in DATABASE_URL, and the server's pg_hba.conf",
        Some("3D000") => "check the database's name in DATABASE_URL, or create it: createdb config_api",
        Some("42501") => "the user lacks the right to connect: grant connect on database … to …",
        _ if matches!(error, sqlx::Error::Tls(_)) => "check sslmode in DATABASE_URL, and whether the server speaks TLS",
        _ => "check DATABASE_URL",
    }
}

/// Whether it may succeed later: the server is not there, starting up, or full.
#[must_use]
pub fn may_pass(error: &sqlx::Error) -> bool {
    const TOO_MANY_CONNECTIONS: &str = "53300";
    // A server that speaks no TLS will not learn it.
    if matches!(error, sqlx::Error::Tls(_)) {
        return false;
    }
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    meaning(error) == Meaning::ConnectionLost || code.as_deref() == Some(TOO_MANY_CONNECTIONS)
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
        let misspelt = connect_options("postgres://u:secret@h/d?pasword=hunter2", "test").unwrap_err().to_string();
        assert!(misspelt.contains("`pasword`") && misspelt.contains("password"), "{misspelt}");
        assert!(!misspelt.contains("hunter2") && !misspelt.contains("secret"), "{misspelt}");
    }
}
