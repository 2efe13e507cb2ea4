//! A replay: the log folded from zero into a state of its own, which readers do not see before it is complete.

use std::time::{Duration, Instant};

use shared::{clock::Clock, position::Position};

use super::status::ReplayFigures;
use crate::projection::Fold;

/// How often a long replay tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Under way. It survives the connection that it began on.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) fold: Fold,
    /// The log's head when it began.
    target: Position,
    began: Instant,
    told: Instant,
}

impl Replay {
    /// Begins at zero, towards the log's present head.
    pub(super) fn begin(head: Position) -> Self {
        tracing::info!("Rebuilding ConfigStateProjection state from existing events...");
        tracing::info!("Found {head} events to replay");
        let now = Instant::now();
        Self { fold: Fold::default(), target: head, began: now, told: now }
    }

    /// Whether readers may have it: it has what the log had when it began, and what they have already seen, and ends where a
    /// command does, which is sure only at an end of the log.
    pub(super) fn has_caught_up(&self, drained: bool, seen: Position) -> bool {
        let position = self.fold.position();
        position >= seen && (drained || position == self.target)
    }

    /// Tells how far it is, now and then.
    pub(super) fn tell_progress(&mut self) {
        if self.told.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.told = Instant::now();
        let (events, target) = (self.fold.position().0, self.target.0.max(self.fold.position().0));
        let events_per_second = rate(events, self.began.elapsed());
        let percent = events * 100 / target.max(1);
        tracing::info!(events_per_second, "Replayed {events} of {target} events ({percent} %)");
    }

    /// Tells that it is complete.
    pub(super) fn complete(self, clock: Clock) -> (Fold, ReplayFigures) {
        let (events, configurations, took) = (self.fold.position().0, self.fold.configurations(), self.began.elapsed());
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let events_per_second = rate(events, took);
        tracing::info!(
            events,
            duration_ms,
            events_per_second,
            "State rebuild complete: {configurations} configurations restored"
        );
        let finished_at = clock.now();
        (self.fold, ReplayFigures { events, configurations, duration_ms, events_per_second, finished_at })
    }
}

fn rate(events: u64, took: Duration) -> u64 {
    let micros = took.as_micros().max(1);
    u64::try_from(u128::from(events) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_not_shown_before_it_has_what_readers_have_seen() {
        let replay = Replay::begin(Position::ZERO);
        assert!(replay.has_caught_up(true, Position::ZERO));
        assert!(replay.has_caught_up(false, Position::ZERO), "it is at the head that it began with");
        assert!(!replay.has_caught_up(true, Position(1)));
        assert!(!Replay::begin(Position(1)).has_caught_up(false, Position::ZERO));
        assert!(Replay::begin(Position(1)).has_caught_up(true, Position::ZERO), "the log has become shorter");
    }

    #[test]
    fn rates_are_whole_events_a_second() {
        assert_eq!(rate(1_000, Duration::from_millis(500)), 2_000);
        assert_eq!(rate(5, Duration::ZERO), 5_000_000);
    }
}
