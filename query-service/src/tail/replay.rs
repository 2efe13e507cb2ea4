//! A replay: the log folded from zero into a state of its own, which readers do not see before it is complete.
//!
//! What lies far behind the head is copied (`copy`), the rest is read page by page as in following, so that there is no hole
//! at the seam.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use shared::{
    clock::Clock,
    position::Position,
    telemetry::{
        Chain,
        spans::{self, TraceSpan},
    },
};

use super::{
    Options,
    copy::{Copied, CopyEnd, Copying},
    link::{Link, LinkError},
    page::{self, PageEnd},
    status::{Progress, ReplayFigures},
};
use crate::projection::{Fold, free_aside};

/// How often a long replay tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// A replay of fewer events is read page by page: connections would take longer than they save.
const SHORTEST_COPY: u64 = 10_000;

/// Under way. It survives the connection that it began on.
#[derive(Debug)]
pub(super) struct Replay {
    /// Empty while it is copied.
    fold: Fold,
    copying: Option<Copying>,
    /// Copying is done, or not to be had.
    by_pages: bool,
    /// The log's head when it began.
    target: Position,
    began: Instant,
    told: Instant,
    trace: TraceSpan,
}

impl Replay {
    /// Begins at zero, towards the log's present head.
    pub(super) fn begin(head: Position) -> Self {
        tracing::info!("Rebuilding ConfigStateProjection state from existing events...");
        tracing::info!("Found {head} events to replay");
        let now = Instant::now();
        Self {
            fold: Fold::towards(head),
            copying: None,
            by_pages: false,
            target: head,
            began: now,
            told: now,
            trace: spans::replay(head.0),
        }
    }

    /// How far it is.
    pub(super) fn position(&self) -> Position {
        self.copying.as_ref().map_or(self.fold.position(), Copying::position)
    }

    /// Goes on: reads a page of up to `rows`, or sees to the copy; `None` while that is under way. Of a log that is `halted`
    /// only the next event is of interest, so no copy begins.
    pub(super) async fn go_on(
        &mut self,
        link: &mut Link,
        options: &Options,
        rows: i64,
        halted: bool,
    ) -> Result<Option<PageEnd>, LinkError> {
        if self.copying.as_ref().is_some_and(|copying| !copying.is_over()) {
            return Ok(None);
        }
        if let Some(copying) = self.copying.take() {
            let Copied { fold, end } = copying.end().await;
            self.fold = fold;
            return Ok(Some(self.after_copy(end?)));
        }
        let left = self.target.0.saturating_sub(self.fold.position().0);
        if left >= SHORTEST_COPY && !halted && !self.by_pages {
            self.copying = Some(Copying::start(options, mem::take(&mut self.fold), self.target));
            return Ok(None);
        }
        page::read(link, &mut self.fold, rows).await.map(Some)
    }

    fn after_copy(&mut self, end: CopyEnd) -> PageEnd {
        match end {
            CopyEnd::Complete => self.by_pages = true,
            CopyEnd::Refused(error) => {
                self.by_pages = true;
                tracing::warn!(error = %Chain(&error), "Replaying through one connection: the database allows no others");
            }
            CopyEnd::Stopped => {}
            CopyEnd::Rewritten => return PageEnd::Rewritten,
            CopyEnd::Faulty(fault) => return PageEnd::Faulty(fault),
        }
        PageEnd::Full
    }

    /// Resolves when a copy is over; never without one.
    pub(super) async fn copied(&mut self) {
        match &mut self.copying {
            Some(copying) => copying.over().await,
            None => std::future::pending().await,
        }
    }

    /// The connection is lost: so will be those of the copy. It goes on from where it is when there is another.
    pub(super) async fn interrupt(&mut self) {
        self.trace.event("interrupted", &[]);
        if let Some(copying) = self.copying.take() {
            copying.stop();
            self.fold = copying.end().await.fold;
        }
        self.by_pages = false;
    }

    /// Given up: freed aside, and while it is copied by the thread that folds it.
    pub(super) fn give_up(mut self) {
        self.trace.fail("rewritten");
        if self.copying.is_none() {
            free_aside(Arc::new(self.fold.into_snapshot()));
        }
    }

    /// Whether readers may have it: it has what the log had when it began, and what they have already seen, and ends where a
    /// command does, which is sure only at an end of the log.
    pub(super) fn has_caught_up(&self, drained: bool, seen: Position) -> bool {
        let position = self.fold.position();
        position >= seen && (drained || position == self.target)
    }

    /// How far it is, in figures.
    pub(super) fn progress(&self) -> Progress {
        let events = self.position().0;
        let (of, took) = (self.target.0.max(events), self.began.elapsed());
        let events_per_second = rate(events, took);
        let seconds_left = (of - events).checked_div(events_per_second);
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let (percent, began) = (events * 100 / of.max(1), self.began);
        Progress { events, of, percent, events_per_second, duration_ms, began, seconds_left }
    }

    /// Tells how far it is, now and then.
    pub(super) fn tell_progress(&mut self) {
        if self.told.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.told = Instant::now();
        let Progress { events, of, percent, events_per_second, seconds_left, .. } = self.progress();
        let left = seconds_left.map_or("some time".to_owned(), |seconds| format!("about {seconds} s"));
        tracing::info!(events_per_second, "Replayed {events} of {of} events ({percent} %), {left} left");
    }

    /// Tells that it is complete.
    pub(super) fn complete(mut self, clock: Clock) -> (Fold, ReplayFigures) {
        let (events, configurations, took) = (self.fold.position().0, self.fold.configurations(), self.began.elapsed());
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let events_per_second = rate(events, took);
        tracing::info!(
            events,
            duration_ms,
            events_per_second,
            "State rebuild complete: {configurations} configurations restored"
        );
        let figure = |figure: u64| i64::try_from(figure).unwrap_or(i64::MAX);
        self.trace.set("messaging.batch.message_count", figure(events));
        self.trace.set("config.configurations", spans::count(configurations));
        self.trace.set("config.events_per_second", figure(events_per_second));
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
    fn tells_how_far_it_is() {
        let Progress { events, of, percent, seconds_left, .. } = Replay::begin(Position(200)).progress();
        assert_eq!((events, of, percent, seconds_left), (0, 200, 0, None), "it has no rate yet");
        assert_eq!(Replay::begin(Position::ZERO).progress().percent, 0);
    }

    #[test]
    fn rates_are_whole_events_a_second() {
        assert_eq!(rate(1_000, Duration::from_millis(500)), 2_000);
        assert_eq!(rate(5, Duration::ZERO), 5_000_000);
    }
}
