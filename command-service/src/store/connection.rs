//! A connection that is kept between uses. One that was idle may be dead: that is asked before anything is sent on it whose
//! outcome would then be unknown.

use std::{io, time::Duration};

use shared::{
    metrics::{ConnectionMetrics, ErrorKind},
    telemetry::spans::TraceSpan,
};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::{Instant, timeout};

/// How long a connection that worked is taken to work.
const TRUSTED: Duration = Duration::from_secs(1);

/// A connection, by whichever driver.
pub(super) trait Link: Sized + Send {
    /// Connects.
    fn open(options: &PgConnectOptions) -> impl Future<Output = Result<Self, sqlx::Error>> + Send;

    /// Whether it is known to have ended; not every driver does.
    fn is_closed(&self) -> bool;

    /// Whether the server answers.
    fn ping(&mut self) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

impl Link for PgConnection {
    fn open(options: &PgConnectOptions) -> impl Future<Output = Result<Self, sqlx::Error>> + Send {
        options.connect()
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn ping(&mut self) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        Connection::ping(self)
    }
}

/// Opened when it is needed, and again when it was not given back.
pub(super) struct Connections<L = PgConnection> {
    database: PgConnectOptions,
    /// Longest that one exchange with the server may take.
    limit: Duration,
    kept: Option<(L, Instant)>,
    was_open: bool,
    metrics: ConnectionMetrics,
}

impl<L: Link> Connections<L> {
    pub(super) fn new(database: PgConnectOptions, limit: Duration, metrics: ConnectionMetrics) -> Self {
        Self { database, limit, kept: None, was_open: false, metrics }
    }

    /// Says in a span where the server is.
    pub(super) fn tell_place(&self, span: &mut TraceSpan) {
        if span.is_recorded() {
            let port = self.database.get_port();
            if let Some(socket) = self.database.get_socket() {
                span.set("network.transport", "unix");
                span.set("server.address", &*socket.join(format!(".s.PGSQL.{port}")).to_string_lossy());
            } else {
                span.set("server.address", self.database.get_host());
                span.set("server.port", i64::from(port));
            }
            span.set("db.namespace", self.database.get_database().unwrap_or_default());
        }
    }

    /// The kept one, or a new one.
    ///
    /// # Errors
    /// When no server takes it, or not in time.
    pub(super) async fn take(&mut self) -> Result<L, sqlx::Error> {
        if let Some((mut connection, used)) = self.kept.take()
            && !connection.is_closed()
            && (used.elapsed() < TRUSTED || self.bounded(connection.ping()).await.is_ok())
        {
            return Ok(connection);
        }
        let connection = self.bounded(L::open(&self.database)).await?;
        if std::mem::replace(&mut self.was_open, true) {
            self.metrics.reconnected();
        }
        Ok(connection)
    }

    /// Keeps one that works. One whose state is unknown, or whose server is the wrong one, is dropped instead.
    pub(super) fn give_back(&mut self, connection: L) {
        self.kept = Some((connection, Instant::now()));
        self.metrics.works();
    }

    /// Drops the kept one: it has turned out not to work.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// Tells that an exchange did not come to its end.
    pub(super) fn failed(&self, error: &sqlx::Error) {
        self.metrics.failed(ErrorKind::of(error));
    }

    /// An exchange with the server, for as long as it may take.
    ///
    /// # Errors
    /// Its own, or that it took too long.
    pub(super) async fn bounded<T>(
        &self,
        exchange: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        bounded(self.limit, exchange).await
    }
}

/// An exchange with the server, for as long as it may take.
///
/// # Errors
/// Its own, or that it took too long.
pub(super) async fn bounded<T>(
    limit: Duration,
    exchange: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let late = || sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "no answer within the limit"));
    timeout(limit, exchange).await.unwrap_or_else(|_| Err(late()))
}
