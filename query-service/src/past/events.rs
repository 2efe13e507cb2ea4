//! The log itself: its events in the order of their positions, each a line of JSON.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::{
    event::{AGGREGATE_TYPE, ConfigValueEvent},
    moment::Moment,
    position::Position,
    value::ConfigJson,
};
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use super::{PastError, reading::Reading};

/// Most events that are read at once.
const PIECE_EVENTS: u16 = 1_000;

/// Lines that end a piece, but for its last event, in bytes; 1 MiB.
const PIECE_BYTES: usize = 1024 * 1024;

/// The event at the cursor's own position comes first, without its payload: that it is still the same is seen in the same
/// snapshot of the database as the events behind it.
const PIECE: &str = "
    select position, aggregate_type, aggregate_id, sequence, event_type, event_version,
           case when position > $1 then payload::text end,
           case when position > $1 then metadata::text end,
           recorded_at, command_id, part
      from events
     where position >= $1
     order by position
     limit $2";

/// How far somebody has read the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The last position that was read; 0 before the first.
    pub(crate) position: Position,
    /// Which command wrote the event there; `None` before the first.
    pub(crate) command_id: Option<Uuid>,
    /// How many events are likely to fit into the next piece.
    fitting: u16,
}

/// What was read behind a cursor.
#[derive(Debug)]
pub(crate) struct Lines {
    /// Each ends with a newline.
    pub(crate) text: Vec<u8>,
    pub(crate) events: u64,
    /// The log has no more, for now.
    pub(crate) drained: bool,
    /// The event at the cursor is another now, or gone: a failover lost it, or the log was restored. Nothing was read.
    pub(crate) rewritten: bool,
}

/// One event of the log.
#[derive(Serialize)]
struct Line<'a> {
    position: Position,
    aggregate_type: &'a str,
    name: &'a str,
    version: i64,
    event_type: &'a str,
    event_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<ConfigJson>,
    /// Of an event that this release does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    metadata: Box<RawValue>,
    recorded_at: Moment,
    command_id: Uuid,
    part: i16,
}

impl Cursor {
    pub(crate) fn new(position: Position, command_id: Option<Uuid>) -> Self {
        Self { position, command_id, fitting: PIECE_EVENTS }
    }
}

/// Reads on from the cursor, which is moved behind what was read: at most `limit` events, and what fits into a piece.
pub(crate) async fn read_on(mut log: Reading, cursor: &mut Cursor, limit: u64) -> Result<Lines, PastError> {
    let most = u64::from(cursor.fitting).min(limit);
    let mut anchored = cursor.command_id.is_none();
    let rows = i64::try_from(most).unwrap_or(i64::MAX) + i64::from(!anchored);
    let mut stream = sqlx::query(PIECE).bind(cursor.position.to_parameter()).bind(rows).fetch(&mut *log);
    let mut lines = Lines { text: vec![], events: 0, drained: false, rewritten: false };
    let mut read = 0;
    while let Some(row) = stream.try_next().await? {
        read += 1;
        let (position, command_id) = (Position::from_column(row.try_get(0)?), row.try_get(9)?);
        if !anchored {
            anchored = true;
            lines.rewritten = (position, Some(command_id)) != (cursor.position, cursor.command_id);
            if lines.rewritten {
                return Ok(lines);
            }
            continue;
        }
        write(&row, &mut lines.text)?;
        lines.events += 1;
        (cursor.position, cursor.command_id) = (position, Some(command_id));
        if lines.text.len() >= PIECE_BYTES {
            break;
        }
    }
    drop(stream);
    lines.rewritten = !anchored;
    lines.drained = read < rows && lines.text.len() < PIECE_BYTES;
    let all = read == rows || lines.drained;
    // Where large values leave no room, fewer are asked for: a connection that still sends cannot be used again.
    let fitted = u16::try_from(lines.events).unwrap_or(PIECE_EVENTS);
    cursor.fitting = if all { cursor.fitting.saturating_mul(2).min(PIECE_EVENTS) } else { fitted.max(1) };
    if all {
        log.ended();
    }
    Ok(lines)
}

fn write(row: &PgRow, text: &mut Vec<u8>) -> Result<(), PastError> {
    let (aggregate_type, event_type, event_version) = (row.try_get(1)?, row.try_get(4)?, row.try_get(5)?);
    let payload = row.try_get::<&str, _>(6)?;
    let known = Some(aggregate_type).filter(|aggregate_type| *aggregate_type == AGGREGATE_TYPE);
    let known = known.and_then(|_| ConfigValueEvent::from_stored(event_type, event_version, payload).ok());
    let line = Line {
        position: Position::from_column(row.try_get(0)?),
        aggregate_type,
        name: row.try_get(2)?,
        version: row.try_get(3)?,
        event_type,
        event_version,
        payload: if known.is_none() { Some(raw(payload)) } else { None },
        value: known.and_then(|event| event.value().cloned()),
        metadata: raw(row.try_get(7)?),
        recorded_at: Moment(row.try_get::<DateTime<Utc>, _>(8)?),
        command_id: row.try_get(9)?,
        part: row.try_get(10)?,
    };
    let begin = text.len();
    serde_json::to_writer(&mut *text, &line).expect("texts and stored JSON are JSON");
    on_one_line(&mut text[begin..]);
    text.push(b'\n');
    Ok(())
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A value is kept as it was written, perhaps on several lines. JSON has line breaks between its tokens only, where a blank does
/// as well.
fn on_one_line(json: &mut [u8]) {
    for byte in json.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_several_lines_is_told_on_one_and_says_the_same() {
        let written = "{\r\n  \"a\": \"x\\ny\",\n\t\"b\": 1.10\n}";
        let mut json = written.as_bytes().to_vec();
        on_one_line(&mut json);
        assert_eq!(String::from_utf8(json).unwrap(), "{    \"a\": \"x\\ny\", \t\"b\": 1.10 }");
    }
}
