//! The queue in front of the committer: a command hands its unit in, and waits for what becomes of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{
        Notify, OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};

use super::{append::Appended, ready::Ready, trace::UnitTrace, unit::Unit};
use crate::metrics::AppendMetrics;

/// What became of a unit that was not, or not certainly, appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else wrote one of its names since it was loaded. Nothing was written.
    #[error("another command wrote the same name first")]
    Conflict,
    /// The queue is full. Nothing was written.
    #[error("too many writes are waiting")]
    Overloaded,
    /// The database is away, or somebody holds the log's lock. Nothing was written.
    #[error("the event store is out of reach")]
    Unavailable,
    /// The connection ended while the unit was under way, and did not come back in time to ask.
    #[error("the connection to the event store was lost and the outcome is unknown")]
    Unknown,
    /// The database refused this unit. Nothing was written.
    #[error("the event store refused the events")]
    Refused(#[source] Arc<sqlx::Error>),
}

/// What the caller is told, and its unit, unless the projection of the same process has it: to drop it is work that those who wait
/// for the committer need not wait for too.
pub(super) type Answer = (Result<Appended, AppendError>, Option<Ready>);

/// A unit in the queue.
pub(super) struct Waiting {
    pub(super) ready: Ready,
    /// What it weighs in queue and group, in bytes of events.
    pub(super) bytes: usize,
    pub(super) since: Instant,
    /// When it is given up: unwritten if it was never sent, unknown if it was.
    pub(super) until: Instant,
    pub(super) answer: oneshot::Sender<Answer>,
    pub(super) trace: Option<UnitTrace>,
    /// Given back when its outcome is known.
    _room: OwnedSemaphorePermit,
}

/// Through which commands append; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    room_bytes: usize,
    under_way: UnderWay,
    enough: Arc<Enough>,
    metrics: AppendMetrics,
}

/// Tells the committer, which has a group under way, when so many units wait that it is worth to send them behind it. To wake it for
/// each unit would cost more than it brings.
#[derive(Debug)]
pub(super) struct Enough {
    /// How many; no number of units when it does not wait for them.
    units: AtomicUsize,
    reached: Notify,
}

impl Enough {
    const NEVER: usize = usize::MAX;

    fn new() -> Self {
        Self { units: AtomicUsize::new(Self::NEVER), reached: Notify::new() }
    }

    /// So many wait now.
    fn told(&self, waiting: usize) {
        let asked = self.units.load(Ordering::SeqCst);
        // Who comes in the same instant tells it too, or it is told once more than needed: it looks itself.
        if waiting >= asked
            && self.units.compare_exchange(asked, Self::NEVER, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            self.reached.notify_one();
        }
    }

    /// Returns when so many units wait in the queue. Should the last of them be missed, as it came while this began, the next one tells.
    pub(super) async fn wait(&self, queue: &mpsc::Receiver<Waiting>, units: usize) {
        self.units.store(units, Ordering::SeqCst);
        while queue.len() < units {
            self.reached.notified().await;
            self.units.store(units, Ordering::SeqCst);
        }
        self.units.store(Self::NEVER, Ordering::SeqCst);
    }
}

/// Since when the committer has had the group that it appends, or the group in front of that has been answered: in milliseconds
/// since it was made; 0 when it has none.
#[derive(Clone, Debug)]
pub(super) struct UnderWay {
    since: Arc<AtomicU64>,
    made: Instant,
}

impl UnderWay {
    pub(super) fn begins(&self) {
        self.since.store(self.made_ms_ago().max(1), Ordering::Release);
    }

    pub(super) fn ends(&self) {
        self.since.store(0, Ordering::Release);
    }

    fn made_ms_ago(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Handle {
    /// A queue for so many units and bytes of events, and its other end.
    pub(super) fn new(units: usize, bytes: u32, metrics: AppendMetrics) -> (Self, mpsc::Receiver<Waiting>) {
        let (queue, waiting) = mpsc::channel(units);
        let room_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let room = Arc::new(Semaphore::new(room_bytes));
        let under_way = UnderWay { since: Arc::default(), made: Instant::now() };
        let enough = Arc::new(Enough::new());
        (Self { queue, room, room_bytes, under_way, enough, metrics }, waiting)
    }

    /// By what the committer is told that many wait.
    pub(super) fn enough(&self) -> Arc<Enough> {
        Arc::clone(&self.enough)
    }

    /// What the committer tells the time of its group by.
    pub(super) fn under_way(&self) -> UnderWay {
        self.under_way.clone()
    }

    /// Appends the unit; returns when it is durable and visible. While the database is away it is tried until `until`.
    ///
    /// # Errors
    /// What became of it instead. Only [`AppendError::Unknown`] leaves open whether it was written.
    pub async fn append(&self, unit: Unit, until: Instant) -> Result<Appended, AppendError> {
        self.append_traced(unit, until, None).await
    }

    /// The same, of a unit whose statement shows in its command's trace.
    pub(super) async fn append_traced(
        &self,
        unit: Unit,
        until: Instant,
        trace: Option<UnitTrace>,
    ) -> Result<Appended, AppendError> {
        let answered = self.enqueue(unit, until, trace).inspect_err(|refused| {
            if matches!(refused, AppendError::Overloaded) {
                self.metrics.queue_full.inc();
            }
        })?;
        // The committer answers everybody; should it be gone, nobody can say.
        answered.await.map_or(Err(AppendError::Unknown), |(outcome, _spent)| outcome)
    }

    fn enqueue(
        &self,
        unit: Unit,
        until: Instant,
        trace: Option<UnitTrace>,
    ) -> Result<oneshot::Receiver<Answer>, AppendError> {
        let bytes = unit.bytes();
        let places = u32::try_from(bytes).map_err(|_| AppendError::Overloaded)?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(places).map_err(|_| AppendError::Overloaded)?;
        // Before the unit is made ready: a refusal is cheap.
        let place = self.queue.try_reserve().map_err(|refused| match refused {
            TrySendError::Full(()) => AppendError::Overloaded,
            TrySendError::Closed(()) => AppendError::Unavailable,
        })?;
        let (answer, answered) = oneshot::channel();
        let ready = Ready::new(unit);
        place.send(Waiting { ready, bytes, since: Instant::now(), until, answer, trace, _room: room });
        self.enough.told(self.queue.max_capacity() - self.queue.capacity());
        Ok(answered)
    }

    /// How long the group has taken so far that is being appended, its repetitions included.
    #[must_use]
    pub fn appending(&self) -> Duration {
        let now = self.under_way.made_ms_ago();
        match self.under_way.since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => Duration::from_millis(now.saturating_sub(since)),
        }
    }

    /// How full the queue is: units that wait, and of how many; bytes that wait or are under way, and of how many.
    pub(crate) fn depth(&self) -> [(usize, usize); 2] {
        let units = self.queue.max_capacity() - self.queue.capacity();
        let bytes = self.room_bytes - self.room.available_permits();
        [(units, self.queue.max_capacity()), (bytes, self.room_bytes)]
    }
}
