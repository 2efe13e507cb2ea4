//! One of the connections of a copy: reads every so many-th range, and understands its events.

use std::{
    mem,
    sync::mpsc::{Receiver, SyncSender},
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use shared::{event::UnknownEvent, position::Position};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{BATCH_BYTES, Ranges, row};
use crate::{
    projection::Batch,
    tail::{
        Options,
        link::{ANSWER_LIMIT, LinkError},
    },
};

/// Settings of a lane's session. A range is read by the index in its order, whatever the statistics say: a sort would hold
/// it all. It may take long, because a lane that is ahead waits; its client's death is noticed by keepalives.
const SESSION: [(&str, &str); 5] = [
    ("statement_timeout", "0"),
    ("enable_sort", "off"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
];

/// From a lane to the fold.
#[derive(Debug)]
pub(super) enum Message {
    /// A range begins. Which command wrote the event at its first position, which the range before has too; `None` when there
    /// is no event.
    Begin { anchor: Option<Uuid> },
    /// Events behind the first position.
    Batch(Batch),
    /// An event of a newer release; the lane is over.
    Unknown { position: Position, source: UnknownEvent },
    /// The range's.
    End,
    /// There is no connection for this lane.
    Refused(sqlx::Error),
    /// The database is lost.
    Failed(LinkError),
}

/// Why a lane ends before its last range.
enum Ended {
    /// Nobody wants to know more.
    Stopped,
    Refused(sqlx::Error),
    Failed(LinkError),
}

impl From<LinkError> for Ended {
    fn from(error: LinkError) -> Self {
        Self::Failed(error)
    }
}

impl From<sqlx::Error> for Ended {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// One message for each row.
type Rows<'c> = BoxStream<'c, Result<Bytes, sqlx::Error>>;

/// Reads ranges.
pub(super) struct Lane {
    database: PgConnectOptions,
    ranges: Ranges,
    /// The number of its first range, and how many further on the next one is.
    turn: (usize, usize),
    to: SyncSender<Message>,
    folded: Receiver<Batch>,
    stop: CancellationToken,
}

impl Lane {
    pub(super) fn new(
        options: &Options,
        ranges: Ranges,
        turn: (usize, usize),
        (to, folded): (SyncSender<Message>, Receiver<Batch>),
        stop: CancellationToken,
    ) -> Self {
        let database = options.database.clone().options(SESSION);
        Self { database, ranges, turn, to, folded, stop }
    }

    /// To its end, on this thread.
    pub(super) fn run(self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let ended = match runtime {
            Ok(runtime) => runtime.block_on(self.read()),
            Err(error) => Err(LinkError::from(sqlx::Error::Io(error)).into()),
        };
        let last = match ended {
            Ok(()) | Err(Ended::Stopped) => return,
            Err(Ended::Refused(error)) => Message::Refused(error),
            Err(Ended::Failed(error)) => Message::Failed(error),
        };
        // Nobody may want to know.
        let _unheard = self.to.send(last);
    }

    async fn read(&self) -> Result<(), Ended> {
        let mut connection = self.connect().await?;
        let (first, step) = self.turn;
        for number in (0..self.ranges.count()).skip(first).step_by(step) {
            self.copy(&mut connection, self.ranges.range(number)).await?;
        }
        // The server notices by itself.
        drop(connection);
        Ok(())
    }

    async fn connect(&self) -> Result<PgConnection, Ended> {
        let connecting = timeout(ANSWER_LIMIT, PgConnection::connect_with(&self.database));
        let connected = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Ended::Stopped),
            connected = connecting => connected.map_err(|_| LinkError::Silent)?,
        };
        connected.map_err(|error| match error {
            error @ sqlx::Error::Database(_) => Ended::Refused(error),
            error => error.into(),
        })
    }

    async fn copy(&self, connection: &mut PgConnection, (first, last): (Position, Position)) -> Result<(), Ended> {
        let mut rows = self.begin(connection, &row::query((first, last))).await?;
        let (mut begun, mut batch) = (false, self.batch());
        while let Some(row) = self.next(&mut rows).await? {
            let Some(event) = row::event(&row)? else { continue };
            if !mem::replace(&mut begun, true) {
                let anchor = (event.position == first).then_some(event.command_id);
                self.send(Message::Begin { anchor })?;
                if anchor.is_some() {
                    continue;
                }
            }
            if let Err(source) = batch.push(&event) {
                self.send(Message::Batch(batch))?;
                self.send(Message::Unknown { position: event.position, source })?;
                return Err(Ended::Stopped);
            }
            if batch.bytes() >= BATCH_BYTES {
                self.send(Message::Batch(mem::take(&mut batch)))?;
                batch = self.batch();
            }
        }
        if !begun {
            self.send(Message::Begin { anchor: None })?;
        }
        self.send(Message::Batch(batch))?;
        self.send(Message::End)
    }

    /// An empty one. Memory that is there already costs less than new pages, which the system has to clear.
    fn batch(&self) -> Batch {
        let mut batch = self.folded.try_recv().unwrap_or_default();
        batch.clear();
        batch
    }

    async fn begin<'c>(&self, connection: &'c mut PgConnection, copy: &str) -> Result<Rows<'c>, Ended> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Ended::Stopped),
            rows = timeout(ANSWER_LIMIT, connection.copy_out_raw(copy)) => Ok(rows.map_err(|_| LinkError::Silent)??),
        }
    }

    /// The next row. What has come in already is taken without setting a timer for it.
    async fn next(&self, rows: &mut Rows<'_>) -> Result<Option<Bytes>, Ended> {
        if let Some(row) = rows.next().now_or_never() {
            return Ok(row.transpose()?);
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Ended::Stopped),
            row = timeout(ANSWER_LIMIT, rows.next()) => Ok(row.map_err(|_| LinkError::Silent)?.transpose()?),
        }
    }

    /// Waits until there is room for it: this thread has nothing else to do.
    fn send(&self, message: Message) -> Result<(), Ended> {
        self.to.send(message).map_err(|_unheard| Ended::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::sync_channel, time::Duration};

    use shared::clock::Clock;

    use super::*;
    use crate::{config::Listening, metrics::tests::of_tail};

    /// While it is ahead of the fold it reads nothing, perhaps for longer than a statement may take.
    #[test]
    fn may_take_as_long_as_the_fold_needs() {
        let database = PgConnectOptions::new().options([("statement_timeout", "30s")]);
        let (poll_interval, listening, clock) = (Duration::from_secs(1), Listening::On, Clock::system());
        let options = Options { database, poll_interval, listening, clock, metrics: of_tail() };
        let ranges = Ranges { from: Position::ZERO, target: Position(1) };
        let lane =
            Lane::new(&options, ranges, (0, 1), (sync_channel(1).0, sync_channel(1).1), CancellationToken::new());
        let settings = lane.database.get_options().unwrap();
        let last = settings.rsplit("statement_timeout=").next().unwrap();
        assert_eq!(last.split(' ').next(), Some("0"), "{settings}");
    }
}
