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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::http::HeaderMap;

    use super::{
        super::{Sender, TraceCounts, answering::answering},
        *,
    };

    const TAKEN: &str = "200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const HOUR: Duration = Duration::from_secs(3600);

    fn queue(endpoint: url::Url, limits: QueueLimits) -> Queue {
        let counters = Arc::<Counters>::default();
        let collector = Collector::new(endpoint, HeaderMap::new(), HOUR, Sender::default(), counters).unwrap();
        Queue::new(collector, limits).unwrap()
    }

    #[test]
    fn a_batch_goes_when_it_is_full_and_the_rest_at_the_end() {
        let (endpoint, asked) = answering(&[TAKEN, TAKEN]);
        let queue = queue(endpoint, QueueLimits { spans: 100, batch: 2, delay: HOUR });
        let counters = &queue.shared.counters;
        queue.add(vec![]);
        queue.add(vec![]);
        let given_up = Instant::now() + Duration::from_secs(60);
        while counters.now().exported < 2 {
            assert!(Instant::now() < given_up, "a full batch was not sent");
            thread::yield_now();
        }
        queue.add(vec![]);
        queue.close(HOUR);
        assert_eq!(counters.now(), TraceCounts { exported: 3, ..TraceCounts::default() });
        assert_eq!(asked.join().unwrap().len(), 2);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_and_nobody_waits() {
        let (endpoint, asked) = answering(&[TAKEN]);
        let queue = queue(endpoint, QueueLimits { spans: 3, batch: 4, delay: HOUR });
        for _ in 0..5 {
            queue.add(vec![]);
        }
        queue.close(HOUR);
        assert_eq!(queue.shared.counters.now(), TraceCounts { exported: 3, dropped: 2, ..TraceCounts::default() });
        assert_eq!(asked.join().unwrap().len(), 1);
    }

    #[test]
    fn what_ended_waits_no_longer_than_it_was_told() {
        let (endpoint, asked) = answering(&[TAKEN]);
        let queue = queue(endpoint, QueueLimits { spans: 100, batch: 100, delay: Duration::from_millis(1) });
        queue.add(vec![]);
        assert_eq!(asked.join().unwrap().len(), 1);
    }

    #[test]
    fn the_end_waits_for_no_collector_longer_than_it_may() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        let queue = queue(endpoint, QueueLimits { spans: 100, batch: 100, delay: HOUR });
        queue.add(vec![]);
        queue.close(Duration::from_millis(10));
        assert_eq!(queue.shared.counters.waiting.load(Relaxed), 1);
    }
}
