//! Traces of this process: where they go, which requests have one, and that all are out at the end.
//!
//! ```text
//! spans ─► sampler ─► export: queue (bounded) ─► OTLP over HTTP, on a thread of its own
//! ```
//!
//! Without an endpoint there is none of it: spans are not even made.

use std::{
    borrow::Cow,
    io,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use opentelemetry::trace::{SpanContext, SpanKind, TraceState};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};
use rand::RngExt as _;

use super::{
    export::{Collector, Counters, NoCollector, Origin, Queue, SpanLimits, SpanRecord, TraceCounts},
    sampler::Sampler,
    spans::now,
    trace_settings::{InvalidVariable, Settings, of_process, resource},
};
use crate::ids::Ids;

/// Part of reads without a sampled parent that have a trace, when nothing else is said.
pub const DEFAULT_READS_RATIO: f64 = 0.01;

/// Longest that the end of a process waits for its traces to be sent.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// Schema of the names of spans and attributes.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.44.0";

static TRACES: OnceLock<Traces> = OnceLock::new();

/// The process has no traces although it was told to.
#[derive(Debug, thiserror::Error)]
pub enum NoTraces {
    /// A variable cannot be used.
    #[error(transparent)]
    Variable(#[from] InvalidVariable),
    /// The client that sends them could not be made.
    #[error(transparent)]
    Collector(#[from] NoCollector),
    /// The system gave no thread that sends them.
    #[error("traces have no thread to send them")]
    NoThread(#[source] io::Error),
}

/// What the process is told about its traces, beside the `OTEL_*` variables.
#[derive(Clone, Copy, Debug)]
pub struct TraceArgs {
    /// `service.name`, unless `OTEL_SERVICE_NAME` says another.
    pub program: &'static str,
    /// Part of reads without a sampled parent that have a trace, 0 to 1.
    pub reads_ratio: f64,
}

/// The process's traces.
#[derive(Debug)]
pub(super) struct Traces {
    sampler: Sampler,
    limits: SpanLimits,
    queue: Queue,
    counters: Arc<Counters>,
    /// Of a random number below 2^32, that many have a trace.
    reads_below: u64,
}

impl Traces {
    /// As the variables say; `None` when they name no endpoint.
    pub(super) fn from_environment(args: TraceArgs) -> Result<Option<Self>, NoTraces> {
        let Some(settings) = Settings::read(&of_process)? else { return Ok(None) };
        let counters = Arc::<Counters>::default();
        let process = resource(args.program, Ids::time_ordered(), &of_process);
        let origin = Origin::new(&process, ("config-api", env!("CARGO_PKG_VERSION")), SCHEMA);
        let collector = Collector::new(settings.collector, origin, Arc::clone(&counters))?;
        let queue = Queue::new(collector, settings.queue).map_err(NoTraces::NoThread)?;
        let (sampler, limits, reads_below) = (settings.sampler, settings.span, reads_below(args.reads_ratio));
        Ok(Some(Self { sampler, limits, queue, counters, reads_below }))
    }

    /// A span that began then, or begins now: what it hands on, and the span itself where it is sampled.
    pub(super) fn start(
        &self,
        parent: Option<&SpanContext>,
        kind: &SpanKind,
        name: impl FnOnce() -> Cow<'static, str>,
        since: Option<SystemTime>,
    ) -> (SpanContext, Option<LiveSpan>) {
        let ids = RandomIdGenerator::default();
        let trace = parent.map_or_else(|| ids.new_trace_id(), SpanContext::trace_id);
        let sampled = self.sampler.wants(parent, trace);
        let flags = parent.map(SpanContext::trace_flags).unwrap_or_default().with_sampled(sampled);
        let state = parent.map_or(TraceState::NONE, |parent| parent.trace_state().clone());
        let context = SpanContext::new(trace, ids.new_span_id(), flags, false, state);
        let span = sampled.then(|| {
            let since = since.unwrap_or_else(now);
            LiveSpan(SpanRecord::begin(&context, parent, (kind, &name()), since, self.limits))
        });
        (context, span)
    }

    /// They are the process's from now on.
    pub(super) fn begin(self) {
        let _only_once = TRACES.set(self);
    }

    /// Whether a read without a sampled parent has a trace, if the sampler agrees.
    pub(super) fn wants_read(&self) -> bool {
        u64::from(rand::rng().random::<u32>()) < self.reads_below
    }
}

/// A span under way. It ends when it is dropped, and is sent.
#[derive(Debug)]
pub(super) struct LiveSpan(pub(super) SpanRecord);

impl Drop for LiveSpan {
    fn drop(&mut self) {
        if let Some(traces) = traces() {
            traces.queue.add(self.0.end(now()));
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a ratio of 0 to 1 times 2^32 fits")]
fn reads_below(ratio: f64) -> u64 {
    (ratio.clamp(0.0, 1.0) * 2_f64.powi(32)).round() as u64
}

/// The process's traces, if it has any.
pub(super) fn traces() -> Option<&'static Traces> {
    TRACES.get()
}

/// What became of this process's spans; `None` when it has no traces.
#[must_use]
pub fn trace_counts() -> Option<TraceCounts> {
    traces().map(|traces| traces.counters.now())
}

/// Sends what has ended, and returns when it is out or its time is up. The last thing that a process does but one: whatever
/// has a span must have ended.
pub(super) fn shut_down() {
    if let Some(traces) = traces() {
        traces.queue.close(SHUTDOWN_LIMIT);
        traces.counters.tell_the_rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_of_the_reads_or_all_of_them() {
        assert_eq!((reads_below(0.0), reads_below(1.0), reads_below(0.5)), (0, 1 << 32, 1 << 31));
    }
}
