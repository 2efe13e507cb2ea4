//! The newest messages, so that whoever comes back soon, or fell behind a little, needs no database.

use std::{collections::VecDeque, sync::Arc};

use shared::position::Position;

use super::message::Message;

/// Messages in the order of their positions, without a gap from `start` on.
#[derive(Debug)]
pub(super) struct Ring {
    messages: VecDeque<Arc<Message>>,
    /// Whoever has everything up to here finds the rest in the ring.
    start: Position,
    bytes: usize,
    limit: usize,
}

impl Ring {
    /// Keeps up to `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { messages: VecDeque::new(), start: Position::ZERO, bytes: 0, limit }
    }

    /// Empties it: what comes next comes behind `start`. What was in it is the caller's to free.
    pub(super) fn restart(&mut self, start: Position) -> VecDeque<Arc<Message>> {
        (self.start, self.bytes) = (start, 0);
        std::mem::take(&mut self.messages)
    }

    /// Adds the next message. What has no more room goes to `evicted`, for the caller to free.
    pub(super) fn push(&mut self, message: Arc<Message>, evicted: &mut Vec<Arc<Message>>) {
        self.bytes += message.bytes();
        self.messages.push_back(message);
        while self.bytes > self.limit
            && let Some(oldest) = self.messages.pop_front()
        {
            self.bytes -= oldest.bytes();
            self.start = oldest.position();
            evicted.push(oldest);
        }
    }

    /// The messages behind a position; `None` when some of them are no longer here.
    pub(super) fn behind(&self, position: Position) -> Option<impl Iterator<Item = &Arc<Message>>> {
        let from = self.messages.partition_point(|message| message.position() <= position);
        (position >= self.start).then(|| self.messages.range(from..))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::message::tests::message, *};

    fn behind(ring: &Ring, position: u64) -> Option<Vec<u64>> {
        Some(ring.behind(Position(position))?.map(|message| message.position().0).collect())
    }

    #[test]
    fn keeps_what_is_newest_and_says_what_it_no_longer_has() {
        let weight = message(1, &[("a", Some("1"))]).bytes();
        let mut ring = Ring::new(3 * weight);
        ring.restart(Position(4));
        let mut evicted = vec![];
        for position in [5, 7, 8] {
            ring.push(Arc::new(message(position, &[("a", Some("1"))])), &mut evicted);
        }
        assert_eq!((behind(&ring, 3), behind(&ring, 4)), (None, Some(vec![5, 7, 8])));
        assert_eq!(
            (behind(&ring, 6), behind(&ring, 8), behind(&ring, 99)),
            (Some(vec![7, 8]), Some(vec![]), Some(vec![]))
        );
        ring.push(Arc::new(message(9, &[("a", Some("1"))])), &mut evicted);
        assert_eq!((evicted.len(), behind(&ring, 4), behind(&ring, 5)), (1, None, Some(vec![7, 8, 9])));
        assert_eq!((ring.restart(Position(20)).len(), behind(&ring, 19), behind(&ring, 20)), (3, None, Some(vec![])));
    }

    #[test]
    fn a_message_over_the_limit_leaves_nothing_behind() {
        let mut ring = Ring::new(1);
        let mut evicted = vec![];
        ring.push(Arc::new(message(1, &[("a", Some("1"))])), &mut evicted);
        assert_eq!((ring.bytes, behind(&ring, 0), behind(&ring, 1)), (0, None, Some(vec![])));
    }
}
