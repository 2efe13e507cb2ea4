//! A unit made ready for the append in its command's own task: what the committer need not do for each event, while everybody who
//! writes waits for it.

use std::marker::PhantomData;

use sqlx::{
    Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo},
};

use super::{
    append::{NewEvent, Unit},
    taken::NameHash,
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
pub(super) fn put(bytes: &mut Vec<u8>, element: Option<&[u8]>) {
    let length =
        element.map_or(-1, |element| i32::try_from(element.len()).expect("a group has far less than 2^31 bytes"));
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(element.unwrap_or_default());
}

/// An array of `T`, whose elements are written at once: sqlx's way of an element costs several times what the element does.
pub(super) struct Array<T, F> {
    length: usize,
    elements: F,
    of: PhantomData<T>,
}

impl<T, F: Fn(&mut Vec<u8>)> Array<T, F> {
    /// Of so many elements, each of which `elements` [`put`]s.
    pub(super) fn new(length: usize, elements: F) -> Self {
        Self { length, elements, of: PhantomData }
    }
}

impl<T: PgHasArrayType, F> Type<Postgres> for Array<T, F> {
    fn type_info() -> PgTypeInfo {
        T::array_type_info()
    }
}

impl<T: PgHasArrayType + Type<Postgres>, F: Fn(&mut Vec<u8>)> Encode<'_, Postgres> for Array<T, F> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let of = T::type_info().oid().ok_or("the type has no number that is the same in every server")?;
        // Dimensions, flags, the elements' type, their number, and the index of the first.
        for number in [1, 0, of.0.cast_signed(), i32::try_from(self.length)?, 1] {
            buffer.extend_from_slice(&number.to_be_bytes());
        }
        (self.elements)(buffer);
        Ok(IsNull::No)
    }
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

    fn encoded<'q>(value: impl Encode<'q, Postgres>) -> Vec<u8> {
        let mut buffer = PgArgumentBuffer::default();
        assert!(matches!(value.encode_by_ref(&mut buffer).unwrap(), IsNull::No));
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
                move |bytes: &mut Vec<u8>| ready.iter().for_each(|ready| bytes.extend_from_slice(ready.columns.elements(column)))
            };
            let length = events.len();
            prop_assert_eq!(
                encoded(Array::<String, _>::new(length, column(Column::Names))),
                encoded(events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>())
            );
            prop_assert_eq!(
                encoded(Array::<i64, _>::new(length, column(Column::Expected))),
                encoded(events.iter().map(|event| event.expected_version.cast_signed()).collect::<Vec<_>>())
            );
            prop_assert_eq!(
                encoded(Array::<Uuid, _>::new(length, column(Column::Seen))),
                encoded(events.iter().map(|event| event.seen).collect::<Vec<_>>())
            );
            prop_assert_eq!(
                encoded(Array::<String, _>::new(length, column(Column::Types))),
                encoded(events.iter().map(|event| event.event_type).collect::<Vec<_>>())
            );
        }
    }
}
