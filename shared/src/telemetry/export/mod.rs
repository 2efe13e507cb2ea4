//! Spans on their way to the collector: recorded as bytes, queued, and sent by a thread of their own, so that nobody waits for
//! them. What is lost is counted, and told once in a while (ADR 22).
//!
//! ```text
//! record (a span under way) ─► queue (bounded) ─► its thread ─► otlp (the body) ─► collector (HTTP, attempts)
//!    └── otlp (attributes) ─► protobuf (bytes)
//! ```

#[cfg(test)]
mod answering;
mod collector;
mod otlp;
mod protobuf;
mod queue;
mod record;

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

pub use self::otlp::Attribute;
pub(super) use self::{
    collector::{Collector, CollectorSettings, Compression, NoCollector},
    otlp::Origin,
    queue::{Queue, QueueLimits},
    record::{SpanLimits, SpanRecord},
};

/// How often it is told that spans are lost.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What became of spans since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// The collector has them.
    pub exported: u64,
    /// They were sent, and no answer said that they arrived, or one that they were not taken.
    pub failed: u64,
    /// The queue was full: they were never sent.
    pub dropped: u64,
    /// Exports, of many spans each, that failed, or were not taken whole.
    pub export_errors: u64,
}

/// Shared by the queue's two ends.
#[derive(Debug, Default)]
pub(super) struct Counters {
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    export_errors: AtomicU64,
    /// In the queue.
    waiting: AtomicUsize,
    told: Mutex<Told>,
}

/// What the log has heard.
#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    lost: u64,
}

impl Counters {
    pub(super) fn now(&self) -> TraceCounts {
        TraceCounts {
            exported: self.exported.load(Relaxed),
            failed: self.failed.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            export_errors: self.export_errors.load(Relaxed),
        }
    }

    /// Tells that spans are lost: at once for the first, then as often as [`TELL_EVERY`] allows.
    fn tell(&self, why: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return;
        }
        let TraceCounts { failed, dropped, .. } = self.now();
        let lost = failed + dropped - std::mem::replace(&mut told.lost, failed + dropped);
        told.at = Some(Instant::now());
        drop(told);
        tracing::warn!(lost, failed, dropped, "Traces are not sent: {why}; nothing else is affected");
    }

    /// Tells at the end what was lost since it was last told of.
    pub(super) fn tell_the_rest(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let TraceCounts { failed, dropped, .. } = self.now();
        let waiting = self.waiting.load(Relaxed) as u64;
        let lost = failed + dropped + waiting - std::mem::replace(&mut told.lost, failed + dropped);
        drop(told);
        if lost > 0 {
            tracing::warn!(lost, failed, dropped, "Traces were not all sent before the end");
        }
    }
}
