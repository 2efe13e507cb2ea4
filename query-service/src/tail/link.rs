//! The tail's one connection. Everything that it does is bounded, so that a link that died silently is noticed.

use std::{iter, time::Duration};

use shared::{
    database::{self, Access},
    handover::Taker,
    metrics::ErrorKind,
    position::Position,
    schema::{self, SchemaError},
};
use sqlx::{
    Acquire, Connection, PgConnection,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::Options;
use crate::config::Listening;

/// Longest that the database may be silent when it was asked. With the poll's interval less than the heartbeat's 5 s.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// Where appends notify; the payload is the log's head.
const CHANNEL: &str = "events";

/// `LISTEN` on a standby.
const READ_ONLY_SQL_TRANSACTION: &str = "25006";

/// The log is out of reach, or not ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the database does not answer within {} s", ANSWER_LIMIT.as_secs())]
    Silent,
    #[error("the connection to the event log was closed")]
    Closed,
    #[error("the event log cannot be read")]
    Database(#[from] sqlx::Error),
    #[error("the database's schema is not this release's")]
    Schema(#[source] SchemaError),
}

impl LinkError {
    /// As metrics tell it.
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Silent => ErrorKind::Timeout,
            Self::Closed => ErrorKind::Connection,
            Self::Database(error) => ErrorKind::of(error),
            Self::Schema(_) => ErrorKind::Query,
        }
    }

    /// As the old system's log lines end.
    pub(super) fn short_cause(&self) -> String {
        match self {
            Self::Silent => "timeout".to_owned(),
            Self::Closed => "connection_closed".to_owned(),
            Self::Database(error) => database::short_cause(error),
            Self::Schema(_) => "wrong_schema".to_owned(),
        }
    }
}

/// Why the tail goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// An append notified; the log has come at least so far.
    Hint(Position),
    /// Nothing did: time to look.
    Poll,
    /// This process appended something itself.
    Handed,
}

/// Whether news is hinted at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hints {
    Delivered,
    /// By a setting of ours.
    Off,
    /// This process alone is expected to append.
    NotNeeded,
    /// The database is a standby.
    Refused,
}

/// An open connection to the log, registered for hints where they are wanted and delivered.
pub(super) struct Link {
    pub(super) listener: PgListener,
    pub(super) hints: Hints,
}

impl Link {
    /// Connects, checks the schema, and registers for hints where they are wanted, before anything is read.
    pub(super) async fn open(options: &Options) -> Result<Self, LinkError> {
        // The pool behind a listener retries by itself and then says only that time is up; a connection says why.
        let probe = bounded(PgConnection::connect_with(&options.database)).await?;
        bounded(probe.close()).await?;
        let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
        let pool = pool.acquire_timeout(ANSWER_LIMIT).connect_lazy_with(options.database.clone());
        let mut listener = bounded(PgListener::connect_with(&pool)).await?;
        listener.eager_reconnect(false);
        let checked = async { Ok(schema::check((&mut listener).acquire().await?, Access::Read).await) };
        bounded(checked).await?.map_err(|error| match error {
            SchemaError::Database(error) => LinkError::Database(error),
            SchemaError::Failed(sqlx::migrate::MigrateError::Execute(error)) => LinkError::Database(error),
            error => LinkError::Schema(error),
        })?;
        let hints = match options.listening {
            Listening::On => listen(&mut listener).await?,
            Listening::Off => Hints::Off,
            Listening::NotNeeded => Hints::NotNeeded,
        };
        Ok(Self { listener, hints })
    }

    /// Forgets the hints that came so far: whatever they hinted at is seen by a query from now on.
    pub(super) fn forget_hints(&mut self) {
        while self.listener.next_buffered().is_some() {}
    }

    /// The last position of the log.
    pub(super) async fn head(&mut self) -> Result<Position, LinkError> {
        let head = sqlx::query_scalar("select position from events order by position desc limit 1");
        let head: Option<i64> = bounded(head.fetch_optional(&mut self.listener)).await?;
        Ok(head.map_or(Position::ZERO, Position::from_column))
    }

    /// Waits for a hint, until then at most. Several hints are one; those of what is `handed` over anyhow are ignored.
    pub(super) async fn wait(&mut self, until: Instant, handed: &Taker) -> Result<Wake, LinkError> {
        loop {
            let Ok(hint) = timeout_at(until, self.listener.try_recv()).await else { return Ok(Wake::Poll) };
            let first = hint?.ok_or(LinkError::Closed)?;
            let hints = iter::once(first).chain(iter::from_fn(|| self.listener.next_buffered()));
            let hints = hints.map(|hint| (hint.process_id(), hint.payload().parse().unwrap_or(0)));
            if let Some(head) = newest(hints, |server_process| handed.is_told_by(server_process)) {
                return Ok(Wake::Hint(head));
            }
        }
    }
}

/// Of hints, each a server process and the head that it told of, the newest that is not `ignored`. All of them are taken.
fn newest(hints: impl Iterator<Item = (u32, u64)>, ignored: impl Fn(u32) -> bool) -> Option<Position> {
    hints.filter(|(server_process, _)| !ignored(*server_process)).last().map(|(_, head)| Position(head))
}

async fn listen(listener: &mut PgListener) -> Result<Hints, LinkError> {
    match bounded(listener.listen(CHANNEL)).await {
        Ok(()) => Ok(Hints::Delivered),
        Err(LinkError::Database(sqlx::Error::Database(error)))
            if error.code().as_deref() == Some(READ_ONLY_SQL_TRANSACTION) =>
        {
            Ok(Hints::Refused)
        }
        Err(error) => Err(error),
    }
}

/// Bounds one exchange with the database.
async fn bounded<T>(exchange: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, LinkError> {
    Ok(timeout(ANSWER_LIMIT, exchange).await.map_err(|_| LinkError::Silent)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_of_others_counts_wherever_it_stands_among_those_that_are_ignored() {
        let newest = |hints: &[(u32, u64)]| newest(hints.iter().copied(), |server_process| server_process == 7);
        assert_eq!(newest(&[]), None);
        assert_eq!(newest(&[(7, 1), (7, 2)]), None);
        assert_eq!(newest(&[(8, 1), (7, 2)]), Some(Position(1)));
        assert_eq!(newest(&[(7, 1), (8, 2), (9, 3), (7, 4)]), Some(Position(3)));
    }
}
