//! From what became of a group to what is handed to the projection in the same process.

use shared::{
    handover::{AppendedEvent, AppendedGroup, AppendedUnit, Giver},
    position::Position,
};
use uuid::Uuid;

use super::{
    append::{Appended, Outcome},
    unit::{NewEvent, Unit},
};

/// What a group appended, on its way to the projection.
#[derive(Default)]
pub(super) struct Handing {
    first: Option<Position>,
    units: Vec<AppendedUnit>,
    /// An attempt that was cut off had appended some of it.
    incomplete: bool,
}

impl Handing {
    /// The next unit of the group, and what became of it.
    pub(super) fn add(&mut self, unit: Unit, outcome: &Outcome) {
        let Outcome::Done { appended: Appended::Written { first, recorded_at, .. }, repeated } = *outcome else {
            return;
        };
        if repeated {
            self.incomplete = true;
            return;
        }
        self.first.get_or_insert(first);
        let Unit { command_id, events, metadata, .. } = unit;
        let event = |event: NewEvent| AppendedEvent {
            name: event.name,
            version: event.expected_version + 1,
            event_type: event.event_type,
            payload: event.payload,
        };
        let events = events.into_iter().map(event).collect();
        self.units.push(AppendedUnit { command_id, recorded_at, metadata, events });
    }

    pub(super) fn give(self, to: &Giver, head: Option<Uuid>, server_process: u32) {
        if self.incomplete {
            to.missed();
        }
        let Some(first) = self.first else { return };
        let behind = head.map(|command_id| (Position(first.0 - 1), command_id));
        to.give(AppendedGroup { behind, units: self.units }, server_process);
    }
}

#[cfg(test)]
mod tests {
    use shared::{handover::Taken, name::ConfigName};

    use super::{super::anchor::Lineage, *};

    fn unit(command: u128, names: &[&str]) -> Unit {
        let event = |name: &&str| NewEvent {
            name: ConfigName::stored(name),
            expected_version: 3,
            seen: None,
            lineage: None,
            event_type: "ConfigValueSet",
            payload: format!(r#"{{"value":"{name}"}}"#),
        };
        let (metadata, checks) = (format!(r#"{{"actor":"{command}"}}"#), vec![]);
        Unit {
            command_id: Uuid::from_u128(command),
            events: names.iter().map(event).collect(),
            metadata,
            checks,
            keyed: None,
        }
    }

    fn done(first: u64, repeated: bool) -> Outcome {
        let (recorded_at, lineage) = ("2024-01-15T10:30:00Z".parse().unwrap(), Lineage::default());
        Outcome::Done { appended: Appended::Written { first: Position(first), recorded_at, lineage }, repeated }
    }

    fn handed(units: Vec<(Unit, Outcome)>, head: Option<Uuid>) -> Taken {
        let (to, mut handing) = (Giver::default(), Handing::default());
        let taker = to.taker();
        for (unit, outcome) in units {
            handing.add(unit, &outcome);
        }
        handing.give(&to, head, 7);
        taker.take()
    }

    #[test]
    fn what_was_written_is_handed_over_behind_what_was_there_and_nothing_else() {
        let head = Uuid::from_u128(99);
        let noted = Outcome::Done { appended: Appended::Noted, repeated: false };
        let group = vec![
            (unit(1, &["a"]), Outcome::Conflict),
            (unit(2, &["b", "c"]), done(6, false)),
            (unit(3, &[]), noted),
            (unit(4, &["d"]), Outcome::Conflict),
            (unit(5, &["e"]), done(8, false)),
        ];
        let taken = handed(group, Some(head));
        let [group] = taken.appended.as_slice() else { panic!("{taken:?}") };
        assert!(taken.complete);
        assert_eq!((group.behind, group.end()), (Some((Position(5), head)), Some((Position(8), Uuid::from_u128(5)))));
        let units: Vec<_> =
            group.units.iter().map(|unit| (unit.command_id.as_u128(), unit.metadata.as_str())).collect();
        assert_eq!(units, [(2, r#"{"actor":"2"}"#), (5, r#"{"actor":"5"}"#)]);
        let events = group.units.iter().flat_map(|unit| &unit.events);
        let events: Vec<_> = events.map(|event| (event.name.as_str(), event.version, event.payload.as_str())).collect();
        assert_eq!(events, [("b", 4, r#"{"value":"b"}"#), ("c", 4, r#"{"value":"c"}"#), ("e", 4, r#"{"value":"e"}"#)]);
    }

    #[test]
    fn the_first_append_of_a_log_stands_behind_nothing() {
        let taken = handed(vec![(unit(1, &["a"]), done(1, false))], None);
        assert_eq!(
            taken.appended.first().map(|group| (group.behind, group.begins_behind())),
            Some((None, Position::ZERO))
        );
    }

    #[test]
    fn where_some_was_written_by_an_attempt_before_the_log_is_to_be_read() {
        let units = || vec![(unit(1, &["a"]), done(3, true)), (unit(2, &["b"]), done(4, false))];
        let taken = handed(units(), Some(Uuid::from_u128(1)));
        assert_eq!((taken.appended.len(), taken.complete), (0, false));
        let nothing = handed(vec![(unit(1, &["a"]), Outcome::Conflict)], None);
        assert_eq!((nothing.appended.len(), nothing.complete), (0, true));
    }
}
