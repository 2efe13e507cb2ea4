//! One page of the log, read in the order of positions and folded as it comes in.
//!
//! **Safe position**: appends become visible in the order of their positions, without a hole (`migrations/0004`), so every
//! event that is read here may be applied at once; a fold at position N has everything up to N. Should a position be
//! missing, that rule was broken, and nothing behind the hole is applied.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use shared::{moment::Moment, position::Position};
use sqlx::{Row, postgres::PgRow};
use tokio::time::timeout;
use uuid::Uuid;

use super::link::{ANSWER_LIMIT, Link, LinkError};
use crate::projection::{Fault, Fold, Recorded};

/// Rows that one query asks for: so many are applied at most before readers see them.
pub(super) const PAGE_ROWS: i64 = 5_000;

/// Names, payloads and metadata that are applied at most before readers see them, in bytes; 8 MiB.
pub(super) const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How a page ended.
#[derive(Debug)]
pub(super) enum PageEnd {
    /// The log may have more.
    Full,
    /// The fold is at the end of the log.
    Drained,
    /// The event at the fold's position is no longer there: the log was rewritten.
    Rewritten,
    /// The log cannot be applied behind the fold's position.
    Faulty(Fault),
}

/// The event at the fold's own position comes first, without its payload: that it is still the same is seen in the same
/// snapshot of the database as the events behind it.
const PAGE: &str = "
    select position, aggregate_type, aggregate_id, sequence, event_type, event_version,
           case when position > $1 then payload::text end,
           case when position > $1 then metadata::text end,
           recorded_at, command_id
      from events
     where position >= $1
     order by position
     limit $2";

/// Whoever folds a page.
pub(super) trait Reader {
    /// What it folds into.
    fn fold(&self) -> &Fold;

    /// Applies the next event. `goes_on`: the next one is, or may be, of the same command.
    fn apply(&mut self, event: &Recorded<'_>, goes_on: bool) -> Result<(), Fault>;

    /// A full batch is applied; the page goes on.
    fn batch(&mut self) {}

    /// The log has nothing more: what was applied ends where a command does.
    fn drained(&mut self) {}
}

/// A replay: nobody sees it before it is at the log's end.
impl Reader for Fold {
    fn fold(&self) -> &Fold {
        self
    }

    fn apply(&mut self, event: &Recorded<'_>, _goes_on: bool) -> Result<(), Fault> {
        Self::apply(self, event)
    }
}

/// Folds up to `rows` events, one at a time: what does not fit into a batch is never held. The caller publishes what is
/// behind the last batch.
pub(super) async fn read(link: &mut Link, reader: &mut impl Reader, rows: i64) -> Result<PageEnd, LinkError> {
    let mut anchored = reader.fold().anchor().is_none();
    let limit = if anchored { rows } else { rows + 1 };
    let position = reader.fold().position();
    let mut stream = sqlx::query(PAGE).bind(position.to_parameter()).bind(limit).fetch(&mut link.listener);
    let mut page = Page { reader, bytes: 0, fault: None };
    // One row behind: whether a command goes on is told by the row behind it.
    let (mut read, mut held) = (0, None);
    while let Some(row) = timeout(ANSWER_LIMIT, stream.try_next()).await.map_err(|_| LinkError::Silent)?? {
        read += 1;
        let command_id: Uuid = row.try_get(9)?;
        if !anchored {
            anchored = true;
            if !page.reader.fold().continues(Some((Position::from_column(row.try_get(0)?), command_id))) {
                return Ok(PageEnd::Rewritten);
            }
            continue;
        }
        if let Some((row, its)) = held.replace((row, command_id)) {
            page.apply(&row, its == command_id)?;
        }
    }
    let drained = anchored && read < limit;
    if let Some((row, _)) = held {
        page.apply(&row, !drained)?;
    }
    Ok(match page.fault {
        Some(fault) => PageEnd::Faulty(fault),
        None if !anchored => PageEnd::Rewritten,
        None if drained => {
            page.reader.drained();
            PageEnd::Drained
        }
        None => PageEnd::Full,
    })
}

/// A page being folded.
struct Page<'a, R> {
    reader: &'a mut R,
    /// Since the last batch.
    bytes: usize,
    fault: Option<Fault>,
}

impl<R: Reader> Page<'_, R> {
    /// The rest of a faulty page is read to its end: the connection must be free for the next query.
    fn apply(&mut self, row: &PgRow, goes_on: bool) -> Result<(), sqlx::Error> {
        if self.fault.is_some() {
            return Ok(());
        }
        let event = recorded(row)?;
        self.fault = self.reader.apply(&event, goes_on).err();
        self.bytes += event.bytes();
        if self.bytes >= BATCH_BYTES {
            self.bytes = 0;
            self.reader.batch();
        }
        Ok(())
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
        payload: row.try_get(6)?,
        metadata: row.try_get(7)?,
        recorded_at: Moment(row.try_get::<DateTime<Utc>, _>(8)?),
        command_id: row.try_get::<Uuid, _>(9)?,
    })
}
