//! A unit made ready for the append in its command's own task: what the committer need not do for each event, while everybody who
//! writes waits for it.

use bytes::{BufMut, BytesMut};
use shared::BoxError;
use tokio_postgres::types::{IsNull, Kind, ToSql, Type, to_sql_checked};

use super::{
    taken::NameHash,
    unit::{NewEvent, Unit},
};

/// A unit, and what can be said of it before its group is known.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) unit: Unit,
    pub(super) columns: Columns,
    /// The names that it writes.
    pub(super) writes: Vec<NameHash>,
    /// The names that it depends on without writing them.
    pub(super) checks: Vec<NameHash>,
}

impl Ready {
    pub(super) fn new(unit: Unit) -> Self {
        Self {
            columns: Columns::of(&unit.events),
            writes: unit.events.iter().map(|event| NameHash::of(&event.name)).collect(),
            checks: unit.checks.iter().map(|check| NameHash::of(&check.name)).collect(),
            unit,
        }
    }
}

/// What `append_events()` is told of each event, column after column: every element with its length in front, in the server's binary
/// form, as an array has them. Payloads are not among them: they may be large, and would be held twice.
#[derive(Debug, Default)]
pub(super) struct Columns {
    bytes: Vec<u8>,
    /// Where each column ends.
    ends: [usize; 4],
}

/// A column of [`Columns`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    /// Names, as text.
    Names,
    /// The versions that their writers saw, as bigints.
    Expected,
    /// The commands that had written those, as UUIDs or null.
    Seen,
    /// Names of the events' types, as text.
    Types,
}

impl Columns {
    fn of(events: &[NewEvent]) -> Self {
        /// Four lengths, a version and a command's id, in bytes.
        const EACH: usize = 4 * 4 + 8 + 16;
        let texts: usize = events.iter().map(|event| event.name.len() + event.event_type.len()).sum();
        let mut bytes = Vec::with_capacity(texts + events.len() * EACH);
        let mut ends = [0; 4];
        events.iter().for_each(|event| put(&mut bytes, Some(event.name.as_bytes())));
        ends[Column::Names as usize] = bytes.len();
        for event in events {
            let version = i64::try_from(event.expected_version).expect("versions are bigints in the log");
            put(&mut bytes, Some(&version.to_be_bytes()));
        }
        ends[Column::Expected as usize] = bytes.len();
        events.iter().for_each(|event| put(&mut bytes, event.seen.as_ref().map(|seen| seen.as_bytes().as_slice())));
        ends[Column::Seen as usize] = bytes.len();
        events.iter().for_each(|event| put(&mut bytes, Some(event.event_type.as_bytes())));
        ends[Column::Types as usize] = bytes.len();
        Self { bytes, ends }
    }

    /// Its elements, of all events.
    pub(super) fn elements(&self, column: Column) -> &[u8] {
        let begin = (column as usize).checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin..self.ends[column as usize]]
    }
}

/// Writes an element of an array: its length in bytes, and itself. Null has the length -1.
pub(super) fn put(bytes: &mut impl BufMut, element: Option<&[u8]>) {
    let length =
        element.map_or(-1, |element| i32::try_from(element.len()).expect("a group has far less than 2^31 bytes"));
    bytes.put_i32(length);
    bytes.put_slice(element.unwrap_or_default());
}

/// An array, whose elements are written at once.
pub(super) struct Array<F> {
    length: usize,
    elements: F,
}

impl<F: Fn(&mut BytesMut)> Array<F> {
    /// Of so many elements, each of which `elements` [`put`]s.
    pub(super) fn new(length: usize, elements: F) -> Self {
        Self { length, elements }
    }
}

impl<F> std::fmt::Debug for Array<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Array").field("length", &self.length).finish_non_exhaustive()
    }
}

impl<F: Fn(&mut BytesMut)> ToSql for Array<F> {
    fn to_sql(&self, of: &Type, buffer: &mut BytesMut) -> Result<IsNull, BoxError> {
        let Kind::Array(of) = of.kind() else { return Err("not an array".into()) };
        // Dimensions, flags, the elements' type, their number, and the index of the first.
        for number in [1, 0, of.oid().cast_signed(), i32::try_from(self.length)?, 1] {
            buffer.put_i32(number);
        }
        (self.elements)(buffer);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        matches!(of.kind(), Kind::Array(_))
    }

    to_sql_checked!();
}

/// Microseconds, as an interval.
#[derive(Debug)]
pub(super) struct Interval(pub(super) i64);

impl ToSql for Interval {
    fn to_sql(&self, _: &Type, buffer: &mut BytesMut) -> Result<IsNull, BoxError> {
        buffer.put_i64(self.0);
        buffer.put_i64(0);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::INTERVAL
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::name::ConfigName;
    use uuid::Uuid;

    use super::*;

    fn unit() -> impl Strategy<Value = Unit> {
        let event = ("[a-zäß.]{1,40}", 0..=u64::MAX >> 1, any::<Option<u128>>(), any::<bool>());
        let event = event.prop_map(|(name, expected_version, seen, set)| NewEvent {
            name: ConfigName::stored(&name),
            expected_version,
            seen: seen.map(Uuid::from_u128),
            lineage: None,
            event_type: if set { "ConfigValueSet" } else { "ConfigValueDeleted" },
            payload: String::new(),
        });
        prop::collection::vec(event, 0..5).prop_map(|events| Unit {
            command_id: Uuid::nil(),
            events,
            metadata: "{}".to_owned(),
            checks: vec![],
            keyed: None,
        })
    }

    fn encoded(value: &(impl ToSql + Sync), of: &Type) -> Vec<u8> {
        let mut buffer = BytesMut::new();
        assert!(matches!(value.to_sql_checked(of, &mut buffer).unwrap(), IsNull::No));
        buffer.to_vec()
    }

    proptest! {
        /// As the driver writes them.
        #[test]
        fn the_columns_of_several_units_are_the_arrays_of_their_events(units in prop::collection::vec(unit(), 0..5)) {
            let ready: Vec<_> = units.iter().cloned().map(Ready::new).collect();
            let events: Vec<_> = units.iter().flat_map(|unit| &unit.events).collect();
            let column = |column| {
                let ready = &ready;
                move |bytes: &mut BytesMut| ready.iter().for_each(|ready| bytes.extend_from_slice(ready.columns.elements(column)))
            };
            let array = |of| Array::new(events.len(), column(of));
            prop_assert_eq!(
                encoded(&array(Column::Names), &Type::TEXT_ARRAY),
                encoded(&events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), &Type::TEXT_ARRAY)
            );
            prop_assert_eq!(
                encoded(&array(Column::Expected), &Type::INT8_ARRAY),
                encoded(&events.iter().map(|event| event.expected_version.cast_signed()).collect::<Vec<_>>(), &Type::INT8_ARRAY)
            );
            // Without a null, this is told in front. The server does not look there.
            let seen: Vec<_> = events.iter().map(|event| event.seen).collect();
            let ours = encoded(&array(Column::Seen), &Type::UUID_ARRAY);
            let theirs = encoded(&seen, &Type::UUID_ARRAY);
            prop_assert_eq!((&ours[..4], &ours[8..]), (&theirs[..4], &theirs[8..]));
            prop_assert_eq!(
                encoded(&array(Column::Types), &Type::TEXT_ARRAY),
                encoded(&events.iter().map(|event| event.event_type).collect::<Vec<_>>(), &Type::TEXT_ARRAY)
            );
        }
    }
}
