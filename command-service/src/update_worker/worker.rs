//! The worker, and who watches over it.

use std::{
    mem,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use serde::Serialize;
use shared::{backoff::Backoff, clock::Clock, moment::Moment, panic_message, redaction::Redaction};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{QUEUE_BYTES, QUEUE_UPDATES, Update};

/// Longest that one update may take to be told, in milliseconds. It is a line of the log; a reader of the log that takes
/// none for longer holds up whatever else is logged too.
const MAX_TELLING_MS: u64 = 5_000;

/// How long the worker rests when it has told all there was, 5 ms. What comes meanwhile is told together: to wake it is work for
/// whoever writes, at the moment at which the answer is due.
const PAUSE: Duration = Duration::from_millis(5);

/// What the worker has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Updates that it told, since the process began.
    pub message_count: u64,
    /// How long it has run since its last start.
    pub uptime_seconds: u64,
    /// Its last start.
    pub started_at: Moment,
    /// How often it crashed and was started again.
    pub restarts: u64,
    /// Updates that were not told because its queue was full.
    pub dropped: u64,
}

#[derive(Debug)]
struct Counters {
    messages: AtomicU64,
    restarts: AtomicU64,
    dropped: AtomicU64,
    queued_bytes: AtomicUsize,
    /// It takes updates: not before its first start, nor between a crash and the next.
    running: AtomicBool,
    began: Instant,
    /// Since when the update in its hands is being told, in milliseconds since `began`; 0 when there is none.
    telling_since: AtomicU64,
    started_at: Mutex<Moment>,
}

impl Counters {
    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Why the worker does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unwell {
    /// It crashed, and is not started again yet.
    Down,
    /// It has told one update for so many seconds.
    Stuck(u64),
}

/// Through which the worker is fed and asked; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    queue: mpsc::Sender<Update>,
    counters: Arc<Counters>,
    clock: Clock,
}

impl Handle {
    /// Hands over an update; when the queue is full it is counted as dropped. Never waits.
    pub fn notify(&self, update: Update) {
        let bytes = update.bytes();
        let queued = self.counters.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued + bytes > QUEUE_BYTES || self.queue.try_send(update).is_err() {
            self.counters.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            let before = self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            // Once at the first and then at every thousandth: a full queue must not flood the log as well.
            if before.is_multiple_of(1000) {
                tracing::warn!(dropped = before + 1, "ConfigUpdateWorker's queue is full; updates are not told");
            }
        }
    }

    /// Updates that wait.
    pub(crate) fn queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Whether the worker does its work.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn well(&self) -> Result<(), Unwell> {
        if !self.counters.running.load(Ordering::Acquire) {
            return Err(Unwell::Down);
        }
        match self.counters.telling_since.load(Ordering::Acquire) {
            0 => Ok(()),
            since => match self.counters.uptime_ms().saturating_sub(since) {
                told_ms if told_ms > MAX_TELLING_MS => Err(Unwell::Stuck(told_ms / 1000)),
                _ => Ok(()),
            },
        }
    }

    /// What the worker has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let started_at = *self.counters.started_at.lock().unwrap_or_else(PoisonError::into_inner);
        Stats {
            message_count: self.counters.messages.load(Ordering::Relaxed),
            uptime_seconds: self.clock.now().millis_since(started_at) / 1000,
            started_at,
            restarts: self.counters.restarts.load(Ordering::Relaxed),
            dropped: self.counters.dropped.load(Ordering::Relaxed),
        }
    }
}

/// Tells an update, given its number.
pub(super) type Teller = Box<dyn Fn(&Update, u64) + Send>;

/// The task; [`UpdateWorker::run`] it.
pub struct UpdateWorker {
    queue: mpsc::Receiver<Update>,
    counters: Arc<Counters>,
    clock: Clock,
    tell: Teller,
}

impl std::fmt::Debug for UpdateWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpdateWorker").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl UpdateWorker {
    /// A worker that logs updates, and the handle to it.
    #[must_use]
    pub fn new(redaction: Redaction, clock: Clock) -> (Self, Handle) {
        Self::telling(clock, Box::new(move |update, number| log(&redaction, update, number)))
    }

    pub(super) fn telling(clock: Clock, tell: Teller) -> (Self, Handle) {
        let (sender, queue) = mpsc::channel(QUEUE_UPDATES);
        let (messages, restarts, dropped) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let counters = Arc::new(Counters {
            messages,
            restarts,
            dropped,
            queued_bytes: AtomicUsize::new(0),
            running: AtomicBool::new(false),
            began: Instant::now(),
            telling_since: AtomicU64::new(0),
            started_at: Mutex::new(clock.now()),
        });
        let handle = Handle { queue: sender, counters: Arc::clone(&counters), clock };
        (Self { queue, counters, clock, tell }, handle)
    }

    /// Tells updates until `stop`, and what is queued by then. Starts anew after a crash; the update that crashed it is lost.
    ///
    /// # Errors
    /// Never: the type is that of critical tasks.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            tracing::info!("ConfigUpdateWorker starting...");
            *self.counters.started_at.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.now();
            tracing::info!("ConfigUpdateWorker registered as :config_update_worker and ready to receive messages");
            self.counters.running.store(true, Ordering::Release);
            let Err(panic) = AssertUnwindSafe(self.work(&stop, &mut backoff)).catch_unwind().await else {
                return Ok(());
            };
            self.counters.running.store(false, Ordering::Release);
            self.counters.telling_since.store(0, Ordering::Release);
            let restarts = self.counters.restarts.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::error!(restarts, "ConfigUpdateWorker crashed and is restarted: {}", panic_message(panic.as_ref()));
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    async fn work(&mut self, stop: &CancellationToken, backoff: &mut Backoff) {
        let mut told = false;
        loop {
            if mem::take(&mut told) && self.queue.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
            let update = tokio::select! {
                biased;
                update = self.queue.recv() => update,
                () = stop.cancelled() => self.queue.try_recv().ok(),
            };
            let Some(update) = update else { return };
            self.counters.queued_bytes.fetch_sub(update.bytes(), Ordering::Relaxed);
            self.counters.telling_since.store(self.counters.uptime_ms().max(1), Ordering::Release);
            (self.tell)(&update, self.counters.messages.load(Ordering::Relaxed) + 1);
            self.counters.telling_since.store(0, Ordering::Release);
            self.counters.messages.fetch_add(1, Ordering::Relaxed);
            backoff.reset();
            told = true;
        }
    }
}

fn log(redaction: &Redaction, update: &Update, number: u64) {
    let Update { name, old_value, new_value, recorded_at } = update;
    let shown = redaction.of(name);
    let old_value = shown.bare(old_value.as_ref());
    match new_value {
        Some(new_value) => {
            let new_value = shown.bare(Some(new_value));
            tracing::info!(
                "Config updated at {recorded_at}: name={name}, old_value={old_value}, new_value={new_value} [msg #{number}]"
            );
        }
        None => tracing::info!("Config deleted at {recorded_at}: name={name}, old_value={old_value} [msg #{number}]"),
    }
}

#[cfg(test)]
mod tests {
    use shared::name::ConfigName;

    use super::*;

    fn clock() -> Clock {
        Clock::told_by(|| "2024-01-01T10:00:00Z".parse().unwrap())
    }

    fn update(name: &str) -> Update {
        let name = ConfigName::stored(name);
        Update { name, old_value: None, new_value: None, recorded_at: clock().now() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_loses_the_update_that_caused_it_and_no_other() {
        let (told, mut heard) = mpsc::channel(10);
        let (worker, handle) = UpdateWorker::telling(
            clock(),
            Box::new(move |update, number| {
                assert_ne!(update.name.as_str(), "boom", "this update crashes the worker");
                told.try_send((update.name.to_string(), number)).unwrap();
            }),
        );
        let stop = CancellationToken::new();
        let mut running = tokio::task::JoinSet::new();
        running.spawn(worker.run(stop.clone()));
        for name in ["a", "boom", "b", "boom", "c"] {
            handle.notify(update(name));
        }
        for expected in [("a", 1), ("b", 2), ("c", 3)] {
            assert_eq!(heard.recv().await.unwrap(), (expected.0.to_owned(), expected.1));
        }
        stop.cancel();
        running.join_next().await.unwrap().unwrap().unwrap();
        let stats = handle.stats();
        assert_eq!((stats.message_count, stats.restarts, stats.dropped), (3, 2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_it_rests_is_told_together_and_a_stop_ends_the_rest() {
        let (told, mut heard) = mpsc::channel(10);
        let tell = move |_: &Update, number| told.try_send((number, tokio::time::Instant::now())).unwrap();
        let (worker, handle) = UpdateWorker::telling(clock(), Box::new(tell));
        let (stop, began) = (CancellationToken::new(), tokio::time::Instant::now());
        let mut running = tokio::task::JoinSet::new();
        running.spawn(worker.run(stop.clone()));
        handle.notify(update("a"));
        assert_eq!(heard.recv().await.unwrap(), (1, began), "who comes first is told at once");
        tokio::time::sleep(PAUSE / 5).await;
        handle.notify(update("b"));
        handle.notify(update("c"));
        assert_eq!(heard.recv().await.unwrap(), (2, began + PAUSE));
        assert_eq!(heard.recv().await.unwrap(), (3, began + PAUSE));
        tokio::time::sleep(3 * PAUSE).await;
        handle.notify(update("d"));
        assert_eq!(heard.recv().await.unwrap(), (4, began + 4 * PAUSE), "it has rested");
        handle.notify(update("e"));
        stop.cancel();
        running.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(heard.recv().await.unwrap(), (5, began + 4 * PAUSE));
    }

    #[tokio::test]
    async fn large_values_fill_the_queue_by_their_bytes() {
        let (_worker, handle) = UpdateWorker::telling(clock(), Box::new(|_, _| ()));
        let mebibyte =
            serde_json::value::RawValue::from_string(format!("\"{}\"", "x".repeat(1024 * 1024 - 2))).unwrap();
        let value = shared::value::ConfigJson::accept(mebibyte, 1024 * 1024).unwrap();
        for _ in 0..20 {
            handle.notify(Update { new_value: Some(value.clone()), ..update("a") });
        }
        assert_eq!(handle.stats().dropped, 4);
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts_and_what_is_queued_is_told_before_stopping() {
        let (worker, handle) = UpdateWorker::telling(clock(), Box::new(|_, _| ()));
        for _ in 0..QUEUE_UPDATES + 7 {
            handle.notify(update("a"));
        }
        assert_eq!(handle.stats().dropped, 7);
        let stop = CancellationToken::new();
        stop.cancel();
        worker.run(stop).await.unwrap();
        assert_eq!(handle.stats().message_count, QUEUE_UPDATES as u64);
    }
}
