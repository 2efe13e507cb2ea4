//! Changes between two positions, name by name: a state is what was changed since the beginning.
//!
//! Names are searched in one of two ways (`migrations/0007_past_states.sql`): among the events of the range when it is short,
//! else by a skip scan over all names. Either way a page costs look-ups for each name that is looked at, and nothing for the
//! length of the log, as long as it holds configurations only: streams of other aggregates are walked between them.

use std::time::Duration;

use shared::{
    event::{AGGREGATE_TYPE, ConfigValueEvent},
    position::Position,
    value::ConfigJson,
};
use sqlx::{Row, postgres::PgRow};
use tokio::time::Instant;

use super::{PastError, reading::Reading};

/// Longest range, in events, in which names are searched by reading it: about 20 ms for a page.
const WALK_EVENTS: u64 = 20_000;

/// Names that one statement looks at; about 50 ms.
const PIECE_NAMES: i32 = 1_000;

/// After this long a page ends where it is, though it is not full: few of the names that it looked at have what is asked for.
const PAGE_TIME: Duration = Duration::from_secs(5);

/// What is wanted of a state or a difference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Names that begin with it.
    pub(crate) prefix: &'a str,
    /// Names behind it.
    pub(crate) after: Option<&'a str>,
    /// Most entries on a page; 1 or more.
    pub(crate) limit: u16,
    /// Most bytes of payloads and metadata on a page, but for its last entry.
    pub(crate) bytes: usize,
    /// Without, nobody reads them.
    pub(crate) values: bool,
}

/// A page, by name.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) changes: Vec<Change>,
    /// Where the next page begins: behind this name. `None` when there is nothing more.
    pub(crate) next: Option<String>,
}

/// What a name had at the end of the range, and at its beginning.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) name: String,
    pub(crate) is: Version,
    /// `None` when it had never been set.
    pub(crate) was: Option<Version>,
    /// Of the event that made it what it is.
    pub(crate) metadata: String,
}

/// A version of a name.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) version: u64,
    pub(crate) content: Content,
}

/// What a version says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Value(ConfigJson),
    /// It has a value, which nobody asked for.
    Unread,
    Deleted,
}

impl Version {
    /// The value; `None` when it was deleted, or not asked for.
    pub(crate) fn value(&self) -> Option<&ConfigJson> {
        match &self.content {
            Content::Value(value) => Some(value),
            Content::Unread | Content::Deleted => None,
        }
    }

    fn has_value(&self) -> bool {
        self.content != Content::Deleted
    }
}

/// The state at a position, a page of it: names that had a value, in the order of their bytes.
pub(crate) async fn state_at(log: Reading, at: Position, wanted: &Wanted<'_>) -> Result<Page, PastError> {
    gather(log, (Position::ZERO, at), wanted, |change| change.is.has_value()).await
}

/// What is another at `to` than it was at `from`, a page of it. What was set and deleted between them is not told.
pub(crate) async fn between(
    log: Reading,
    from: Position,
    to: Position,
    wanted: &Wanted<'_>,
) -> Result<Page, PastError> {
    let keep = |change: &Change| change.is.has_value() || change.was.as_ref().is_some_and(Version::has_value);
    gather(log, (from, to), wanted, keep).await
}

async fn gather(
    mut log: Reading,
    range: (Position, Position),
    wanted: &Wanted<'_>,
    keep: impl Fn(&Change) -> bool,
) -> Result<Page, PastError> {
    let until = Instant::now() + PAGE_TIME;
    let (limit, mut room) = (usize::from(wanted.limit), wanted.bytes);
    let (mut page, mut after) = (Page::default(), wanted.after.map(str::to_owned));
    loop {
        // One more than the page has room for: whether there is a next page is then known.
        let missing = limit + 1 - page.changes.len();
        let piece = piece(&mut log, range, wanted, after.as_deref(), (missing, room)).await?;
        for (change, bytes) in piece.changes {
            room = room.saturating_sub(bytes);
            if keep(&change) {
                page.changes.push(change);
            }
        }
        if page.changes.len() > limit {
            page.changes.truncate(limit);
            page.next = page.changes.last().map(|change| change.name.clone());
            break;
        }
        page.next = piece.next;
        if page.next.is_none() || room == 0 || Instant::now() >= until {
            break;
        }
        after.clone_from(&page.next);
    }
    log.ended();
    Ok(page)
}

/// What one statement gave: changes with their bytes, and where to go on.
#[derive(Default)]
struct Piece {
    changes: Vec<(Change, usize)>,
    next: Option<String>,
}

async fn piece(
    log: &mut Reading,
    (from, to): (Position, Position),
    wanted: &Wanted<'_>,
    after: Option<&str>,
    (changes, bytes): (usize, usize),
) -> Result<Piece, PastError> {
    let rows = sqlx::query(
        "select name, is_sequence, is_type, is_version, is_payload, is_metadata, was_sequence, was_type, was_version,
                was_payload
           from changes_between($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    );
    let rows = rows
        .bind(AGGREGATE_TYPE)
        .bind(from.to_parameter())
        .bind(to.to_parameter())
        .bind(wanted.prefix)
        .bind(after)
        .bind(to.0.saturating_sub(from.0) <= WALK_EVENTS)
        .bind(wanted.values)
        .bind(PIECE_NAMES)
        .bind(i32::try_from(changes).unwrap_or(i32::MAX))
        .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
        .fetch_all(&mut **log)
        .await?;
    let mut piece = Piece::default();
    for row in rows {
        match version(&row, 1)? {
            Some(is) => piece.changes.push(change(&row, is)?),
            None => piece.next = Some(row.try_get(0)?),
        }
    }
    Ok(piece)
}

fn change(row: &PgRow, is: Version) -> Result<(Change, usize), PastError> {
    let (name, metadata, was) = (row.try_get(0)?, row.try_get::<String, _>(5)?, version(row, 6)?);
    let payload = |column| Ok::<_, sqlx::Error>(row.try_get::<Option<&str>, _>(column)?.map_or(0, str::len));
    let bytes = metadata.len() + payload(4)? + payload(9)?;
    Ok((Change { name, is, was, metadata }, bytes))
}

/// The version in four columns: sequence, type, version of the type, payload; `None` when they are null.
fn version(row: &PgRow, first: usize) -> Result<Option<Version>, PastError> {
    let Some(sequence) = row.try_get::<Option<i64>, _>(first)? else { return Ok(None) };
    let (event_type, event_version): (&str, &str) = (row.try_get(first + 1)?, row.try_get(first + 2)?);
    let content = match row.try_get::<Option<&str>, _>(first + 3)? {
        Some(payload) => match ConfigValueEvent::from_stored(event_type, event_version, payload)? {
            ConfigValueEvent::ConfigValueSet { value } => Content::Value(value),
            ConfigValueEvent::ConfigValueDeleted => Content::Deleted,
        },
        None if ConfigValueEvent::gives_value(event_type, event_version)? => Content::Unread,
        None => Content::Deleted,
    };
    Ok(Some(Version { version: u64::try_from(sequence).unwrap_or(0), content }))
}
