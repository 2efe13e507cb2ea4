//! Where the tail hands news over, and watchers and long polls are registered.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use shared::{
    metrics::{Metrics, float},
    position::{Position, PositionToken},
    telemetry::spans,
};
use tokio::sync::Notify;

use super::{
    Reset,
    feed::Feed,
    filter::Filter,
    index::{Index, Place},
    message::Message,
    ring::Ring,
    subscription::{Subscription, Waiting},
};
use crate::metrics::{LONG_POLLS, WATCHERS, WATCHERS_LIMIT, WatchMetrics};

/// Frames that are put together for one message at once, under the lock, in bytes; 16 MiB, and one. Who would be handed a
/// further one looks for it in the ring.
const FRAMES_BYTES: usize = 16 * 1024 * 1024;

/// Fans changes out. Locked by the tail for each message, by a watcher when it comes, goes, or is behind.
#[derive(Debug)]
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    /// Most watchers and long polls, both together.
    limit: usize,
    metrics: WatchMetrics,
}

#[derive(Debug)]
struct Inner {
    watchers: Index<Arc<Feed>>,
    waiting: Index<Arc<Notify>>,
    ring: Ring,
    /// Where the log was handed over to; `None` while there is nothing to watch: before the first replay is complete, and
    /// from when the log was found rewritten until it is folded anew.
    head: Option<PositionToken>,
    stopping: bool,
}

/// Nobody is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The limit is reached.
    TooMany,
    /// There is nothing to watch yet.
    NotReady,
    /// The process stops.
    Stopping,
}

impl Hub {
    /// For so many watchers and long polls, remembering so many bytes of messages.
    pub(crate) fn new(limit: usize, ring_bytes: usize, metrics: WatchMetrics) -> Self {
        let (watchers, waiting, ring) = (Index::default(), Index::default(), Ring::new(ring_bytes));
        Self { inner: Mutex::new(Inner { watchers, waiting, ring, head: None, stopping: false }), limit, metrics }
    }

    /// A state was swapped in that is at `head`. Whoever watches the same log goes on.
    pub(crate) fn begin(&self, head: PositionToken) {
        let mut inner = self.lock();
        if inner.head == Some(head) {
            return;
        }
        inner.end_all(Reset::Rewritten);
        let old = inner.ring.restart(head.position);
        inner.head = Some(head);
        inner.waiting.all().for_each(|waiting| waiting.notify_one());
        drop((inner, old));
    }

    /// Hands over what was appended: whole commands, in their order. Readers see them already. `head` is where the log is now.
    pub(crate) fn publish(&self, messages: Vec<Message>, head: PositionToken) {
        let mut evicted = vec![];
        for mut message in messages {
            let processing = message.take_trace();
            let since = spans::now();
            // Locked for each, so that a watcher who comes waits for one message and not for all.
            let watchers = self.lock().deliver(&Arc::new(message), &mut evicted);
            spans::delivered(&processing, since, watchers);
        }
        let mut inner = self.lock();
        inner.head = inner.head.map(|_| head);
        drop(inner);
        // What was evicted is freed here, behind everybody's back.
    }

    /// The log is no longer the one that was watched.
    pub(crate) fn rewritten(&self) {
        let mut inner = self.lock();
        inner.head = None;
        inner.end_all(Reset::Rewritten);
        let old = inner.ring.restart(Position::ZERO);
        drop((inner, old));
    }

    /// The process stops: everybody is told, and nobody is registered any more.
    pub(crate) fn stop(&self) {
        let mut inner = self.lock();
        inner.stopping = true;
        inner.end_all(Reset::Shutdown);
        inner.waiting.all().for_each(|waiting| waiting.notify_one());
    }

    /// Watchers and long polls.
    pub(crate) fn watchers(&self) -> usize {
        self.lock().len()
    }

    /// Tells of watchers and long polls from now on.
    pub(crate) fn tell(self: &Arc<Self>, metrics: &Metrics) {
        let hub = Arc::clone(self);
        metrics.read(&[&WATCHERS, &LONG_POLLS, &WATCHERS_LIMIT], move |told| {
            let inner = hub.lock();
            told.value(&WATCHERS, float(inner.watchers.len() as u64));
            told.value(&LONG_POLLS, float(inner.waiting.len() as u64));
            told.value(&WATCHERS_LIMIT, float(hub.limit as u64));
        });
    }

    /// What watches count.
    pub(crate) fn metrics(&self) -> &WatchMetrics {
        &self.metrics
    }

    /// Registers a watcher from now on; where that is.
    pub(crate) fn watch(self: &Arc<Self>, filter: Filter) -> Result<(Subscription, PositionToken), Refused> {
        let mut inner = self.lock();
        self.admit(&inner)?;
        let head = inner.head.ok_or(Refused::NotReady)?;
        let feed = Arc::new(Feed::behind(head));
        let (place, filter) = inner.watchers.insert(filter, Arc::clone(&feed));
        drop(inner);
        Ok((Subscription { hub: Arc::clone(self), feed, filter, place }, head))
    }

    /// Registers somebody who only wants to know that something which the filter takes was changed.
    pub(crate) fn wait_for(self: &Arc<Self>, filter: Filter) -> Result<Waiting, Refused> {
        let mut inner = self.lock();
        // Also while the log is folded anew: what it comes to is a change.
        self.admit(&inner)?;
        let changed = Arc::new(Notify::new());
        let (place, _) = inner.waiting.insert(filter, Arc::clone(&changed));
        drop(inner);
        Ok(Waiting { hub: Arc::clone(self), changed, place })
    }

    /// Where the log was handed over to.
    pub(super) fn head(&self) -> Option<PositionToken> {
        self.lock().head
    }

    /// Where that is, when a watcher was sent everything up to there.
    pub(super) fn bookmark(&self, feed: &Feed) -> Option<PositionToken> {
        let inner = self.lock();
        inner.head.filter(|_| feed.is_at_the_end())
    }

    /// Has a watcher that is behind read on from the ring.
    ///
    /// # Errors
    /// The place up to which it has everything, when the ring does not go back so far.
    pub(super) fn read_on(&self, feed: &Feed, filter: &Filter) -> Result<(), PositionToken> {
        let inner = self.lock();
        let Some(head) = inner.head else {
            feed.end(Reset::Rewritten);
            return Ok(());
        };
        feed.read_on(filter, head, &inner.ring)
    }

    /// Gives a watcher's place back.
    pub(super) fn leave(&self, place: Place) {
        self.lock().watchers.remove(place);
    }

    /// Gives the place of somebody back who waited for a change.
    pub(super) fn wait_no_longer(&self, place: Place) {
        self.lock().waiting.remove(place);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    fn admit(&self, inner: &Inner) -> Result<(), Refused> {
        let admitted = inner.admit(self.limit);
        if admitted == Err(Refused::TooMany) {
            self.metrics.turned_away.inc();
        }
        admitted
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn len(&self) -> usize {
        self.watchers.len() + self.waiting.len()
    }

    fn admit(&self, limit: usize) -> Result<(), Refused> {
        if self.stopping {
            return Err(Refused::Stopping);
        }
        if self.len() >= limit {
            return Err(Refused::TooMany);
        }
        Ok(())
    }

    /// Hands a message to whoever takes it; how many those are.
    fn deliver(&mut self, message: &Arc<Message>, evicted: &mut Vec<Arc<Message>>) -> usize {
        let (Some(head), mut watchers) = (self.head, 0) else { return 0 };
        let (mut frames, mut room): (HashMap<Vec<usize>, Bytes>, _) = (HashMap::new(), FRAMES_BYTES);
        for (group, taken) in self.watchers.taken(message.names()) {
            // Groups that take the same changes share a frame.
            let frame = match frames.entry(taken) {
                Entry::Occupied(frame) => Some(frame.into_mut()),
                Entry::Vacant(_) if room == 0 => None,
                Entry::Vacant(place) => {
                    let frame = message.with(place.key());
                    room = room.saturating_sub(frame.len());
                    Some(place.insert(frame))
                }
            };
            for feed in self.watchers.members(group) {
                feed.push(frame.as_deref(), head, message);
                watchers += 1;
            }
        }
        for group in self.waiting.taken(message.names()).into_keys() {
            for waiting in self.waiting.members(group) {
                waiting.notify_one();
                watchers += 1;
            }
        }
        self.ring.push(Arc::clone(message), evicted);
        self.head = Some(message.token());
        watchers
    }

    fn end_all(&self, reset: Reset) {
        self.watchers.all().for_each(|feed| feed.end(reset));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use futures_util::FutureExt;
    use uuid::Uuid;

    use super::{
        super::{message::tests::message, subscription::Next},
        *,
    };
    use crate::metrics::tests::of_watches;

    pub(crate) fn token(position: u64) -> PositionToken {
        PositionToken::new(Position(position), Uuid::from_u128(u128::from(position)))
    }

    pub(crate) fn hub(ring_bytes: usize) -> Arc<Hub> {
        let hub = Arc::new(Hub::new(3, ring_bytes, of_watches()));
        hub.begin(token(10));
        hub
    }

    pub(crate) fn set(hub: &Hub, position: u64, names: &[&str]) {
        let changes: Vec<_> = names.iter().map(|name| (*name, Some("1"))).collect();
        let message = message(position, &changes);
        let token = message.token();
        hub.publish(vec![message], token);
    }

    pub(crate) fn watch(hub: &Arc<Hub>, prefix: &str) -> Subscription {
        let watcher = hub.watch(Filter::new(vec![], Some(prefix))).unwrap().0;
        assert!(positions(&watcher).is_empty());
        watcher
    }

    /// What the watcher has been handed; the last is negative when it was ended.
    pub(crate) fn positions(watcher: &Subscription) -> Vec<i64> {
        let mut told = vec![];
        let mut idle = 0;
        while idle < 3 {
            match watcher.next().now_or_never() {
                Some(Next::Frame(frame)) => {
                    idle = 0;
                    let text = std::str::from_utf8(&frame).unwrap();
                    told.push(text[4..].split('.').next().unwrap().parse().unwrap());
                }
                Some(Next::Older(reached)) => return vec![-i64::try_from(reached.position.0).unwrap()],
                Some(Next::Over(_)) => {
                    told.push(-1);
                    return told;
                }
                // It yields between the pieces of the ring.
                None => idle += 1,
            }
        }
        told
    }

    #[test]
    fn each_hears_of_what_it_takes_and_of_nothing_else() {
        let hub = hub(1_000_000);
        let (a, b, all) = (watch(&hub, "a"), watch(&hub, "b"), watch(&hub, ""));
        set(&hub, 11, &["a"]);
        set(&hub, 14, &["a", "b", "c"]);
        set(&hub, 15, &["c"]);
        assert_eq!((positions(&a), positions(&b), positions(&all)), (vec![11, 14], vec![14], vec![11, 14, 15]));
        assert_eq!(a.bookmark(), Some(message(15, &[("c", None)]).token()), "it has everything up to there");
        set(&hub, 16, &["a"]);
        assert_eq!(a.bookmark(), None, "something waits");
    }

    /// Readers have a change before watchers do, so a client may come with a position that is still to be handed over.
    #[test]
    fn who_has_a_change_already_is_not_told_it_when_it_is_handed_over() {
        let hub = hub(1_000_000);
        let (watcher, _) = hub.watch(Filter::new(vec![], None)).unwrap();
        watcher.start_from(token(11));
        assert!(positions(&watcher).is_empty());
        set(&hub, 11, &["a"]);
        set(&hub, 12, &["a"]);
        assert_eq!(positions(&watcher), [12]);
    }

    #[test]
    fn a_change_is_encoded_once_for_all_who_take_the_same_of_it() {
        let hub = Arc::new(Hub::new(10, 1_000_000, of_watches()));
        hub.begin(token(10));
        let prefixes = ["", "", "x", "x", "x/", "y"];
        let watchers = prefixes.map(|prefix| watch(&hub, prefix));
        set(&hub, 11, &["x/1", "y"]);
        let frames = watchers.each_ref().map(|watcher| match watcher.next().now_or_never() {
            Some(Next::Frame(frame)) => frame,
            other => panic!("{other:?}"),
        });
        let shared = |one: usize, other: usize| frames[one].as_ptr() == frames[other].as_ptr();
        assert!(shared(0, 1), "the whole of it");
        assert!(shared(2, 3), "a part of it, for one filter");
        assert!(shared(2, 4), "the same part, for another");
        assert!(!shared(0, 2) && !shared(2, 5));
    }

    #[test]
    fn when_a_command_makes_too_many_different_frames_the_rest_is_found_in_the_ring() {
        let hub = Arc::new(Hub::new(100, 1_000_000_000, of_watches()));
        hub.begin(token(10));
        let watchers: Vec<_> = (0..40).map(|n| watch(&hub, &format!("n{n:02}"))).collect();
        let value = format!("\"{}\"", "x".repeat(1_000_000));
        let names: Vec<_> = (0..40).map(|n| format!("n{n:02}")).collect();
        let changes: Vec<_> = names.iter().map(|name| (name.as_str(), Some(value.as_str()))).collect();
        let message = message(50, &changes);
        let token = message.token();
        hub.publish(vec![message], token);
        let queued = watchers.iter().filter(|watcher| watcher.bookmark().is_none()).count();
        assert_eq!(queued, 40, "something waits for each");
        let handed = watchers.iter().filter(|watcher| watcher.feed.is_behind()).count();
        assert!((20..=25).contains(&handed), "{handed} look for it themselves");
        assert!(watchers.iter().all(|watcher| positions(watcher) == [50]));
        set(&hub, 51, &["n07"]);
        assert_eq!(positions(&watchers[7]), [51], "live again");
    }

    #[test]
    fn a_rewritten_log_ends_all_watchers_and_a_rebuild_of_the_same_ends_none() {
        let hub = hub(1_000_000);
        let watcher = watch(&hub, "");
        hub.begin(token(10));
        set(&hub, 11, &["a"]);
        assert_eq!(positions(&watcher), [11]);
        set(&hub, 12, &["a"]);
        hub.rewritten();
        assert_eq!(positions(&watcher), [-1], "what was queued may be lost");
        assert_eq!(hub.watch(Filter::new(vec![], None)).unwrap_err(), Refused::NotReady);
        let mut waiting = hub.wait_for(Filter::new(vec![], None)).unwrap();
        assert_eq!(waiting.changed().now_or_never(), None);
        hub.begin(token(9));
        assert_eq!(waiting.changed().now_or_never(), Some(Ok(())), "the state may be another");
        set(&hub, 10, &["a"]);
        assert_eq!(positions(&watcher), [-1]);
        let (watcher, from) = hub.watch(Filter::new(vec![], None)).unwrap();
        assert_eq!((positions(&watcher), from.position), (vec![], Position(10)));
    }

    #[test]
    fn at_a_stop_what_is_queued_is_sent_and_nobody_comes_in() {
        let hub = hub(1_000_000);
        let watcher = watch(&hub, "");
        let mut waiting = hub.wait_for(Filter::new(vec![], None)).unwrap();
        set(&hub, 11, &["a"]);
        hub.stop();
        assert_eq!(positions(&watcher), [11, -1]);
        assert_eq!(waiting.changed().now_or_never(), Some(Err(Refused::Stopping)));
        assert_eq!(hub.watch(Filter::new(vec![], None)).unwrap_err(), Refused::Stopping);
    }

    #[test]
    fn the_limit_counts_who_is_there() {
        let hub = hub(1_000_000);
        let (first, _second) = (watch(&hub, ""), watch(&hub, "a"));
        let _waiting = hub.wait_for(Filter::new(vec![], None)).unwrap();
        assert_eq!(hub.watch(Filter::new(vec![], None)).unwrap_err(), Refused::TooMany);
        assert_eq!(hub.wait_for(Filter::new(vec![], None)).unwrap_err(), Refused::TooMany);
        drop(first);
        watch(&hub, "b");
    }
}
