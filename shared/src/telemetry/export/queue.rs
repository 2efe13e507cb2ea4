//! Spans that have ended wait here until they are many, or have waited long enough; a thread sends them.

use std::{
    collections::VecDeque,
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
    spans: VecDeque<Vec<u8>>,
    /// No more are sent behind these.
    closed: bool,
    /// Nobody sends any more.
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
        pending.spans.push_back(span);
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
    let _told_when_it_ends = Sending(shared);
    let mut dropped = 0;
    loop {
        let more_to_come = |pending: &mut Pending| pending.spans.len() < limits.batch && !pending.closed;
        let waited = shared.wake.wait_timeout_while(shared.pending(), limits.delay, more_to_come);
        let (mut pending, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        let waiting = pending.spans.len();
        let all = waited.timed_out() || pending.closed;
        let mut left = if all { waiting } else { waiting - waiting % limits.batch };
        while left > 0 {
            // One batch at a time, so that what is sent is freed and is not in the queue's way.
            let batch: Vec<_> = pending.spans.drain(..left.min(limits.batch)).collect();
            drop(pending);
            left -= batch.len();
            collector.export(&batch);
            pending = shared.pending();
        }
        if pending.closed && pending.spans.is_empty() {
            return;
        }
        drop(pending);
        let dropped_before = mem::replace(&mut dropped, shared.counters.now().dropped);
        if dropped > dropped_before {
            shared.counters.tell("more spans end than are sent");
        }
    }
}

/// The thread that sends. Whoever waits for its end is not left waiting, also when it panics.
struct Sending<'a>(&'a Shared);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let mut pending = self.0.pending();
        pending.done = true;
        let too_early = !pending.closed;
        drop(pending);
        self.0.done.notify_all();
        if too_early {
            tracing::error!("Traces are sent no more: their thread has ended; nothing else is affected");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Instant};

    use axum::http::HeaderMap;

    use super::{
        super::{
            CollectorSettings, Compression, Origin, TraceCounts,
            answering::{Answering, TAKEN},
        },
        *,
    };

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);

    fn queue(endpoint: &str, limits: QueueLimits) -> Queue {
        let endpoint = endpoint.parse().unwrap();
        let (headers, compression) = (HeaderMap::new(), Compression::None);
        let settings = CollectorSettings { endpoint, headers, compression, limit: HOUR };
        Queue::new(Collector::new(settings, Origin::default(), Arc::default()).unwrap(), limits).unwrap()
    }

    impl Queue {
        fn until_exported(&self, spans: u64) {
            let given_up = Instant::now() + MINUTE;
            while self.shared.counters.now().exported < spans {
                assert!(Instant::now() < given_up, "{:?}", self.shared.counters.now());
                thread::yield_now();
            }
        }

        fn counts(&self) -> TraceCounts {
            self.shared.counters.now()
        }
    }

    fn exported(spans: u64) -> TraceCounts {
        TraceCounts { exported: spans, ..TraceCounts::default() }
    }

    #[test]
    fn a_batch_goes_when_it_is_full_and_the_rest_at_the_end() {
        let answering = Answering::with(&[TAKEN]);
        let queue = queue(&answering.endpoint, QueueLimits { spans: 100, batch: 2, delay: HOUR });
        // So often that the thread was already waiting when a batch became full, and was woken.
        for batch in 1..=50 {
            queue.add(vec![]);
            queue.add(vec![]);
            queue.until_exported(2 * batch);
        }
        queue.add(vec![]);
        queue.close(MINUTE);
        assert_eq!((queue.counts(), answering.asked().len()), (exported(101), 51));
    }

    #[test]
    fn what_is_more_than_a_batch_goes_in_several() {
        let answering = Answering::with(&[TAKEN]);
        let queue = queue(&answering.endpoint, QueueLimits { spans: 100, batch: 2, delay: HOUR });
        queue.shared.pending().spans.extend(vec![vec![]; 5]);
        queue.shared.counters.waiting.store(5, Relaxed);
        queue.close(MINUTE);
        assert_eq!((queue.counts(), answering.asked().len()), (exported(5), 3));
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_and_nobody_waits() {
        let answering = Answering::with(&[TAKEN]);
        let queue = queue(&answering.endpoint, QueueLimits { spans: 3, batch: 4, delay: HOUR });
        for _ in 0..5 {
            queue.add(vec![]);
        }
        queue.close(MINUTE);
        assert_eq!(queue.counts(), TraceCounts { dropped: 2, ..exported(3) });
        assert_eq!(answering.asked().len(), 1);
    }

    #[test]
    fn a_full_queue_is_told_though_all_that_is_sent_arrives() {
        let answering = Answering::with(&[TAKEN]);
        let queue = queue(&answering.endpoint, QueueLimits { spans: 1, batch: 1, delay: Duration::from_millis(1) });
        queue.shared.counters.waiting.store(1, Relaxed);
        queue.add(vec![]);
        let given_up = Instant::now() + MINUTE;
        while queue.shared.counters.told.lock().unwrap().lost == 0 {
            assert!(Instant::now() < given_up, "{:?}", queue.counts());
            thread::yield_now();
        }
        queue.close(MINUTE);
        assert_eq!(queue.counts(), TraceCounts { dropped: 1, ..TraceCounts::default() });
    }

    #[test]
    fn what_ended_waits_no_longer_than_it_was_told() {
        let answering = Answering::with(&[TAKEN]);
        let queue = queue(&answering.endpoint, QueueLimits { spans: 100, batch: 100, delay: Duration::from_millis(1) });
        queue.add(vec![]);
        queue.until_exported(1);
        queue.close(MINUTE);
        assert_eq!((queue.counts(), answering.asked().len()), (exported(1), 1));
    }

    #[test]
    fn the_end_waits_for_no_collector_longer_than_it_may() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        let queue = queue(&endpoint, QueueLimits { spans: 100, batch: 100, delay: HOUR });
        queue.add(vec![]);
        let began = Instant::now();
        queue.close(Duration::from_millis(10));
        assert!((Duration::from_millis(10)..MINUTE).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert_eq!(queue.shared.counters.waiting.load(Relaxed), 1);
    }
}
