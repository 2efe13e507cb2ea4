//! The states that pages of lists were answered from, kept for the pages to come. Which of them were given up is freed by
//! a task of its own, away from requests.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::position::PositionToken;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::projection::{Published, Snapshot};

/// Most states that are kept; the least recently used goes first. One costs what was written since: where it differs from
/// the newest state.
const MAX_PINNED: usize = 64;

/// How long a state is kept after a page was last answered from it.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// How long a state is kept at all, whoever reads on.
const AGE_LIMIT: Duration = Duration::from_secs(300);

/// Most that may have been changed since, in bytes; 256 MiB. No state costs more than about that, nor do all together.
const MAX_WRITTEN_BYTES: u64 = 256 * 1024 * 1024;

/// How often it is looked whether a state's time is over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The states that are kept.
#[derive(Debug)]
pub(crate) struct Pinned {
    /// Few: they are looked through.
    pins: Mutex<Vec<Pin>>,
    given_up: mpsc::Sender<Arc<Snapshot>>,
}

#[derive(Debug)]
struct Pin {
    token: PositionToken,
    snapshot: Arc<Snapshot>,
    since: Instant,
    used: Instant,
}

impl Pinned {
    /// None yet, and the task that gives them up.
    pub(crate) fn new(projection: Arc<Published>) -> (Arc<Self>, Release) {
        let (given_up, to_free) = mpsc::channel(MAX_PINNED);
        let pinned = Arc::new(Self { pins: Mutex::default(), given_up });
        (Arc::clone(&pinned), Release { pinned, projection, to_free })
    }

    /// How many are kept.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Keeps a state, for a while.
    pub(super) fn keep(&self, snapshot: &Arc<Snapshot>) {
        let (token, now) = (snapshot.token(), Instant::now());
        let mut pins = self.lock();
        if let Some(pin) = pins.iter_mut().find(|pin| pin.token == token) {
            pin.used = now;
            return;
        }
        let oldest = (0..pins.len()).min_by_key(|&index| pins[index].used).filter(|_| pins.len() == MAX_PINNED);
        let given_up = oldest.map(|index| pins.swap_remove(index));
        pins.push(Pin { token, snapshot: Arc::clone(snapshot), since: now, used: now });
        drop(pins);
        if let Some(pin) = given_up {
            // When even that is full, it is freed here: slow, but freed.
            let _freed_here = self.given_up.try_send(pin.snapshot);
        }
    }

    /// The state at this place, if it is still kept.
    pub(super) fn at(&self, token: PositionToken) -> Option<Arc<Snapshot>> {
        let mut pins = self.lock();
        let pin = pins.iter_mut().find(|pin| pin.token == token)?;
        pin.used = Instant::now();
        Some(Arc::clone(&pin.snapshot))
    }

    /// Takes out those whose time is over, or that cost too much by now: beside a state that a rebuild swapped in, a whole
    /// state each. `written`: to the log, in bytes.
    fn take_over(&self, written: u64, generation: u64) -> Vec<Pin> {
        let over = |pin: &mut Pin| {
            pin.used.elapsed() >= IDLE_LIMIT
                || pin.since.elapsed() >= AGE_LIMIT
                || pin.snapshot.generation() != generation
                || written.saturating_sub(pin.snapshot.written()) > MAX_WRITTEN_BYTES
        };
        self.lock().extract_if(.., over).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Pin>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that gives states up, and frees them.
#[derive(Debug)]
pub(crate) struct Release {
    pinned: Arc<Pinned>,
    projection: Arc<Published>,
    to_free: mpsc::Receiver<Arc<Snapshot>>,
}

impl Release {
    /// Until it is told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            let over: Vec<_> = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(snapshot) = self.to_free.recv() => vec![snapshot],
                _ = looks.tick() => {
                    let newest = self.projection.current().unwrap_or_default();
                    let over = self.pinned.take_over(newest.written(), newest.generation());
                    over.into_iter().map(|pin| pin.snapshot).collect()
                }
            };
            if !over.is_empty() {
                // The last holder of a state that a rebuild replaced frees all of it: 100 to 300 ms for a million entries.
                let _panic_told_by_its_hook = tokio::task::spawn_blocking(move || drop(over)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::{super::states::state, *};

    fn pinned() -> (Arc<Pinned>, Release) {
        Pinned::new(Arc::new(Published::nothing_yet()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_used_goes_first_when_there_are_too_many() {
        let (pinned, mut release) = pinned();
        let states: Vec<_> = (1..=65).map(|events| Arc::new(state(events))).collect();
        for state in &states[..MAX_PINNED] {
            pinned.keep(state);
            advance(Duration::from_millis(1)).await;
        }
        assert!(pinned.at(states[0].token()).is_some(), "used again");
        pinned.keep(&states[64]);
        assert!(pinned.at(states[0].token()).is_some());
        assert!(pinned.at(states[1].token()).is_none());
        assert!(pinned.at(states[64].token()).is_some());
        assert!(Arc::ptr_eq(&release.to_free.recv().await.unwrap(), &states[1]), "freed elsewhere");
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_nobody_reads_from_is_given_up_and_so_is_an_old_one() {
        let (pinned, _release) = pinned();
        let (idle, read) = (Arc::new(state(1)), Arc::new(state(2)));
        pinned.keep(&idle);
        pinned.keep(&read);
        let (began, mut given_up) = (Instant::now(), vec![]);
        while given_up.len() < 2 {
            advance(Duration::from_secs(5)).await;
            let over = pinned.take_over(0, 0).into_iter();
            given_up.extend(over.map(|pin| (pin.snapshot.position().0, began.elapsed().as_secs())));
            pinned.at(read.token());
        }
        assert_eq!(given_up, [(1, 60), (2, 300)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_is_freed_by_the_task() {
        let (pinned, release) = pinned();
        let state = Arc::new(state(1));
        let kept = Arc::downgrade(&state);
        pinned.keep(&state);
        drop(state);
        let stop = CancellationToken::new();
        let freed = async {
            let mut looks = tokio::time::interval(Duration::from_secs(1));
            while kept.strong_count() > 0 {
                looks.tick().await;
            }
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(release.run(stop.clone()), freed);
        assert_eq!(ended, Ok(()));
        assert!(pinned.lock().is_empty());
    }

    #[tokio::test]
    async fn a_state_that_has_become_dear_is_given_up() {
        let (pinned, _release) = pinned();
        let state = Arc::new(state(3));
        pinned.keep(&state);
        assert!(pinned.take_over(state.written() + MAX_WRITTEN_BYTES, 0).is_empty());
        assert_eq!(pinned.take_over(state.written() + MAX_WRITTEN_BYTES + 1, 0).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_shares_nothing_with_one_that_was_swapped_in_is_given_up() {
        let projection = Arc::new(Published::nothing_yet());
        let (pinned, release) = Pinned::new(Arc::clone(&projection));
        let stop = CancellationToken::new();
        projection.replace(state(3));
        pinned.keep(&projection.current().unwrap());
        projection.advance(state(4));
        pinned.keep(&projection.current().unwrap());
        let rebuilt = async {
            advance(LOOK_EVERY * 3).await;
            assert_eq!(pinned.lock().len(), 2);
            projection.replace(state(4));
            projection.advance(state(5));
            pinned.keep(&projection.current().unwrap());
            advance(LOOK_EVERY * 3).await;
            while pinned.lock().len() > 1 {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(release.run(stop.clone()), rebuilt);
        assert_eq!(ended, Ok(()));
        assert!(pinned.at(state(5).token()).is_some());
    }
}
