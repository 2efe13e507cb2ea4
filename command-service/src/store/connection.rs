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

/// Opened when it is needed, and again when it was not given back.
pub(super) struct Connections {
    database: PgConnectOptions,
    /// Longest that one exchange with the server may take.
    limit: Duration,
    kept: Option<(PgConnection, Instant)>,
    was_open: bool,
    metrics: ConnectionMetrics,
}

impl Connections {
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
    pub(super) async fn take(&mut self) -> Result<PgConnection, sqlx::Error> {
        if let Some((mut connection, used)) = self.kept.take()
            && (used.elapsed() < TRUSTED || self.bounded(connection.ping()).await.is_ok())
        {
            return Ok(connection);
        }
        let connection = self.bounded(self.database.connect()).await?;
        if std::mem::replace(&mut self.was_open, true) {
            self.metrics.reconnected();
        }
        Ok(connection)
    }

    /// Keeps one that works. One whose state is unknown, or whose server is the wrong one, is dropped instead.
    pub(super) fn give_back(&mut self, connection: PgConnection) {
        self.kept = Some((connection, Instant::now()));
        self.metrics.works();
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
        let late = || sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "no answer within the limit"));
        timeout(self.limit, exchange).await.unwrap_or_else(|_| Err(late()))
    }
}
