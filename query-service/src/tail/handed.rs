//! What this process appended itself, applied without reading it from the log. The way of the log stays the only one that is needed: what
//! does not stand exactly behind the event that was applied last is read there.

use shared::{
    event::{AGGREGATE_TYPE, EVENT_VERSION},
    handover::Appended,
    position::Position,
};
use uuid::Uuid;

use super::page::Reader;
use crate::projection::{Fault, Recorded};

/// Where what was handed over stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind the event that was applied last.
    Next,
    /// It ends with that event: it was read already.
    Applied,
    /// Further on, further back, or in a log that says something else there.
    Elsewhere,
}

/// `applied`: the event that was applied last, and which command wrote it; `None` at the beginning of the log.
pub(super) fn place(appended: &Appended, applied: Option<(Position, Uuid)>) -> Place {
    if appended.behind == applied {
        Place::Next
    } else if applied.is_some() && appended.end() == applied {
        Place::Applied
    } else {
        Place::Elsewhere
    }
}

/// Applies it, each unit as a whole; how many events those are.
///
/// # Errors
/// The first event that cannot be applied; what was before it is.
pub(super) fn apply(appended: &Appended, reader: &mut impl Reader) -> Result<u64, Fault> {
    let mut position = appended.begins_behind();
    for unit in &appended.units {
        for (left, event) in (0..unit.events.len()).rev().zip(&unit.events) {
            position = position.next();
            let recorded = Recorded {
                position,
                aggregate_type: AGGREGATE_TYPE,
                aggregate_id: event.name.as_str(),
                sequence: event.version,
                event_type: event.event_type,
                event_version: EVENT_VERSION,
                payload: &event.payload,
                metadata: &unit.metadata,
                recorded_at: unit.recorded_at,
                command_id: unit.command_id,
            };
            reader.apply(&recorded, left > 0)?;
        }
    }
    Ok(position.0 - appended.begins_behind().0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::{
        handover::{AppendedEvent, AppendedUnit},
        name::ConfigName,
    };

    use super::*;
    use crate::projection::Fold;

    fn unit(command: u128, names: &[String]) -> AppendedUnit {
        let event = |name: &String| AppendedEvent {
            name: ConfigName::stored(name),
            version: 1,
            event_type: "ConfigValueSet",
            payload: format!(r#"{{"value":{command}}}"#),
        };
        AppendedUnit {
            command_id: Uuid::from_u128(command),
            recorded_at: "2024-01-15T10:30:00Z".parse().unwrap(),
            metadata: r#"{"actor":"ann"}"#.to_owned(),
            events: names.iter().map(event).collect(),
        }
    }

    /// The fold, what was applied, and whether each event ended its command.
    #[derive(Default)]
    struct Applied {
        fold: Fold,
        ends: Vec<bool>,
    }

    impl Reader for Applied {
        fn fold(&self) -> &Fold {
            &self.fold
        }

        fn apply(&mut self, event: &Recorded<'_>, goes_on: bool) -> Result<(), Fault> {
            self.ends.push(!goes_on);
            self.fold.apply(event)
        }
    }

    proptest! {
        /// However appends are cut, and whatever else was read meanwhile: only what stands behind the last event is applied.
        #[test]
        fn only_what_stands_behind_the_last_event_is_next(
            sizes in prop::collection::vec(prop::collection::vec(1..4_usize, 1..4), 1..6),
            read_up_to in 0..40_u64,
            other_log in any::<bool>(),
        ) {
            let (mut log, mut position, mut command) = (vec![], 0_u64, 0);
            let mut groups = vec![];
            for units in sizes {
                let behind = log.last().map(|command: &u128| (Position(position), Uuid::from_u128(*command)));
                let units: Vec<_> = units.into_iter().map(|events| {
                    command += 1;
                    let names: Vec<_> = (0..events).map(|_| { position += 1; log.push(command); format!("n{position}") }).collect();
                    unit(command, &names)
                }).collect();
                groups.push(Appended { behind, units });
            }
            // Some reader has so much of this log, or of one that was rewritten at its end.
            let read = usize::try_from(read_up_to).unwrap().min(log.len());
            let applied = log[..read].last().map(|command| {
                (Position(read as u64), Uuid::from_u128(*command + if other_log { 1_000_000 } else { 0 }))
            });
            for group in &groups {
                let begins = group.begins_behind().0;
                let events: usize = group.units.iter().map(|unit| unit.events.len()).sum();
                let same_log = !other_log || read == 0;
                let expected = match read as u64 {
                    at if at == begins && same_log => Place::Next,
                    at if at == begins + events as u64 && same_log => Place::Applied,
                    _ => Place::Elsewhere,
                };
                prop_assert_eq!(place(group, applied), expected);
            }
            // In their order they make the whole state, and each command ends where it does.
            let mut reader = Applied::default();
            for group in &groups {
                prop_assert_eq!(place(group, reader.fold.anchor()), Place::Next);
                apply(group, &mut reader).unwrap();
            }
            prop_assert_eq!(reader.fold.position(), Position(position));
            prop_assert_eq!(reader.fold.anchor().map(|(_, command)| command.as_u128()), log.last().copied());
            let ends: Vec<_> = (0..log.len()).map(|index| log.get(index + 1) != Some(&log[index])).collect();
            prop_assert_eq!(reader.ends, ends);
        }
    }
}
