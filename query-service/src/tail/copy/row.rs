//! A row of a binary copy, as Postgres's manual describes the format: each field has its length in front.

use chrono::{DateTime, Utc};
use shared::{
    event::{AGGREGATE_TYPE, ConfigValueEvent, EVENT_VERSION},
    moment::Moment,
    position::Position,
};
use uuid::Uuid;

use crate::projection::Recorded;

/// What a copy begins with, in front of its first row.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Columns of a row.
const COLUMNS: i16 = 10;

/// What a copy of these positions is asked for by. It takes no parameters; these are numbers. What nearly every event has in
/// common is left out, as null: to send three texts more costs Postgres a third of its time.
pub(super) fn query((first, last): (Position, Position)) -> String {
    let set = ConfigValueEvent::SET;
    format!(
        "copy (select position, nullif(aggregate_type, '{AGGREGATE_TYPE}'), aggregate_id, sequence, nullif(event_type, '{set}'),
                      nullif(event_version, '{EVENT_VERSION}'), payload, metadata, recorded_at, command_id
                 from events
                where position >= {first} and position <= {last}
                order by position) to stdout (format binary)"
    )
}

/// What stands in place of the number of columns at the end of a copy.
const END: i16 = -1;

/// The length of a null.
const NULL: [u8; 4] = (-1_i32).to_be_bytes();

/// From 1970 to 2000, where Postgres counts from, in microseconds.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The event of one message of the copy, which is a row; none at the end of the copy.
///
/// # Errors
/// When it is no row of the columns that were asked for.
pub(super) fn event(message: &[u8]) -> Result<Option<Recorded<'_>>, sqlx::Error> {
    let mut fields = Fields(message);
    read(&mut fields).ok_or_else(|| sqlx::Error::Protocol("a copy of events is not in the expected form".to_owned()))
}

fn read<'a>(fields: &mut Fields<'a>) -> Option<Option<Recorded<'a>>> {
    if fields.0.starts_with(SIGNATURE) {
        fields.take(SIGNATURE.len())?;
        let _flags = fields.array::<4>()?;
        let extension = u32::from_be_bytes(fields.array()?);
        fields.take(usize::try_from(extension).ok()?)?;
    }
    match i16::from_be_bytes(fields.array()?) {
        COLUMNS => {}
        END => return Some(None),
        _ => return None,
    }
    let recorded = Recorded {
        position: Position::from_column(fields.number()?),
        aggregate_type: fields.text_or(AGGREGATE_TYPE)?,
        aggregate_id: fields.text()?,
        sequence: u64::try_from(fields.number()?).ok()?,
        event_type: fields.text_or(ConfigValueEvent::SET)?,
        event_version: fields.text_or(EVENT_VERSION)?,
        payload: fields.text()?,
        metadata: fields.text()?,
        recorded_at: moment(fields.number()?)?,
        command_id: Uuid::from_bytes(fields.field()?.try_into().ok()?),
    };
    fields.0.is_empty().then_some(Some(recorded))
}

fn moment(micros: i64) -> Option<Moment> {
    DateTime::<Utc>::from_timestamp_micros(micros.checked_add(EPOCH_MICROS)?).map(Moment)
}

/// What is left of a row.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// A field that is not null, whose length would be negative.
    fn field(&mut self) -> Option<&'a [u8]> {
        let length = i32::from_be_bytes(self.array()?);
        self.take(usize::try_from(length).ok()?)
    }

    fn number(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.field()?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.field()?).ok()
    }

    /// Null stands for `usual`.
    fn text_or(&mut self, usual: &'a str) -> Option<&'a str> {
        if let Some(rest) = self.0.strip_prefix(&NULL) {
            self.0 = rest;
            return Some(usual);
        }
        self.text()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a server writes what [`query`] asks for.
    fn written(event: &Recorded<'_>) -> Vec<u8> {
        let mut row = COLUMNS.to_be_bytes().to_vec();
        let mut field = |bytes: &[u8], usual: Option<&str>| {
            if usual.is_some_and(|usual| usual.as_bytes() == bytes) {
                return row.extend(NULL);
            }
            row.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
            row.extend(bytes);
        };
        field(&event.position.to_parameter().to_be_bytes(), None);
        field(event.aggregate_type.as_bytes(), Some("ConfigValue"));
        field(event.aggregate_id.as_bytes(), None);
        field(&i64::try_from(event.sequence).unwrap().to_be_bytes(), None);
        field(event.event_type.as_bytes(), Some("ConfigValueSet"));
        field(event.event_version.as_bytes(), Some("1.0"));
        field(event.payload.as_bytes(), None);
        field(event.metadata.as_bytes(), None);
        field(&(event.recorded_at.0.timestamp_micros() - EPOCH_MICROS).to_be_bytes(), None);
        field(event.command_id.as_bytes(), None);
        row
    }

    fn some_event<'a>(position: u64, text: &'a str, payload: &'a str) -> Recorded<'a> {
        Recorded {
            position: Position(position),
            aggregate_type: "ConfigValue",
            aggregate_id: text,
            sequence: position / 2,
            event_type: "ConfigValueSet",
            event_version: "1.0",
            payload,
            metadata: "{}",
            recorded_at: "2024-01-15T10:30:00.123456Z".parse().unwrap(),
            command_id: Uuid::from_u128(u128::from(position)),
        }
    }

    #[test]
    fn a_copy_begins_with_a_signature_and_ends_with_a_mark() {
        let row = written(&some_event(7, "a", "{}"));
        let first = [SIGNATURE, &[0; 4], &2_u32.to_be_bytes(), b"??", &row].concat();
        assert_eq!(format!("{:?}", event(&first).unwrap()), format!("{:?}", event(&row).unwrap()));
        assert!(event(&END.to_be_bytes()).unwrap().is_none());
    }

    #[test]
    fn a_null_is_refused() {
        let mut row = written(&some_event(7, "a", "{}"));
        row[2..6].copy_from_slice(&(-1_i32).to_be_bytes());
        assert!(event(&row).is_err());
    }

    proptest! {
        #[test]
        fn a_row_reads_back_as_it_was_written_and_a_cut_or_longer_one_is_refused(
            position in 1..u64::MAX / 4, name in "1.0|.{0,20}", payload in ".{0,40}", cut in any::<prop::sample::Index>(),
            aggregate_type in "ConfigValue|.{0,3}", event_type in "ConfigValueSet|ConfigValueDeleted", event_version in "1.0|[0-9]",
        ) {
            let asked = Recorded {
                aggregate_type: &aggregate_type,
                event_type: &event_type,
                event_version: &event_version,
                ..some_event(position, &name, &payload)
            };
            let mut row = written(&asked);
            prop_assert_eq!(format!("{:?}", event(&row).unwrap()), format!("{:?}", Some(&asked)));
            let cut = cut.index(row.len());
            prop_assert!(event(&row[..cut]).is_err());
            row.push(0);
            prop_assert!(event(&row).is_err());
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _told = event(&bytes);
            let _told = event(&[&COLUMNS.to_be_bytes(), &bytes[..]].concat());
        }
    }
}
