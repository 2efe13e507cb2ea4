//! How the tail is doing, for `GET /v1/projection`, for health, and for the header that tells a reader how fresh its answer is.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use serde::Serialize;
use shared::{moment::Moment, position::Position};
use tokio::sync::Notify;

use crate::metrics::HaltCause;

/// Written by the tail, read by everybody. Locked for a few instructions at a time.
#[derive(Debug)]
pub(crate) struct Status {
    now: Mutex<Report>,
    began: Instant,
    /// When the log was last heard of, in milliseconds since `began`; 0 = never. Read for every answer, so without a lock.
    last_contact: AtomicU64,
    /// When readers last saw all of the log, in the same way.
    at_the_end: AtomicU64,
    rebuild: Notify,
}

/// The tail's own words.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) connected: bool,
    /// Why nothing further is applied.
    pub(crate) halted: Option<String>,
    /// The same in a word.
    pub(crate) halted_by: Option<HaltCause>,
    /// What readers have is kept at the log's end: not before the first replay, nor while a rewritten log is folded anew.
    pub(crate) following: bool,
    /// How far a replay is, while one runs.
    pub(crate) replaying: Option<Position>,
    /// The same in figures, once it has begun.
    pub(crate) progress: Option<Progress>,
    /// The last known position of the log.
    pub(crate) head: Position,
    pub(crate) last_replay: Option<ReplayFigures>,
    /// Replays that were completed after the first.
    pub(crate) rebuilds: u64,
    /// How often the log was found rewritten.
    pub(crate) divergences: u64,
    pub(super) rebuild_asked: bool,
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Progress {
    pub(crate) events: u64,
    /// The log's head when it began, or what it has replayed beyond.
    pub(crate) of: u64,
    pub(crate) percent: u64,
    pub(crate) events_per_second: u64,
    pub(crate) duration_ms: u64,
    #[serde(skip)]
    pub(crate) began: Instant,
    /// At this rate; `None` as long as there is none.
    pub(crate) seconds_left: Option<u64>,
}

/// A replay that was completed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ReplayFigures {
    pub(crate) events: u64,
    pub(crate) configurations: usize,
    pub(crate) duration_ms: u64,
    pub(crate) events_per_second: u64,
    pub(crate) finished_at: Moment,
}

/// One rebuild at a time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RebuildRunning;

impl Report {
    /// The state in a word; the worst first.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self { connected: false, .. } => "disconnected",
            Self { halted: Some(_), .. } => "halted",
            Self { replaying: Some(_), .. } => "replaying",
            _ => "live",
        }
    }
}

impl Status {
    pub(crate) fn new() -> Self {
        // It begins with a replay, as soon as there is a log to read.
        let now = Mutex::new(Report { replaying: Some(Position::ZERO), ..Report::default() });
        let began = Instant::now();
        Self { now, began, last_contact: AtomicU64::new(0), at_the_end: AtomicU64::new(0), rebuild: Notify::new() }
    }

    pub(crate) fn report(&self) -> Report {
        self.lock().clone()
    }

    /// Milliseconds since the log was last heard of; since the start when it never was.
    pub(crate) fn last_contact_ms(&self) -> u64 {
        self.uptime_ms().saturating_sub(self.last_contact.load(Relaxed))
    }

    /// 0 while readers, who are at `position`, see all that is known of the log; else the milliseconds since they last did.
    pub(crate) fn lag_ms(&self, report: &Report, position: Position) -> u64 {
        if report.connected && report.following && report.halted.is_none() && report.head <= position {
            return 0;
        }
        self.uptime_ms().saturating_sub(self.at_the_end.load(Relaxed))
    }

    /// Asks the tail to fold the log from zero.
    pub(crate) fn ask_for_rebuild(&self) -> Result<(), RebuildRunning> {
        let mut now = self.lock();
        if now.rebuild_asked || now.replaying.is_some() {
            return Err(RebuildRunning);
        }
        now.rebuild_asked = true;
        drop(now);
        self.rebuild.notify_one();
        Ok(())
    }

    /// Resolves when a rebuild is asked for.
    pub(super) async fn rebuild_asked(&self) {
        self.rebuild.notified().await;
    }

    /// Whether somebody asked for a rebuild; answering it is then the caller's.
    pub(super) fn take_rebuild(&self) -> bool {
        std::mem::take(&mut self.lock().rebuild_asked)
    }

    /// The log was read just now.
    pub(super) fn connected(&self) {
        self.heard();
        self.lock().connected = true;
    }

    /// The log was heard of just now.
    pub(super) fn heard(&self) {
        self.last_contact.store(self.uptime_ms().max(1), Relaxed);
    }

    /// Readers see all of the log.
    pub(super) fn at_the_end(&self) {
        self.at_the_end.store(self.uptime_ms().max(1), Relaxed);
    }

    pub(super) fn disconnected(&self) {
        self.lock().connected = false;
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rebuild_at_a_time() {
        let status = Status::new();
        assert_eq!(status.ask_for_rebuild(), Err(RebuildRunning), "the first replay");
        status.update(|now| now.replaying = None);
        assert_eq!(status.ask_for_rebuild(), Ok(()));
        assert_eq!(status.ask_for_rebuild(), Err(RebuildRunning), "asked for, not yet begun");
        assert!(status.take_rebuild());
        status.update(|now| now.replaying = Some(Position(1)));
        assert_eq!(status.ask_for_rebuild(), Err(RebuildRunning), "under way");
        status.update(|now| now.replaying = None);
        assert!(!status.take_rebuild());
        assert_eq!(status.ask_for_rebuild(), Ok(()));
    }

    #[test]
    fn lags_from_when_it_last_was_at_the_end() {
        let status = Status::new();
        status.update(|now| {
            (now.connected, now.following, now.replaying, now.head) = (true, true, None, Position(3));
        });
        let lags = |change: fn(&mut Report), position| {
            let mut report = status.report();
            change(&mut report);
            status.lag_ms(&report, Position(position)) > 0
        };
        while status.uptime_ms() < 2 {
            std::thread::yield_now();
        }
        assert!(!lags(|_| (), 3) && !lags(|_| (), 4));
        assert!(lags(|_| (), 2), "an event is known");
        assert!(lags(|now| now.connected = false, 3), "who knows");
        assert!(lags(|now| now.halted = Some("a hole".to_owned()), 3));
        assert!(lags(|now| now.following = false, 3), "the log was rewritten");
        status.at_the_end();
        assert!(status.lag_ms(&status.report(), Position(2)) < status.uptime_ms(), "it was there meanwhile");
    }

    #[test]
    fn tells_the_worst_first() {
        let mut report = Report { connected: true, ..Report::default() };
        assert_eq!(report.word(), "live");
        report.replaying = Some(Position(1));
        assert_eq!(report.word(), "replaying");
        report.halted = Some("a hole".to_owned());
        assert_eq!(report.word(), "halted");
        report.connected = false;
        assert_eq!(report.word(), "disconnected");
    }
}
