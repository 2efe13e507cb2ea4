//! What is older than the ring, from the log: in bounded taking, one at a time, until the stream meets the ring.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use shared::{
    event::UnknownEvent,
    moment::Moment,
    name::ConfigName,
    position::{Fingerprint, Position, PositionToken},
};
use sqlx::{PgPool, Postgres, Row, pool::PoolConnection, postgres::PgRow};
use tokio::time::timeout;
use uuid::Uuid;

use super::{filter::Filter, message::Draft};
use crate::projection::Recorded;

/// Events on a page; more only for a command that has more.
const PAGE_ROWS: i64 = 1_000;

/// Frames after which a page ends, with the command that they end in, in bytes; 1 MiB.
const PAGE_BYTES: usize = 1024 * 1024;

/// Longest that a page may take, the wait for one of the few connections included.
const PAGE_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("the event log is out of reach")]
    Database(#[from] sqlx::Error),
    #[error("the event log does not answer within {} s", PAGE_LIMIT.as_secs())]
    Silent,
    #[error("an event in the log cannot be read")]
    Unreadable(#[from] UnknownEvent),
    /// The event that the stream stands at is no longer there.
    #[error("the event log was rewritten")]
    Rewritten,
}

/// What was read: whole commands.
#[derive(Debug)]
pub(crate) struct Page {
    pub(super) frames: Vec<Bytes>,
    /// The end of the last command.
    pub(super) reached: PositionToken,
}

/// Reads the log for watchers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LogReader(PgPool);

/// Payloads that nobody asked for stay where they are. The event at `$1` comes first: it must still be the same.
const PAGE: &str = "
    select position, aggregate_type, aggregate_id, sequence, event_type, event_version,
           case when taken then payload::text end, metadata::text, recorded_at, command_id, taken
      from events,
           lateral (select position > $1 and position <= $2
                           and (aggregate_id = any($3) or coalesce(starts_with(aggregate_id, $4), false)) as taken) filtered
     where position >= $1
     order by position
     limit $5";

/// The end of the command before the one that has the event behind a position: that position, unless it is within a command.
const COMMAND_START: &str = "
    select position - part - 1 from events where position = $1 + 1";

impl LogReader {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self(pool)
    }

    /// The next page behind `from` for this filter, no further than `to`, where a command ends.
    pub(crate) async fn page(&self, filter: &Filter, from: PositionToken, to: Position) -> Result<Page, LogError> {
        timeout(PAGE_LIMIT, self.read(filter, from, to)).await.map_err(|_| LogError::Silent)?
    }

    async fn read(&self, filter: &Filter, from: PositionToken, to: Position) -> Result<Page, LogError> {
        let mut connection = self.0.acquire().await?;
        let start: Option<i64> = sqlx::query_scalar(COMMAND_START)
            .bind(from.position.to_parameter())
            .fetch_optional(&mut *connection)
            .await?;
        let start = start.map_or(from.position, Position::from_column);
        let from = if start < from.position { PositionToken { position: start, fingerprint: None } } else { from };
        let mut connection = Reading { connection, to_its_end: false };
        let mut rows = PAGE_ROWS;
        loop {
            if let Some(page) = read_rows(&mut connection, filter, from, to, rows).await? {
                return Ok(page);
            }
            // One command is longer than the page.
            rows = rows.saturating_mul(2);
        }
    }
}

/// A connection that is being read. Dropped before the end it is closed: the server is still sending.
struct Reading {
    connection: PoolConnection<Postgres>,
    to_its_end: bool,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.to_its_end {
            self.connection.close_on_drop();
        }
    }
}

/// `None` when no command ends within so many rows.
async fn read_rows(
    reading: &mut Reading,
    filter: &Filter,
    from: PositionToken,
    to: Position,
    rows: i64,
) -> Result<Option<Page>, LogError> {
    reading.to_its_end = false;
    let names: Vec<&str> = filter.names().iter().map(ConfigName::as_str).collect();
    let query = sqlx::query(PAGE).bind(from.position.to_parameter()).bind(to.to_parameter());
    let mut stream = query.bind(names).bind(filter.prefix()).bind(rows + 1).fetch(&mut *reading.connection);
    let mut taking = Taking { page: Page { frames: vec![], reached: from }, bytes: 0, read: 0, open: None };
    let mut anchored = from.position == Position::ZERO;
    while let Some(row) = stream.try_next().await? {
        let (event, taken) = (recorded(&row)?, row.try_get(10)?);
        if !anchored {
            let same = from.fingerprint.is_none_or(|ours| ours == Fingerprint::of(event.command_id));
            if event.position != from.position || !same {
                return Err(LogError::Rewritten);
            }
            anchored = true;
        } else if event.position <= to && taking.take(&event, taken)? {
            // Full: the rest is not waited for.
            return Ok(Some(taking.page));
        }
    }
    reading.to_its_end = true;
    // `to` is where a command ends. Short of it, the last command of the page may go on.
    if taking.open.as_ref().is_some_and(|(_, last)| last.position >= to) {
        taking.close();
    }
    let more = taking.read == rows;
    if taking.page.reached.position > from.position {
        return Ok(Some(taking.page));
    }
    // The log was longer when it was published.
    if more { Ok(None) } else { Err(LogError::Rewritten) }
}

/// A page that is being put together.
struct Taking {
    page: Page,
    bytes: usize,
    read: i64,
    /// The command whose end was not seen yet, and its last event so far.
    open: Option<(Draft, PositionToken)>,
}

impl Taking {
    /// Takes the next event; whether the page is full, without it.
    fn take(&mut self, event: &Recorded<'_>, taken: bool) -> Result<bool, UnknownEvent> {
        self.read += 1;
        if self.open.as_ref().is_some_and(|(draft, _)| !draft.goes_on_with(event)) {
            self.close();
            if self.bytes >= PAGE_BYTES {
                return Ok(true);
            }
        }
        let (draft, last) = self.open.get_or_insert_with(|| (Draft::of(event), PositionToken::ZERO));
        *last = PositionToken::new(event.position, event.command_id);
        if taken {
            draft.push(event)?;
        } else {
            draft.skip(event);
        }
        Ok(false)
    }

    fn close(&mut self) {
        let Some((draft, last)) = self.open.take() else { return };
        self.page.reached = last;
        if let Some(message) = draft.finish() {
            let frame = message.whole();
            self.bytes += frame.len();
            self.page.frames.push(frame);
        }
    }
}

fn recorded(row: &PgRow) -> Result<Recorded<'_>, sqlx::Error> {
    Ok(Recorded {
        position: Position::from_column(row.try_get(0)?),
        aggregate_type: row.try_get(1)?,
        aggregate_id: row.try_get(2)?,
        sequence: u64::try_from(row.try_get::<i64, _>(3)?).unwrap_or(0),
        event_type: row.try_get(4)?,
        event_version: row.try_get(5)?,
        payload: row.try_get::<Option<&str>, _>(6)?.unwrap_or_default(),
        metadata: row.try_get(7)?,
        recorded_at: Moment(row.try_get::<DateTime<Utc>, _>(8)?),
        command_id: row.try_get::<Uuid, _>(9)?,
    })
}

#[cfg(test)]
mod tests {
    use shared::event::AGGREGATE_TYPE;

    use super::*;

    /// What is not taken yet is read again: the page is no larger than its limit and one command.
    #[test]
    fn a_page_ends_with_the_command_that_fills_it() {
        let payload = format!("{{\"value\":\"{}\"}}", "x".repeat(PAGE_BYTES / 3));
        let event = |position: u64| Recorded {
            position: Position(position),
            aggregate_type: AGGREGATE_TYPE,
            aggregate_id: "a",
            sequence: position,
            event_type: "ConfigValueSet",
            event_version: "1.0",
            payload: &payload,
            metadata: "{}",
            recorded_at: "2024-01-15T10:30:00Z".parse().unwrap(),
            command_id: Uuid::from_u128(u128::from(position.div_ceil(2))),
        };
        let page = Page { frames: vec![], reached: PositionToken::ZERO };
        let mut taking = Taking { page, bytes: 0, read: 0, open: None };
        let full = (1..10).find(|position| taking.take(&event(*position), true).unwrap());
        assert_eq!((full, taking.page.reached.position, taking.page.frames.len()), (Some(5), Position(4), 2));
    }
}
