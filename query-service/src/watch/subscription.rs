//! A place in the hub: of a watcher, who is handed messages, and of a long poll, which only wants to know of a change.

use std::{future::poll_fn, sync::Arc, task::Poll};

use bytes::Bytes;
use shared::position::PositionToken;
use tokio::sync::Notify;

use super::{
    Reset,
    feed::{Feed, Taken},
    filter::Filter,
    hub::{Hub, Refused},
    index::Place,
};
use crate::metrics::WatchMetrics;

/// What comes next for a watcher.
#[derive(Debug)]
pub(super) enum Next {
    Frame(Bytes),
    /// The ring does not go back to this place: the log does.
    Older(PositionToken),
    Over(Reset),
}

/// A watcher's place in the hub, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(super) hub: Arc<Hub>,
    pub(super) feed: Arc<Feed>,
    pub(super) filter: Arc<Filter>,
    pub(super) place: Place,
}

impl Subscription {
    /// The watcher has everything up to here.
    pub(crate) fn start_from(&self, reached: PositionToken) {
        self.feed.start_from(reached);
    }

    pub(crate) fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }

    /// What comes next. Safe to drop while it waits.
    pub(super) async fn next(&self) -> Next {
        loop {
            let taken = poll_fn(|context| {
                self.feed.register(context.waker());
                match self.feed.take() {
                    Taken::Nothing => Poll::Pending,
                    taken => Poll::Ready(taken),
                }
            });
            match taken.await {
                Taken::Frame((frame, recorded_at)) => {
                    self.hub.metrics().delivered(recorded_at);
                    return Next::Frame(frame);
                }
                Taken::Over(reset) => return Next::Over(reset),
                Taken::Nothing => {}
                Taken::Behind { was_live } => match self.hub.read_on(&self.feed, &self.filter) {
                    // In pieces, so that others have their turn.
                    Ok(()) => tokio::task::yield_now().await,
                    Err(_) if was_live => return Next::Over(Reset::Slow),
                    Err(reached) => return Next::Older(reached),
                },
            }
        }
    }

    /// Why it is over, if it is; what is queued is left aside.
    pub(super) fn over(&self) -> Option<Reset> {
        self.feed.over()
    }

    /// Resolves when it is over. Safe to drop while it waits.
    pub(super) async fn ended(&self) -> Reset {
        poll_fn(|context| {
            self.feed.register(context.waker());
            self.feed.over().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Where everything that the watcher takes was sent up to: the log's end, when nothing waits.
    pub(super) fn bookmark(&self) -> Option<PositionToken> {
        self.hub.bookmark(&self.feed)
    }

    /// Where the hub is.
    pub(super) fn head(&self) -> Option<PositionToken> {
        self.hub.head()
    }

    pub(super) fn metrics(&self) -> &WatchMetrics {
        self.hub.metrics()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.leave(self.place);
    }
}

/// Somebody's place who waits for a change, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(super) hub: Arc<Hub>,
    pub(super) changed: Arc<Notify>,
    pub(super) place: Place,
}

impl Waiting {
    /// Resolves when something was changed since it was registered, or since this resolved last. Look again then: it may
    /// have become the same again. Readers see the change by then.
    ///
    /// # Errors
    /// When the process stops.
    pub(crate) async fn changed(&mut self) -> Result<(), Refused> {
        if !self.hub.is_stopping() {
            self.changed.notified().await;
        }
        if self.hub.is_stopping() { Err(Refused::Stopping) } else { Ok(()) }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.hub.wait_no_longer(self.place);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{
        super::{
            hub::tests::{hub, positions, set, token, watch},
            message::tests::message,
        },
        *,
    };

    #[test]
    fn reads_on_from_the_ring_wherever_it_comes_back() {
        let hub = hub(1_000_000);
        for position in 11..=20 {
            set(&hub, position, &[if position % 2 == 0 { "a" } else { "b" }]);
        }
        for (from, expected) in
            [(10, vec![12, 14, 16, 18, 20]), (13, vec![14, 16, 18, 20]), (20, vec![]), (9, vec![-9])]
        {
            let (watcher, _) = hub.watch(Filter::new(vec![], Some("a"))).unwrap();
            watcher.start_from(token(from));
            assert_eq!(positions(&watcher), expected, "behind {from}");
        }
    }

    #[test]
    fn a_full_buffer_skips_nothing_as_long_as_the_ring_lasts() {
        let hub = hub(1_000_000);
        let (slow, other) = (watch(&hub, "a"), watch(&hub, "b"));
        for position in 11..=1_010 {
            set(&hub, position, &["a"]);
        }
        set(&hub, 1_011, &["b"]);
        assert_eq!(positions(&other), [1_011]);
        assert_eq!(positions(&slow), (11..=1_010).collect::<Vec<_>>());
        set(&hub, 1_012, &["a"]);
        assert_eq!(positions(&slow), [1_012], "it is live again");
    }

    #[test]
    fn a_watcher_that_is_slower_than_the_ring_is_told_and_not_skipped() {
        let hub = hub(20_000);
        let slow = watch(&hub, "a");
        for position in 11..=1_010 {
            set(&hub, position, &["a"]);
        }
        let told = positions(&slow);
        assert_eq!(told.last(), Some(&-1));
        let told = &told[..told.len() - 1];
        assert!(told.len() >= 256 && told.iter().copied().eq((11..).take(told.len())), "no gap before it: {told:?}");
    }

    /// So that the log can tell whether it is still the one that the watcher was told of.
    #[test]
    fn a_watcher_that_needs_the_log_knows_the_event_that_it_stands_at() {
        let hub = hub(200_000);
        for position in 11..=310 {
            set(&hub, position, &["a"]);
        }
        let (watcher, _) = hub.watch(Filter::new(vec![], Some("a"))).unwrap();
        watcher.start_from(token(10));
        assert!(watcher.next().now_or_never().is_none(), "it reads on in pieces");
        for position in 311..=2_310 {
            set(&hub, position, &["b"]);
        }
        let mut told = 0;
        let reached = loop {
            match watcher.next().now_or_never() {
                Some(Next::Frame(_)) => told += 1,
                Some(Next::Older(reached)) => break reached,
                other => panic!("{other:?} after {told}"),
            }
        };
        assert_eq!((told, reached), (256, message(266, &[("a", None)]).token()));
    }

    #[test]
    fn who_waits_hears_of_a_change_that_came_before_it_asked() {
        let hub = hub(1_000_000);
        let mut waiting = hub.wait_for(Filter::new(vec![], Some("a"))).unwrap();
        assert_eq!(waiting.changed().now_or_never(), None);
        set(&hub, 11, &["b"]);
        assert_eq!(waiting.changed().now_or_never(), None);
        set(&hub, 12, &["b", "a"]);
        assert_eq!(waiting.changed().now_or_never(), Some(Ok(())));
        assert_eq!(waiting.changed().now_or_never(), None, "once for each look");
    }
}
