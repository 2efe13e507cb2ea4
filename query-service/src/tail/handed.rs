//! What this process appended itself, applied without reading it from the log. Reading the log remains the only path that is
//! required: what does not stand exactly behind the event that was applied last is read there.

use shared::{
    event::{AGGREGATE_TYPE, EVENT_VERSION},
    handover::AppendedGroup,
    position::Position,
};
use uuid::Uuid;

use super::page::Reader;
use crate::projection::{Fault, Recorded};

/// What is still to be applied when the log is applied up to `applied`: its last event, and which command wrote it; `None` at
/// the beginning. That is the group that stands exactly behind it, and those that follow; a page may have brought others
/// already. `None`: what was handed over stands further on, further back, or in a log that says something else there.
pub(super) fn pending(groups: &[AppendedGroup], applied: Option<(Position, Uuid)>) -> Option<&[AppendedGroup]> {
    if let Some(next) = groups.iter().position(|group| group.behind == applied) {
        return Some(&groups[next..]);
    }
    let all_applied = groups.last().is_none_or(|last| applied.is_some() && last.end() == applied);
    all_applied.then_some(&[])
}

/// Applies a group, each unit as a whole.
///
/// # Errors
/// The first event that cannot be applied; what was before it is.
pub(super) fn apply(group: &AppendedGroup, reader: &mut impl Reader) -> Result<(), Fault> {
    let mut position = group.begins_behind();
    for unit in &group.units {
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
    Ok(())
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
        /// However appends are cut, and whatever was read meanwhile: only what stands behind the last event is applied.
        #[test]
        fn only_what_stands_behind_the_last_event_is_applied(
            sizes in prop::collection::vec(prop::collection::vec(1..4_usize, 1..4), 1..6),
            read_up_to in 0..40_usize,
            other_log in any::<bool>(),
        ) {
            // The commands of the log, event by event, and where in it each append begins.
            let (mut log, mut groups, mut begins): (Vec<u128>, _, _) = (vec![], vec![], vec![]);
            for (first, units) in (1_u128..).step_by(10).zip(sizes) {
                let behind = log.last().map(|command| (Position(log.len() as u64), Uuid::from_u128(*command)));
                begins.push(log.len());
                let units = (first..).zip(units).map(|(command, events)| {
                    let names: Vec<_> = (0..events).map(|event| format!("n{command}-{event}")).collect();
                    log.extend(vec![command; events]);
                    unit(command, &names)
                });
                groups.push(AppendedGroup { behind, units: units.collect() });
            }
            // Some reader has so much of this log, or of one that was rewritten at its end.
            let read = read_up_to.min(log.len());
            let applied = log[..read].last().map(|command| {
                (Position(read as u64), Uuid::from_u128(*command + if other_log { 1_000_000 } else { 0 }))
            });
            let same_log = !other_log || read == 0;
            let expected = if read == log.len() { Some(groups.len()) } else { begins.iter().position(|begin| *begin == read) };
            let left = pending(&groups, applied).map(|left| groups.len() - left.len());
            prop_assert_eq!(left, expected.filter(|_| same_log));
            prop_assert_eq!(pending(&[], applied).map(<[_]>::len), Some(0), "nothing was handed over");

            // In their order they make the whole state, and each command ends where it does.
            let mut reader = Applied::default();
            for group in &groups {
                let left = pending(std::slice::from_ref(group), reader.fold.anchor());
                prop_assert_eq!(left.map(<[_]>::len), Some(1));
                apply(group, &mut reader).unwrap();
            }
            prop_assert_eq!(reader.fold.position().0, log.len() as u64);
            prop_assert_eq!(reader.fold.anchor().map(|(_, command)| command.as_u128()), log.last().copied());
            let ends: Vec<_> = (0..log.len()).map(|index| log.get(index + 1) != Some(&log[index])).collect();
            prop_assert_eq!(reader.ends, ends);
        }
    }
}
