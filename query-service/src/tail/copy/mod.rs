//! A long replay's way through the log: ranges of positions, copied through several connections at once, understood where
//! they come in, and folded in their order.
//!
//! ```text
//! lane 0 (range 0, 2, 4 …) ─► batches ─┐
//!                                      ├─► fold, range after range
//! lane 1 (range 1, 3, 5 …) ─► batches ─┘
//! ```
//!
//! Each lane and the fold have a thread of their own, and a lane a small runtime of its own: for seconds or minutes they
//! take all that a CPU gives, and a task that did so would keep a thread of the runtime from readers and health. The system
//! shares the CPUs out fairly between threads.
//!
//! **Memory.** A lane that is ahead waits until its batches are folded: what is in flight is bounded by [`BATCH_BYTES`] and
//! [`LANE_BATCHES`], however large values and log are. A batch that was folded goes back to its lane,
//! unless it takes more than [`MAX_KEPT_BYTES`].

mod lane;
mod row;

use std::{
    num::NonZero,
    panic,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use shared::position::Position;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::lane::{Lane, Message};
use super::{Options, link::LinkError};
use crate::projection::{Batch, Fault, Fold};

/// Most connections of a replay beside the tail's own; never more than CPUs.
const MAX_LANES: usize = 4;

/// Events of one range. Of usual values a range fits into what a lane may have in flight, so that all lanes are busy.
const RANGE_EVENTS: u64 = 4_096;

/// What a lane understands before it hands it on, in bytes; 2 MiB. One event may exceed it.
const BATCH_BYTES: usize = 2 * 1024 * 1024;

/// The memory of a batch that is filled again, at most, in bytes; 8 MiB. One that a large event made take more is freed.
const MAX_KEPT_BYTES: usize = 4 * BATCH_BYTES;

/// Batches of a lane that wait to be folded, and at most as many that wait to be filled again; one more is in its hands.
const LANE_BATCHES: usize = 2;

/// Under way, on threads of its own. Dropped, it stops by itself.
#[derive(Debug)]
pub(super) struct Copying {
    task: JoinHandle<Copied>,
    copied: Option<Copied>,
    position: Arc<AtomicU64>,
    stop: CancellationToken,
}

/// What became of it. The fold is as far as it came, whatever the end.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) fold: Fold,
    pub(super) end: Result<CopyEnd, LinkError>,
}

/// How a copy ended without losing the database.
#[derive(Debug)]
pub(super) enum CopyEnd {
    /// All that is there up to the target is folded.
    Complete,
    /// The event that was folded last is no longer there: the log was rewritten.
    Rewritten,
    /// The log cannot be applied behind the fold's position.
    Faulty(Fault),
    /// The database allows no further connections.
    Refused(sqlx::Error),
    /// It was told to.
    Stopped,
}

impl Copying {
    /// Begins where the fold is, towards `target`.
    pub(super) fn start(options: &Options, fold: Fold, target: Position) -> Self {
        let (stop, position) = (CancellationToken::new(), Arc::new(AtomicU64::new(fold.position().0)));
        let copy = Copy {
            options: options.clone(),
            ranges: Ranges { from: fold.position(), target },
            position: Arc::clone(&position),
            stop: stop.clone(),
        };
        let task = tokio::task::spawn_blocking(move || copy.run(fold));
        Self { task, copied: None, position, stop }
    }

    /// How far it is.
    pub(super) fn position(&self) -> Position {
        Position(self.position.load(Relaxed))
    }

    /// Resolves when it is over; then it can be taken.
    pub(super) async fn over(&mut self) {
        if self.copied.is_some() {
            return;
        }
        self.copied = Some(match (&mut self.task).await {
            Ok(copied) => copied,
            Err(died) => match died.try_into_panic() {
                Ok(panicked) => panic::resume_unwind(panicked),
                // The runtime goes down, and whoever waits here with it.
                Err(_cancelled) => std::future::pending().await,
            },
        });
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.copied.is_some() || self.task.is_finished()
    }

    /// What became of it; waits for its end.
    pub(super) async fn end(mut self) -> Copied {
        loop {
            self.over().await;
            if let Some(copied) = self.copied.take() {
                return copied;
            }
        }
    }

    /// Has it stop where it is.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The positions to copy, cut into ranges.
#[derive(Clone, Copy, Debug)]
struct Ranges {
    /// Where the fold is.
    from: Position,
    target: Position,
}

impl Ranges {
    fn count(self) -> u64 {
        (self.target.0 - self.from.0).div_ceil(RANGE_EVENTS)
    }

    /// First and last position. The first is the last of the range before: that it is still the same event shows that both
    /// ranges are of one log, whoever was asked for them.
    fn range(self, number: u64) -> (Position, Position) {
        let first = self.from.0 + number * RANGE_EVENTS;
        (Position(first), Position((first + RANGE_EVENTS).min(self.target.0)))
    }
}

/// The fold's ends of its channels with a lane.
struct FromLane {
    messages: Receiver<Message>,
    /// Batches on their way back, to be filled again.
    folded: SyncSender<Batch>,
}

/// What the threads work on.
#[derive(Debug)]
struct Copy {
    options: Options,
    ranges: Ranges,
    position: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Copy {
    /// On a thread of its own; the lanes end before it does.
    fn run(self, mut fold: Fold) -> Copied {
        fold.loosen();
        let cpus = thread::available_parallelism().map_or(1, NonZero::get);
        let end = thread::scope(|scope| {
            let lanes: Vec<_> = (0..cpus.min(MAX_LANES)).map(|_| sync_channel(LANE_BATCHES)).collect();
            let step = lanes.len();
            let receivers = lanes.into_iter().enumerate().map(|(first, (to, from))| {
                let (folded, back) = sync_channel(LANE_BATCHES);
                let lane = Lane::new(&self.options, self.ranges, (first, step), (to, back), self.stop.clone());
                scope.spawn(move || lane.run());
                FromLane { messages: from, folded }
            });
            let end = self.fold(&mut fold, &receivers.collect::<Vec<_>>());
            // What lanes wait for is not to come.
            self.stop.cancel();
            end
        });
        fold.settle();
        Copied { fold, end }
    }

    fn fold(&self, fold: &mut Fold, lanes: &[FromLane]) -> Result<CopyEnd, LinkError> {
        for (number, lane) in (0..self.ranges.count()).zip(lanes.iter().cycle()) {
            let (first, _) = self.ranges.range(number);
            loop {
                match lane.messages.recv() {
                    Ok(Message::Begin { anchor }) => {
                        let anchor = anchor.map(|command_id| (first, command_id));
                        // A fold that has not come so far is behind a hole, which the next event shows.
                        if fold.position() == first && !fold.continues(anchor) {
                            return Ok(CopyEnd::Rewritten);
                        }
                    }
                    Ok(Message::Batch(batch)) => {
                        for event in batch.events() {
                            if let Err(fault) = fold.take(&event) {
                                return Ok(CopyEnd::Faulty(fault));
                            }
                        }
                        self.position.store(fold.position().0, Relaxed);
                        if batch.capacity() <= MAX_KEPT_BYTES {
                            // Freed where the lane has enough, or has read its last range.
                            let _freed = lane.folded.try_send(batch);
                        }
                    }
                    Ok(Message::Unknown { position, source }) => {
                        let fault = fold.is_next(position).err().unwrap_or(Fault::Unknown { position, source });
                        return Ok(CopyEnd::Faulty(fault));
                    }
                    Ok(Message::End) => break,
                    Ok(Message::Refused(error)) => return Ok(CopyEnd::Refused(error)),
                    Ok(Message::Failed(error)) => return Err(error),
                    Err(_ended) => return Ok(CopyEnd::Stopped),
                }
            }
        }
        Ok(CopyEnd::Complete)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_have_every_position_once_and_begin_where_the_one_before_ends(from in 0..100_000_u64, more in 1..100_000_u64) {
            let ranges = Ranges { from: Position(from), target: Position(from + more) };
            let mut at = from;
            for number in 0..ranges.count() {
                let (first, last) = ranges.range(number);
                prop_assert_eq!(first.0, at);
                prop_assert!(last.0 > first.0 && last.0 - first.0 <= RANGE_EVENTS);
                at = last.0;
            }
            prop_assert_eq!(at, from + more);
        }
    }
}
