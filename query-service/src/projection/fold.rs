//! The fold: one event after the other, in the order of their positions, none left out.

use std::{collections::HashSet, mem, ops::Bound, sync::Arc};

use ahash::RandomState;
use shared::{
    event::UnknownEvent,
    position::{Fingerprint, Position},
};
use uuid::Uuid;

use super::{
    entries::Entries,
    entry::{Entry, Parts},
    event::{Change, Recorded, Understood},
    loose::Loose,
    snapshot::{RECENT_EVENTS, Snapshot},
};
use crate::metrics::HaltCause;

/// Most actors whose names are kept once for all their changes; further ones are kept per change.
const MAX_INTERNED_ACTORS: usize = 16_384;

/// Why the log cannot be applied any further. Nothing behind it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// Appends make positions visible in order and without a hole: something wrote around the order rule, or removed events.
    #[error("the event log has a hole: position {expected} is missing, {found} is there")]
    Hole { expected: Position, found: Position },
    /// Written by a newer release.
    #[error("the event at position {position} cannot be read by this release")]
    Unknown { position: Position, source: UnknownEvent },
}

impl Fault {
    /// In a word.
    pub(crate) fn cause(&self) -> HaltCause {
        match self {
            Self::Hole { .. } => HaltCause::Hole,
            Self::Unknown { .. } => HaltCause::UnreadableEvent,
        }
    }

    /// In words that may be shown to anybody.
    pub(crate) fn reason(&self) -> String {
        self.to_string()
    }
}

/// The state so far, ready for the next event.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    state: Snapshot,
    /// Which command wrote the event at the position; `None` before the first.
    command_id: Option<Uuid>,
    actors: HashSet<Arc<str>, RandomState>,
    /// Where entries are put together.
    scratch: String,
    /// From here on it keeps fingerprints.
    remember_from: Position,
    /// In place of the state's entries, while it has a long way to go.
    loose: Option<Loose>,
}

impl Fold {
    /// One that readers see at `head` at the earliest. Fingerprints that are forgotten by then it does not keep at all.
    pub(crate) fn towards(head: Position) -> Self {
        let kept = u64::try_from(RECENT_EVENTS).unwrap_or(u64::MAX);
        Self { remember_from: Position((head.0 + 1).saturating_sub(kept)), ..Self::default() }
    }

    /// Makes changes quick, and the state unreadable until it is settled.
    pub(crate) fn loosen(&mut self) {
        let entries = mem::take(&mut self.state.entries);
        self.loose.get_or_insert_with(|| entries.range(Bound::Unbounded).cloned().collect());
    }

    /// Makes the state readable again.
    pub(crate) fn settle(&mut self) {
        if let Some(loose) = self.loose.take() {
            self.state.entries = Entries::sorted(loose.into_sorted());
        }
    }

    pub(crate) fn position(&self) -> Position {
        self.state.position
    }

    pub(crate) fn configurations(&self) -> usize {
        self.loose.as_ref().map_or(self.state.len(), Loose::len)
    }

    /// The event that the log must still have where this fold stands; `None` before the first.
    pub(crate) fn anchor(&self) -> Option<(Position, Uuid)> {
        self.command_id.map(|command_id| (self.position(), command_id))
    }

    /// Whether the log still says what was folded. `found` is its first event from the fold's position on.
    pub(crate) fn continues(&self, found: Option<(Position, Uuid)>) -> bool {
        self.anchor().is_none_or(|anchor| found == Some(anchor))
    }

    /// The state so far, for readers. Cheap: it shares everything. Its own event it always knows.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.state.clone();
        if let (Some(command_id), true) = (self.command_id, snapshot.recent.is_empty()) {
            snapshot.recent.push_back(Fingerprint::of(command_id));
        }
        snapshot
    }

    /// The state alone, when nothing more is folded.
    pub(crate) fn into_snapshot(self) -> Snapshot {
        self.state
    }

    /// Applies the next event. Those of other aggregates count, and change nothing.
    ///
    /// # Errors
    /// When it is not the next, or not to be read; then nothing has changed.
    pub(crate) fn apply(&mut self, event: &Recorded<'_>) -> Result<(), Fault> {
        self.is_next(event.position)?;
        let understood = event.understood().map_err(|source| Fault::Unknown { position: event.position, source })?;
        self.take(&understood)
    }

    /// Applies the next event, which is understood already.
    ///
    /// # Errors
    /// When it is not the next; then nothing has changed.
    pub(crate) fn take(&mut self, event: &Understood<'_>) -> Result<(), Fault> {
        self.is_next(event.position)?;
        if let Some(change) = &event.change {
            self.change(event, change);
        }
        self.state.position = event.position;
        self.state.recorded_at = Some(event.recorded_at);
        if event.position >= self.remember_from {
            self.state.recent.push_back(Fingerprint::of(event.command_id));
            if self.state.recent.len() > RECENT_EVENTS {
                self.state.recent.pop_front();
            }
        }
        self.command_id = Some(event.command_id);
        Ok(())
    }

    /// # Errors
    /// When the event at the position is not the next.
    pub(crate) fn is_next(&self, position: Position) -> Result<(), Fault> {
        let expected = self.position().next();
        if position == expected { Ok(()) } else { Err(Fault::Hole { expected, found: position }) }
    }

    fn change(&mut self, event: &Understood<'_>, change: &Change<'_>) {
        self.state.written += change.bytes();
        let Some((value, author)) = &change.set else {
            let before = self.configurations();
            match &mut self.loose {
                Some(loose) => loose.remove(change.name),
                None => self.state.entries.remove(change.name),
            }
            if self.configurations() != before {
                self.state.changed = Some((event.position, event.recorded_at));
            }
            return;
        };
        self.state.changed = Some((event.position, event.recorded_at));
        let parts = Parts {
            name: change.name,
            value: *value,
            version: change.version,
            position: event.position,
            recorded_at: event.recorded_at,
            actor: self.interned(&author.actor),
            author,
        };
        let entry = Entry::new(parts, &mut self.scratch);
        match &mut self.loose {
            Some(loose) => loose.put(entry),
            None => self.state.entries.put(entry),
        }
    }

    fn interned(&mut self, actor: &str) -> Arc<str> {
        if let Some(known) = self.actors.get(actor) {
            return Arc::clone(known);
        }
        let actor: Arc<str> = actor.into();
        if self.actors.len() < MAX_INTERNED_ACTORS {
            self.actors.insert(Arc::clone(&actor));
        }
        actor
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use shared::{event::AGGREGATE_TYPE, position::PositionToken};

    use super::{
        super::{batch::Batch, snapshot::Standing},
        *,
    };

    fn event<'a>(position: u64, name: &'a str, sequence: u64, payload: &'a str) -> Recorded<'a> {
        Recorded {
            position: Position(position),
            aggregate_type: AGGREGATE_TYPE,
            aggregate_id: name,
            sequence,
            event_type: if payload == "{}" { "ConfigValueDeleted" } else { "ConfigValueSet" },
            event_version: "1.0",
            payload,
            metadata: "{}",
            recorded_at: "2024-01-15T10:30:00Z".parse().unwrap(),
            command_id: Uuid::from_u128(u128::from(position)),
        }
    }

    #[test]
    fn a_hole_stops_it_where_it_is() {
        let mut fold = Fold::default();
        fold.apply(&event(1, "a", 1, r#"{"value":1}"#)).unwrap();
        for position in [1, 3, 99] {
            let fault = fold.apply(&event(position, "a", 2, r#"{"value":2}"#)).unwrap_err();
            assert!(matches!(fault, Fault::Hole { expected: Position(2), .. }), "{fault}");
        }
        assert_eq!((fold.position(), fold.snapshot().get("a").unwrap().value().json()), (Position(1), "1"));
        fold.apply(&event(2, "a", 2, r#"{"value":2}"#)).unwrap();
    }

    #[test]
    fn an_event_of_a_newer_release_stops_it_where_it_is() {
        let mut fold = Fold::default();
        let renamed = Recorded { event_type: "ConfigValueRenamed", ..event(1, "a", 1, "{}") };
        let of_another_version = Recorded { event_version: "2.0", ..event(1, "a", 1, r#"{"value":1}"#) };
        for unknown in [renamed, of_another_version] {
            assert!(matches!(fold.apply(&unknown), Err(Fault::Unknown { position: Position(1), .. })), "{unknown:?}");
            assert!(Batch::default().push(&unknown).is_err(), "{unknown:?}");
            assert_eq!(fold.position(), Position::ZERO);
        }
    }

    #[test]
    fn events_of_other_aggregates_count_and_change_nothing() {
        let mut fold = Fold::default();
        let other = Recorded {
            aggregate_type: "Account",
            event_type: "Opened",
            payload: "{\"a\":1}",
            ..event(1, "a", 1, "{}")
        };
        fold.apply(&other).unwrap();
        assert_eq!((fold.position(), fold.configurations()), (Position(1), 0));
    }

    #[test]
    fn notices_that_the_log_no_longer_says_what_was_folded() {
        let mut fold = Fold::default();
        assert!(fold.continues(None), "nothing was folded");
        fold.apply(&event(1, "a", 1, r#"{"value":1}"#)).unwrap();
        assert!(fold.continues(Some((Position(1), Uuid::from_u128(1)))));
        assert!(!fold.continues(Some((Position(1), Uuid::from_u128(9)))), "rewritten");
        assert!(!fold.continues(Some((Position(2), Uuid::from_u128(1)))), "removed");
        assert!(!fold.continues(None), "shortened");
    }

    #[test]
    fn keeps_the_numbers_of_a_value_as_they_were_written() {
        let mut fold = Fold::default();
        fold.apply(&event(1, "a", 1, r#"{"value": {"n": 12345678901234567890123, "x": 1.10} }"#)).unwrap();
        let snapshot = fold.snapshot();
        assert_eq!(snapshot.get("a").unwrap().value().json(), r#"{"n": 12345678901234567890123, "x": 1.10}"#);
    }

    #[test]
    fn knows_only_the_newest_events_by_heart() {
        let mut fold = Fold::default();
        let events = u64::try_from(RECENT_EVENTS).unwrap() + 10;
        for position in 1..=events {
            fold.apply(&event(position, "a", position, "{}")).unwrap();
        }
        let standing = |position: u64| {
            fold.snapshot().standing(PositionToken::new(Position(position), Uuid::from_u128(u128::from(position))))
        };
        assert_eq!(
            (standing(10), standing(11), standing(events)),
            (Standing::Older, Standing::Applied, Standing::Applied)
        );
    }

    /// By it is known what a state costs that is kept beside newer ones.
    #[test]
    fn counts_the_bytes_of_what_was_changed() {
        let mut fold = Fold::default();
        let long = format!("{{\"value\":\"{}\"}}", "x".repeat(1_000_000));
        let mut before = 0;
        for (position, payload, least) in [(1, long.as_str(), 1_000_000), (2, r#"{"value":1}"#, 1), (3, "{}", 1)] {
            fold.apply(&event(position, "a", position, payload)).unwrap();
            let written = fold.snapshot().written();
            assert!(written >= before + least, "{before}, {written}");
            before = written;
        }
    }

    #[test]
    fn names_of_actors_are_kept_once_but_not_without_end() {
        let mut fold = Fold::default();
        for position in (1..).take(MAX_INTERNED_ACTORS + 10) {
            let metadata = format!("{{\"actor\":\"{}\"}}", position.min(MAX_INTERNED_ACTORS as u64 + 5));
            fold.apply(&Recorded { metadata: &metadata, ..event(position, "a", position, r#"{"value":1}"#) }).unwrap();
        }
        assert_eq!(fold.actors.len(), MAX_INTERNED_ACTORS);
        let last = (MAX_INTERNED_ACTORS + 5).to_string();
        assert_eq!(*fold.snapshot().get("a").unwrap().actor, *last, "further ones are told all the same");
    }

    #[test]
    fn on_its_way_to_the_head_it_keeps_only_what_is_known_by_heart_there() {
        let head = u64::try_from(RECENT_EVENTS).unwrap() + 10;
        let (mut fold, mut all) = (Fold::towards(Position(head)), Fold::default());
        for position in 1..=head + 5 {
            for fold in [&mut fold, &mut all] {
                fold.apply(&event(position, "a", position, "{}")).unwrap();
            }
            assert!(position >= head || fold.state.recent.len() < RECENT_EVENTS);
            assert!(position < head || fold.state.recent == all.state.recent);
        }
    }

    proptest! {
        /// However a history is cut into batches, and while its fold is loose, they fold to what its events do, one by one.
        #[test]
        fn batches_fold_as_their_events_do(
            history in prop::collection::vec((0..6_usize, prop::option::of(0..4_u32), prop::option::of("[a-c\"\\\\é]{0,3}"), 0..10_u8), 0..60),
        ) {
            const NAMES: [&str; 6] = ["a", "a/b", "a0", "b", "é", "🦀"];
            let (mut one_by_one, mut in_batches, mut batch) = (Fold::default(), Fold::default(), Batch::default());
            for (position, (name, value, reason, rarely)) in (1..).zip(history) {
                let payload = value.map_or("{}".to_owned(), |value| format!("{{\"value\":[{value}, null]}}"));
                let metadata = serde_json::json!({ "actor": format!("actor {value:?}"), "reason": reason }).to_string();
                let mut event = Recorded { metadata: &metadata, ..event(position, NAMES[name], position, &payload) };
                if rarely == 0 {
                    event.aggregate_type = "Other";
                }
                one_by_one.apply(&event).unwrap();
                batch.push(&event).unwrap();
                if rarely == 1 {
                    for event in batch.events() {
                        in_batches.take(&event).unwrap();
                    }
                    batch.clear();
                }
                match rarely {
                    2 => in_batches.loosen(),
                    3 => in_batches.settle(),
                    _ => {}
                }
            }
            for event in batch.events() {
                in_batches.take(&event).unwrap();
            }
            in_batches.settle();
            let (one_by_one, in_batches) = (one_by_one.snapshot(), in_batches.snapshot());
            prop_assert_eq!(one_by_one.token(), in_batches.token());
            prop_assert_eq!(one_by_one.recorded_at(), in_batches.recorded_at());
            prop_assert!(one_by_one.list("", None).eq(in_batches.list("", None)));
        }

        /// Whatever the history, and however it is cut into batches, each snapshot is what a plain map says at its position,
        /// also after the fold has gone on.
        #[test]
        fn agrees_with_a_plain_map_at_every_batch(
            history in prop::collection::vec((0..6_usize, prop::option::of(0..4_u32), any::<bool>()), 0..120),
        ) {
            const NAMES: [&str; 6] = ["a", "a/b", "a0", "b", "é", "🦀"];
            let (mut fold, mut plain, mut versions) = (Fold::default(), BTreeMap::new(), BTreeMap::<_, u64>::new());
            let mut published = vec![(fold.snapshot(), plain.clone())];
            for (position, (name, value, publish)) in (1..).zip(history) {
                let version = *versions.entry(name).and_modify(|version| *version += 1).or_insert(1);
                let payload = value.map_or("{}".to_owned(), |value| format!("{{\"value\":{value}}}"));
                fold.apply(&event(position, NAMES[name], version, &payload)).unwrap();
                match value {
                    Some(value) => plain.insert(NAMES[name], (value.to_string(), version, position)),
                    None => plain.remove(NAMES[name]),
                };
                if publish {
                    published.push((fold.snapshot(), plain.clone()));
                }
            }
            published.push((fold.snapshot(), plain));
            for (snapshot, plain) in published {
                let told: Vec<_> = snapshot.list("", None).map(|(name, entry)| {
                    (name, (entry.value().json().to_owned(), entry.version, entry.position.0))
                }).collect();
                prop_assert_eq!(told, plain.clone().into_iter().collect::<Vec<_>>());
                let prefixed: Vec<_> = snapshot.list("a", Some("a")).map(|(name, _)| name).collect();
                let expected: Vec<_> = plain.into_keys().filter(|name| name.starts_with('a') && *name != "a").collect();
                prop_assert_eq!(prefixed, expected);
            }
        }
    }
}
