//! Spans that have ended wait here until they are many, or have waited long enough; a thread sends them.

use std::{
    io, mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use super::{Collector, Counters};

/// How many spans wait, how many are sent at once, and how long they wait until they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry) struct QueueLimits {
    /// Further ones are dropped.
    pub(in crate::telemetry) spans: usize,
    pub(in crate::telemetry) batch: usize,
    pub(in crate::telemetry) delay: Duration,
}

/// The end at which spans go in.
#[derive(Debug)]
pub(in crate::telemetry) struct Queue {
    shared: Arc<Shared>,
    limits: QueueLimits,
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
    /// There is a batch, or no more will come.
    wake: Condvar,
    /// All is sent.
    done: Condvar,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Pending {
    spans: Vec<Vec<u8>>,
    closed: bool,
    done: bool,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// In front of that collector.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub(in crate::telemetry) fn new(collector: Collector, limits: QueueLimits) -> io::Result<Self> {
        let counters = Arc::clone(collector.counters());
        let (pending, wake, done) = Default::default();
        let shared = Arc::new(Shared { pending, wake, done, counters });
        let sending = Arc::clone(&shared);
        thread::Builder::new().name("traces".to_owned()).spawn(move || send(&sending, &collector, limits))?;
        Ok(Self { shared, limits })
    }

    /// A span that has ended; it is dropped when the queue is full.
    pub(in crate::telemetry) fn add(&self, span: Vec<u8>) {
        let counters = &self.shared.counters;
        if counters.waiting.fetch_add(1, Relaxed) >= self.limits.spans {
            counters.waiting.fetch_sub(1, Relaxed);
            counters.dropped.fetch_add(1, Relaxed);
            return;
        }
        let mut pending = self.shared.pending();
        pending.spans.push(span);
        let is_batch = pending.spans.len() == self.limits.batch;
        drop(pending);
        // Not for each: who wakes a thread pays for it.
        if is_batch {
            self.shared.wake.notify_one();
        }
    }

    /// Sends what is there, and returns when that is done or its time is up.
    pub(in crate::telemetry) fn close(&self, limit: Duration) {
        let mut pending = self.shared.pending();
        pending.closed = true;
        self.shared.wake.notify_one();
        let _late = self.shared.done.wait_timeout_while(pending, limit, |pending| !pending.done);
    }
}

fn send(shared: &Shared, collector: &Collector, limits: QueueLimits) {
    loop {
        let more_to_come = |pending: &mut Pending| pending.spans.len() < limits.batch && !pending.closed;
        let waited = shared.wake.wait_timeout_while(shared.pending(), limits.delay, more_to_come);
        let (mut pending, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (spans, closed) = (mem::take(&mut pending.spans), pending.closed);
        drop(pending);
        for batch in spans.chunks(limits.batch) {
            collector.export(batch);
        }
        if closed {
            shared.pending().done = true;
            shared.done.notify_all();
            return;
        }
    }
}
