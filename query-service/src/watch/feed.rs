//! What is ready to be sent to one watcher: a bounded queue of shared frames.
//!
//! A watcher whose queue is full is no longer handed messages; it reads on from the ring when it has room again, and only
//! when the ring has lost what it needs is it too slow.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use shared::{moment::Moment, position::PositionToken};

use super::{Reset, filter::Filter, message::Message, ring::Ring};

/// Most messages that wait for one watcher; 48 bytes each beside the frames, which are shared.
const BUFFER_MESSAGES: usize = 256;

/// Most bytes of frames that wait for one watcher; 1 MiB. One frame may exceed it.
const BUFFER_BYTES: usize = 1024 * 1024;

/// Messages of the ring that are looked at in one go, under the hub's lock.
const SCAN_MESSAGES: usize = 1_024;

/// One watcher's queue. Filled by the tail, emptied by the watcher's connection.
#[derive(Debug)]
pub(super) struct Feed {
    inner: Mutex<Inner>,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct Inner {
    mode: Mode,
    queue: VecDeque<Waiting>,
    bytes: usize,
    /// Up to here everything that the watcher takes was queued.
    reached: PositionToken,
    /// It was at the log's end once: from then on the ring must be enough.
    was_live: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It is handed each message.
    Live,
    /// It reads on by itself.
    Behind,
    Over(Reset),
}

/// A message that waits: its frame, and when it was recorded, unless the watcher missed it before it came.
type Waiting = (Bytes, Option<Moment>);

/// What there is for the watcher.
#[derive(Debug)]
pub(super) enum Taken {
    Frame(Waiting),
    Nothing,
    Behind { was_live: bool },
    Over(Reset),
}

impl Feed {
    /// Behind a place in the log, not yet live.
    pub(super) fn behind(reached: PositionToken) -> Self {
        let (mode, queue) = (Mode::Behind, VecDeque::new());
        Self { inner: Mutex::new(Inner { mode, queue, bytes: 0, reached, was_live: false }), waker: AtomicWaker::new() }
    }

    /// It has everything up to here, from elsewhere.
    pub(super) fn start_from(&self, reached: PositionToken) {
        self.lock().reached = reached;
    }

    /// Hands it a message; `before` is where the log was before it. Without the frame it is to look for it itself.
    pub(super) fn push(&self, frame: Option<&Bytes>, before: PositionToken, message: &Message) {
        let at = message.token();
        let mut inner = self.lock();
        if inner.mode != Mode::Live || at.position <= inner.reached.position {
            return;
        }
        match frame.filter(|frame| !inner.is_full(frame)) {
            Some(frame) => inner.queue(frame.clone(), Some(message.recorded_at()), at),
            None => {
                inner.mode = Mode::Behind;
                inner.is_at(before);
            }
        }
        drop(inner);
        self.waker.wake();
    }

    /// Reads on from the ring, as far as there is room; at its end, which is the log's, the watcher is live.
    ///
    /// # Errors
    /// The place up to which it has everything, when the ring does not go back so far.
    pub(super) fn read_on(&self, filter: &Filter, head: PositionToken, ring: &Ring) -> Result<(), PositionToken> {
        let mut inner = self.lock();
        if inner.mode != Mode::Behind {
            return Ok(());
        }
        let mut messages = ring.behind(inner.reached.position).ok_or(inner.reached)?;
        for message in messages.by_ref().take(SCAN_MESSAGES) {
            if let Some(frame) = message.for_filter(filter) {
                if inner.is_full(&frame) {
                    return Ok(());
                }
                let recorded_at = Some(message.recorded_at()).filter(|_| inner.was_live);
                inner.queue(frame, recorded_at, message.token());
            }
            inner.reached = message.token();
        }
        if messages.next().is_none() {
            (inner.mode, inner.was_live) = (Mode::Live, true);
            inner.is_at(head);
        }
        Ok(())
    }

    /// Ends it. What was queued is still sent at a shutdown; at other ends it may be wrong, or is too much.
    pub(super) fn end(&self, reset: Reset) {
        let mut inner = self.lock();
        if matches!(inner.mode, Mode::Over(_)) {
            return;
        }
        inner.mode = Mode::Over(reset);
        if reset != Reset::Shutdown {
            (inner.queue, inner.bytes) = (VecDeque::new(), 0);
        }
        drop(inner);
        self.waker.wake();
    }

    pub(super) fn take(&self) -> Taken {
        let mut inner = self.lock();
        if let Some(waiting) = inner.queue.pop_front() {
            inner.bytes -= waiting.0.len();
            if inner.queue.is_empty() {
                // An idle watcher keeps no room.
                inner.queue = VecDeque::new();
            }
            return Taken::Frame(waiting);
        }
        match inner.mode {
            Mode::Live => Taken::Nothing,
            Mode::Behind => Taken::Behind { was_live: inner.was_live },
            Mode::Over(reset) => Taken::Over(reset),
        }
    }

    /// Whether it was ended, also when something is still queued.
    pub(super) fn over(&self) -> Option<Reset> {
        match self.lock().mode {
            Mode::Over(reset) => Some(reset),
            Mode::Live | Mode::Behind => None,
        }
    }

    /// Whether everything up to the log's end was taken.
    pub(super) fn is_at_the_end(&self) -> bool {
        let inner = self.lock();
        inner.mode == Mode::Live && inner.queue.is_empty()
    }

    #[cfg(test)]
    pub(super) fn is_behind(&self) -> bool {
        self.lock().mode == Mode::Behind
    }

    /// Is woken when there is something to take.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_full(&self, frame: &Bytes) -> bool {
        let full = self.queue.len() >= BUFFER_MESSAGES || self.bytes + frame.len() > BUFFER_BYTES;
        full && !self.queue.is_empty()
    }

    fn queue(&mut self, frame: Bytes, recorded_at: Option<Moment>, at: PositionToken) {
        self.bytes += frame.len();
        self.queue.push_back((frame, recorded_at));
        self.reached = at;
    }

    /// Up to there is nothing more for it.
    fn is_at(&mut self, place: PositionToken) {
        if place.position > self.reached.position {
            self.reached = place;
        }
    }
}
