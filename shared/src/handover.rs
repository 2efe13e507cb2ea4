//! What a process appends to the log, handed to the tail of the same process: the standalone's projection need not ask
//! Postgres for what its own committer wrote a moment ago.
//!
//! A shortcut and no second way into the projection. What is handed over says which event it stands behind, as the append
//! found it under the log's lock; whoever has applied another event there, or none, reads the log instead. Nothing is lost
//! when something is not handed over: it is in the log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::{moment::Moment, name::ConfigName, position::Position};

/// What waits to be taken at most, in bytes; 16 MiB. What is more is read from the log.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// What surrounds an event's texts, and those of a unit, in bytes, about.
const AROUND_BYTES: usize = 150;

/// What one append wrote: its units stand behind each other, without a hole.
#[derive(Clone, Debug)]
pub struct AppendedGroup {
    /// The event in front of them, and which command wrote it; `None`: they begin the log.
    pub behind: Option<(Position, Uuid)>,
    /// In their order.
    pub units: Vec<AppendedUnit>,
}

/// One command's events, as they stand in the log.
#[derive(Clone, Debug)]
pub struct AppendedUnit {
    /// Which command.
    pub command_id: Uuid,
    /// When, by the database's clock under the log's lock.
    pub recorded_at: Moment,
    /// Of each of its events; JSON.
    pub metadata: String,
    /// In their order.
    pub events: Vec<AppendedEvent>,
}

/// An event of a configuration, of this release's version.
#[derive(Clone, Debug)]
pub struct AppendedEvent {
    /// Of which configuration.
    pub name: ConfigName,
    /// The configuration's version behind it.
    pub version: u64,
    /// Its type's name.
    pub event_type: &'static str,
    /// JSON.
    pub payload: String,
}

impl AppendedGroup {
    /// The place of the event in front of the first one.
    #[must_use]
    pub fn begins_behind(&self) -> Position {
        self.behind.map_or(Position::ZERO, |(position, _)| position)
    }

    /// The last event, and which command wrote it.
    #[must_use]
    pub fn end(&self) -> Option<(Position, Uuid)> {
        let events: usize = self.units.iter().map(|unit| unit.events.len()).sum();
        let last = Position(self.begins_behind().0 + u64::try_from(events).unwrap_or(u64::MAX));
        self.units.last().map(|unit| (last, unit.command_id))
    }

    fn bytes(&self) -> usize {
        let of_unit = |unit: &AppendedUnit| {
            let events = unit.events.iter().map(|event| event.name.len() + event.payload.len() + AROUND_BYTES);
            unit.metadata.len() + AROUND_BYTES + events.sum::<usize>()
        };
        self.units.iter().map(of_unit).sum()
    }
}

/// The committer's end; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Giver(Arc<Shared>);

/// The tail's end.
#[derive(Debug)]
pub struct Taker(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    appended: Vec<AppendedGroup>,
    bytes: usize,
    /// Something was appended, or may have been, that is not among them.
    incomplete: bool,
    /// The server process that appends.
    writer: Option<u32>,
}

/// What was handed over since it was last asked.
#[derive(Debug)]
pub struct Taken {
    /// In the order of the log.
    pub appended: Vec<AppendedGroup>,
    /// Whether that is all that the process appended; otherwise the log is to be read.
    pub complete: bool,
}

impl Giver {
    /// The end at which it arrives.
    #[must_use]
    pub fn taker(&self) -> Taker {
        Taker(Arc::clone(&self.0))
    }

    /// Hands over what the server process `writer` has just committed.
    pub fn give(&self, appended: AppendedGroup, writer: u32) {
        let mut waiting = self.0.lock();
        waiting.writer = Some(writer);
        waiting.bytes += appended.bytes();
        if waiting.bytes > MAX_WAITING_BYTES {
            waiting.incomplete = true;
        }
        // Behind what is missing nothing can be applied.
        if waiting.incomplete {
            (waiting.appended, waiting.bytes) = (vec![], 0);
        } else {
            waiting.appended.push(appended);
        }
        drop(waiting);
        self.0.woken.notify_one();
    }

    /// An append was, or may yet be, carried out without being handed over. The hints of the server process that did it
    /// count, where there are any.
    pub fn missed(&self) {
        let mut waiting = self.0.lock();
        (waiting.incomplete, waiting.writer) = (true, None);
        drop(waiting);
        self.0.woken.notify_one();
    }
}

impl Taker {
    /// Resolves when there is something to [`take`](Self::take).
    pub async fn arrived(&self) {
        self.0.woken.notified().await;
    }

    /// All that has arrived.
    #[must_use]
    pub fn take(&self) -> Taken {
        let mut waiting = self.0.lock();
        waiting.bytes = 0;
        Taken { appended: std::mem::take(&mut waiting.appended), complete: !std::mem::take(&mut waiting.incomplete) }
    }

    /// Whether what this server process appends is handed over, so that its hints, where there are any, say nothing new.
    #[must_use]
    pub fn is_told_by(&self, server_process: u32) -> bool {
        self.0.lock().writer == Some(server_process)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(behind: u64, payload: &str) -> AppendedGroup {
        let event = AppendedEvent {
            name: ConfigName::stored("a"),
            version: behind + 1,
            event_type: "ConfigValueSet",
            payload: payload.to_owned(),
        };
        let unit = AppendedUnit {
            command_id: Uuid::from_u128(u128::from(behind) + 1),
            recorded_at: "2024-01-15T10:30:00Z".parse().expect("a moment"),
            metadata: "{}".to_owned(),
            events: vec![event.clone(), event],
        };
        let behind = (behind > 0).then(|| (Position(behind), Uuid::from_u128(u128::from(behind))));
        AppendedGroup { behind, units: vec![unit] }
    }

    #[tokio::test]
    async fn what_is_given_is_taken_once_and_in_order() {
        let giver = Giver::default();
        let taker = giver.taker();
        assert!(!taker.is_told_by(7));
        giver.give(appended(0, "1"), 7);
        giver.give(appended(2, "2"), 7);
        taker.arrived().await;
        assert!(taker.is_told_by(7) && !taker.is_told_by(8));
        let taken = taker.take();
        let ends: Vec<_> =
            taken.appended.iter().map(|appended| appended.end().map(|(position, _)| position.0)).collect();
        assert_eq!((ends, taken.complete), (vec![Some(2), Some(4)], true));
        assert_eq!(taken.appended[1].begins_behind(), Position(2));
        assert!(taker.take().appended.is_empty());
    }

    /// A tail that is away, or folds from zero, takes nothing for a while.
    #[tokio::test]
    async fn what_nobody_takes_is_bounded_and_then_known_to_be_incomplete() {
        let giver = Giver::default();
        let taker = giver.taker();
        // Each has two events.
        let large = "x".repeat(MAX_WAITING_BYTES / 8 - 2 * AROUND_BYTES);
        for behind in 0..4 {
            giver.give(appended(behind * 2, &large), 7);
        }
        let taken = taker.take();
        assert_eq!((taken.appended.len(), taken.complete), (4, true), "up to the limit");
        for behind in 0..9 {
            giver.give(appended(behind * 2, &large), 7);
        }
        let taken = taker.take();
        assert_eq!((taken.appended.len(), taken.complete), (0, false));
        giver.give(appended(30, "1"), 7);
        let taken = taker.take();
        assert_eq!((taken.appended.len(), taken.complete), (1, true), "and goes on behind it");
    }

    #[tokio::test]
    async fn what_may_be_in_the_log_beside_it_is_said() {
        let giver = Giver::default();
        let taker = giver.taker();
        giver.give(appended(0, "1"), 7);
        giver.missed();
        giver.give(appended(2, "2"), 8);
        taker.arrived().await;
        assert!(!taker.is_told_by(7));
        let taken = taker.take();
        assert_eq!((taken.appended.len(), taken.complete), (0, false));
        assert!(taker.take().complete, "once");
    }
}
