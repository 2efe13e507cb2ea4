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

/// Folds up to `rows` events, one at a time: what does not fit into a batch is never held. `batch` is called with a full
/// batch applied; the caller publishes what is behind the last one.
pub(super) async fn read(
    link: &mut Link,
    fold: &mut Fold,
    rows: i64,
    mut batch: impl FnMut(&Fold),
) -> Result<PageEnd, LinkError> {
    let mut anchored = fold.anchor().is_none();
    let limit = if anchored { rows } else { rows + 1 };
    let mut stream = sqlx::query(PAGE).bind(fold.position().to_parameter()).bind(limit).fetch(&mut link.listener);
    let (mut read, mut bytes, mut fault) = (0, 0, None);
    while let Some(row) = timeout(ANSWER_LIMIT, stream.try_next()).await.map_err(|_| LinkError::Silent)?? {
        read += 1;
        if !anchored {
            anchored = true;
            if !fold.continues(Some((Position::from_column(row.try_get(0)?), row.try_get(9)?))) {
                return Ok(PageEnd::Rewritten);
            }
            continue;
        }
        // The rest of a faulty page is read to its end: the connection must be free for the next query.
        if fault.is_none() {
            let event = recorded(&row)?;
            fault = fold.apply(&event).err();
            bytes += event.bytes();
        }
        if bytes >= BATCH_BYTES {
            bytes = 0;
            batch(fold);
        }
    }
    Ok(match fault {
        Some(fault) => PageEnd::Faulty(fault),
        None if !anchored => PageEnd::Rewritten,
        None if read == limit => PageEnd::Full,
        None => PageEnd::Drained,
    })
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
