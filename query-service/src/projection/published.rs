//! Where snapshots are handed from the tail to readers, without a lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use shared::position::{Applied, Position};
use tokio::sync::watch;

use super::snapshot::Snapshot;

/// How often it is looked whether readers still hold a state that was replaced as a whole.
const RELEASE_LOOK: Duration = Duration::from_millis(50);

/// Longest that is looked, in looks: a minute. A list that is read slower then frees the old state itself.
const RELEASE_LOOKS: u32 = 1200;

/// The newest snapshot. There is none until the log was read to its end once: readers are told so, not that a name is absent.
#[derive(Debug)]
pub(crate) struct Published {
    current: ArcSwapOption<Snapshot>,
    /// Set after `current`, so that whoever sees a position here finds a snapshot that has it.
    position: watch::Sender<Position>,
    /// Of the current one.
    generation: AtomicU64,
}

impl Published {
    pub(crate) fn nothing_yet() -> Self {
        let (current, position) = (ArcSwapOption::empty(), watch::Sender::new(Position::ZERO));
        Self { current, position, generation: AtomicU64::new(0) }
    }

    pub(crate) fn current(&self) -> Option<Arc<Snapshot>> {
        self.current.load_full()
    }

    /// For whoever waits for a position, in this process.
    pub(crate) fn applied(&self) -> Applied {
        Applied::new(self.position.subscribe())
    }

    /// Resolves at each newer snapshot.
    pub(crate) fn changes(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// The next state: it shares most with the one before, which is therefore freed at no cost.
    pub(crate) fn advance(&self, snapshot: Snapshot) {
        drop(self.swap(snapshot));
    }

    /// Another state as a whole: the old one shares nothing with it.
    pub(crate) fn replace(&self, snapshot: Snapshot) {
        self.generation.fetch_add(1, Relaxed);
        if let Some(old) = self.swap(snapshot) {
            free_aside(old);
        }
    }

    fn swap(&self, mut snapshot: Snapshot) -> Option<Arc<Snapshot>> {
        snapshot.generation = self.generation.load(Relaxed);
        let position = snapshot.position();
        let old = self.current.swap(Some(Arc::new(snapshot)));
        self.position.send_replace(position);
        old
    }
}

/// Frees a state on a thread of its own, once no request holds it: a million entries take 100 to 300 ms.
pub(crate) fn free_aside(old: Arc<Snapshot>) {
    let free = move || {
        for _ in 0..RELEASE_LOOKS {
            if Arc::strong_count(&old) == 1 {
                break;
            }
            thread::park_timeout(RELEASE_LOOK);
        }
        drop(old);
    };
    // Without a thread to spare it is freed here: slow, but freed.
    let _detached = thread::Builder::new().name("free-old-state".to_owned()).spawn(free);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> Snapshot {
        Snapshot { position: Position(position), ..Snapshot::default() }
    }

    #[test]
    fn a_reported_position_is_one_that_readers_find() {
        let published = Published::nothing_yet();
        let applied = published.applied();
        assert!(published.current().is_none());
        published.advance(at(3));
        assert_eq!((applied.now(), published.current().unwrap().position()), (Position(3), Position(3)));
        published.replace(at(2));
        assert_eq!(applied.now(), Position(2), "a rewritten log may be shorter");
    }

    #[test]
    fn a_state_that_shares_nothing_with_the_one_before_can_be_told_from_it() {
        let published = Published::nothing_yet();
        let generation = || published.current().unwrap().generation();
        published.advance(at(1));
        let first = generation();
        published.advance(at(2));
        assert_eq!(generation(), first, "it goes on from the one before");
        published.replace(at(2));
        assert_ne!(generation(), first);
    }

    #[test]
    fn a_reader_keeps_the_state_that_it_holds() {
        let published = Published::nothing_yet();
        published.advance(at(1));
        let held = published.current().unwrap();
        published.replace(at(2));
        assert_eq!(held.position(), Position(1));
    }
}
