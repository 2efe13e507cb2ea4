//! One watcher's stream: the state at first if it wants it, then what is older than the ring, then what comes.

use std::{collections::VecDeque, convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use shared::{backoff, name::ConfigName, position::PositionToken, telemetry::Chain};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep},
};

use super::{
    Filter, Reset, frame,
    hub::{Hub, Next, Subscription},
    log::{LogError, LogReader},
};
use crate::projection::Snapshot;

/// When a client whose stream ended comes back: at random between these, so that not all do at once.
const RECONNECT: std::ops::Range<Duration> = Duration::from_secs(1)..Duration::from_secs(10);

/// Bytes of the state that are put together at a time. One item may exceed it.
const PIECE_BYTES: usize = 64 * 1024;

/// Longest that the state may take to be sent; the watcher is too slow then, and the snapshot is let go.
const INITIAL_LIMIT: Duration = Duration::from_secs(300);

/// A stream of events, bounded in what it holds: its feed, and a piece of the state or a page of the log.
#[derive(Debug)]
pub(crate) struct Stream {
    subscription: Subscription,
    log: LogReader,
    phase: Phase,
    ready: VecDeque<Bytes>,
    /// The last place that was reached on another way than by the feed.
    reached: PositionToken,
    bookmark_interval: Duration,
    next_bookmark: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum Phase {
    Initial(Box<Initial>),
    Following,
    Over,
}

impl Stream {
    /// Begins behind `start`, which the client is told.
    pub(crate) fn behind(
        start: PositionToken,
        subscription: Subscription,
        log: LogReader,
        bookmark_interval: Duration,
    ) -> Self {
        subscription.start_from(start.position);
        let ready = VecDeque::from([frame::hello(backoff::between(&RECONNECT)), frame::bookmark(start)]);
        let next_bookmark = Box::pin(sleep(jittered(bookmark_interval)));
        let phase = Phase::Following;
        Self { subscription, log, phase, ready, reached: start, bookmark_interval, next_bookmark }
    }

    /// Sends the state first that it begins behind.
    pub(crate) fn with_initial(mut self, initial: Initial) -> Self {
        // Its position is told behind it: a client that loses it under way must not take it for complete.
        self.ready.truncate(1);
        self.phase = Phase::Initial(Box::new(initial));
        self
    }

    /// Reads the first page of what is older than the ring, so that a log out of reach is a status and not a stream.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn begin(&mut self) -> Result<(), LogError> {
        // Behind a state at first it is looked for when that is sent: until then the watcher is not live, and so never slow.
        if matches!(self.phase, Phase::Following) && self.subscription.needs_the_log().is_some() {
            self.read_log(self.reached).await?;
        }
        Ok(())
    }

    pub(crate) fn filter(&self) -> &Arc<Filter> {
        self.subscription.filter()
    }

    /// Ends it at once.
    pub(crate) fn over(reset: Reset, hub: &Hub) -> Bytes {
        hub.metrics().resets.of(reset).inc();
        frame::reset(reset, backoff::between(&RECONNECT))
    }

    /// The body of the answer.
    pub(crate) fn frames(self) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(self, |mut stream| async move { stream.next().await.map(|frame| (Ok(frame), stream)) })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                if self.ready.is_empty() {
                    // An idle watcher keeps no room.
                    self.ready = VecDeque::new();
                }
                return Some(frame);
            }
            match &mut self.phase {
                Phase::Over => return None,
                Phase::Initial(initial) => match initial.piece() {
                    Some(Ok(piece)) => return Some(piece),
                    Some(Err(TooSlow)) => self.end(Reset::Slow),
                    None => {
                        self.ready.push_back(frame::initial_end(self.reached, initial.configurations));
                        self.phase = Phase::Following;
                    }
                },
                Phase::Following => tokio::select! {
                    biased;
                    next = self.subscription.next() => match next {
                        Next::Frame(frame) => return Some(frame),
                        Next::Over(reset) => self.end(reset),
                        Next::Older(position) => {
                            let from = Some(self.reached).filter(|reached| reached.position == position);
                            let from = from.unwrap_or(PositionToken { position, fingerprint: None });
                            if let Err(error) = Box::pin(self.read_log(from)).await {
                                self.give_up(&error);
                            }
                        }
                    },
                    () = self.next_bookmark.as_mut() => {
                        self.next_bookmark.as_mut().reset(Instant::now() + jittered(self.bookmark_interval));
                        if let Some(token) = self.subscription.bookmark() {
                            return Some(frame::bookmark(token));
                        }
                    }
                },
            }
        }
    }

    async fn read_log(&mut self, from: PositionToken) -> Result<(), LogError> {
        let Some(head) = self.subscription.head() else { return Err(LogError::Rewritten) };
        let page = self.log.page(self.subscription.filter(), from, head.position).await?;
        self.subscription.start_from(page.reached.position);
        self.reached = page.reached;
        self.subscription.metrics().deliveries.inc_by(page.frames.len() as u64);
        self.ready.extend(page.frames);
        // How far it came, should nothing further be for this watcher for long.
        self.ready.push_back(frame::bookmark(page.reached));
        Ok(())
    }

    fn give_up(&mut self, error: &LogError) {
        if matches!(error, LogError::Rewritten) {
            return self.end(Reset::Rewritten);
        }
        tracing::warn!("A watcher that needs the event log was ended: {}", Chain(error));
        self.end(Reset::Unavailable);
    }

    fn end(&mut self, reset: Reset) {
        self.subscription.metrics().cut.of(reset).inc();
        self.subscription.metrics().resets.of(reset).inc();
        tracing::debug!("A watcher was ended: {}", reset.word());
        self.phase = Phase::Over;
        self.ready.push_back(frame::reset(reset, backoff::between(&RECONNECT)));
    }
}

fn jittered(interval: Duration) -> Duration {
    backoff::between(&(interval.mul_f64(0.75)..interval.mul_f64(1.25)))
}

/// The state was not read to its end in time.
struct TooSlow;

/// The state that a watcher begins with, written piece by piece. It keeps its snapshot alive until it is dropped.
#[derive(Debug)]
pub(crate) struct Initial {
    snapshot: Arc<Snapshot>,
    filter: Arc<Filter>,
    /// The next of the exact names, by its index.
    next_name: usize,
    /// The last name under the prefix that was written.
    after: Option<ConfigName>,
    /// How many were written.
    configurations: u64,
    until: Instant,
    first: Option<Bytes>,
    done: bool,
    /// Its place among the long lists under way.
    place: Option<OwnedSemaphorePermit>,
}

impl Initial {
    /// Of this snapshot, what the filter takes.
    pub(crate) fn of(snapshot: Arc<Snapshot>, filter: Arc<Filter>) -> Self {
        let (until, done) = (Instant::now() + INITIAL_LIMIT, false);
        let (next_name, after, configurations, first, place) = (0, None, 0, None, None);
        let mut initial = Self { snapshot, filter, next_name, after, configurations, until, first, done, place };
        initial.first = Some(initial.write());
        initial
    }

    /// Whether it is more than a piece, and needs a place among the long lists.
    pub(crate) fn is_long(&self) -> bool {
        !self.done
    }

    /// Keeps the place until it is sent.
    pub(crate) fn hold(&mut self, place: OwnedSemaphorePermit) {
        self.place = Some(place);
    }

    fn piece(&mut self) -> Option<Result<Bytes, TooSlow>> {
        match self.first.take() {
            Some(first) if first.is_empty() => None,
            Some(first) => Some(Ok(first)),
            None if self.done => None,
            None if Instant::now() > self.until => Some(Err(TooSlow)),
            None => Some(Ok(self.write())),
        }
    }

    /// The next piece; `done` is set with the last one.
    fn write(&mut self) -> Bytes {
        let mut frames = vec![];
        for name in &self.filter.names()[self.next_name..] {
            if frames.len() >= PIECE_BYTES {
                return frames.into();
            }
            self.next_name += 1;
            if let Some(entry) = self.snapshot.get(name) {
                frame::write_initial(&mut frames, name, entry.version, entry.value().json());
                self.configurations += 1;
            }
        }
        let Some(prefix) = self.filter.prefix() else {
            self.done = true;
            return frames.into();
        };
        let (mut last, mut full): (Option<&str>, _) = (None, false);
        for (name, entry) in self.snapshot.list(prefix, self.after.as_deref()) {
            full = frames.len() >= PIECE_BYTES;
            if full {
                break;
            }
            frame::write_initial(&mut frames, name, entry.version, entry.value().json());
            self.configurations += 1;
            last = Some(name);
        }
        self.after = last.map(ConfigName::stored).or_else(|| self.after.take());
        self.done = !full;
        frames.into()
    }
}

#[cfg(test)]
mod tests {
    use shared::{event::AGGREGATE_TYPE, position::Position};
    use sqlx::postgres::PgPoolOptions;
    use uuid::Uuid;

    use super::*;
    use crate::{
        metrics::tests::of_watches,
        projection::{Fold, Recorded},
        watch::{Hub, message::tests::message},
    };

    fn fold_of(values: &[(&str, &str)]) -> Fold {
        let mut fold = Fold::default();
        for (position, (name, json)) in (1..).zip(values) {
            let event = Recorded {
                position: Position(position),
                aggregate_type: AGGREGATE_TYPE,
                aggregate_id: name,
                sequence: position,
                event_type: "ConfigValueSet",
                event_version: "1.0",
                payload: &format!("{{\"value\":{json}}}"),
                metadata: "{}",
                recorded_at: "2024-01-15T10:30:00Z".parse().unwrap(),
                command_id: Uuid::from_u128(1),
            };
            fold.apply(&event).unwrap();
        }
        fold
    }

    fn written(values: &[(&str, &str)], filter: Filter) -> (Vec<String>, usize) {
        let mut initial = Initial::of(Arc::new(fold_of(values).snapshot()), Arc::new(filter));
        let (mut text, mut pieces) = (String::new(), 0);
        while let Some(Ok(piece)) = initial.piece() {
            text.push_str(std::str::from_utf8(&piece).unwrap());
            pieces += 1;
        }
        let items: Vec<_> =
            text.split_terminator("\n\n").map(|item| item.replace("event: initial\ndata: ", "")).collect();
        assert_eq!(initial.configurations, items.len() as u64);
        (items, pieces)
    }

    #[test]
    fn the_state_at_first_has_what_the_filter_takes_once() {
        let values = [("a", "1"), ("a/b", "2"), ("a/c", "[3,\n4]"), ("b", "5"), ("c", "6")];
        let names = ["c", "a/b", "gone", "b"].map(ConfigName::stored).to_vec();
        let (items, _) = written(&values, Filter::new(names, Some("a/")));
        let expected = [
            r#"{"name":"b","version":4,"value":5}"#,
            r#"{"name":"c","version":5,"value":6}"#,
            r#"{"name":"a/b","version":2,"value":2}"#,
            r#"{"name":"a/c","version":3,"value":[3, 4]}"#,
        ];
        assert_eq!(items, expected);
        assert_eq!(written(&[], Filter::new(vec![], None)), (vec![], 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_at_first_that_is_not_read_in_time_is_given_up_and_its_watcher_told() {
        let (value, hub) = (format!("\"{}\"", "x".repeat(PIECE_BYTES)), Arc::new(Hub::new(1, 1_000, of_watches())));
        hub.begin(PositionToken::ZERO);
        let (subscription, start) = hub.watch(Filter::new(vec![], None)).unwrap();
        let state = Arc::new(fold_of(&["a", "b", "c"].map(|name| (name, value.as_str()))).snapshot());
        let initial = Initial::of(Arc::clone(&state), Arc::clone(subscription.filter()));
        let log = LogReader::new(PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/nothing").unwrap());
        let mut stream = Stream::behind(start, subscription, log, Duration::from_secs(60)).with_initial(initial);
        for expected in ["retry: ", "event: initial\n"] {
            assert!(stream.next().await.unwrap().starts_with(expected.as_bytes()));
        }
        tokio::time::advance(INITIAL_LIMIT).await;
        assert!(stream.next().await.unwrap().starts_with(b"event: initial\n"), "it is still in time");
        tokio::time::advance(Duration::from_millis(1)).await;
        let last = stream.next().await.unwrap();
        assert!(std::str::from_utf8(&last).unwrap().contains(r#""reason":"slow""#), "{last:?}");
        assert_eq!(stream.next().await, None);
        assert_eq!(Arc::strong_count(&state), 1, "nobody holds it any more");
    }

    #[test]
    fn bookmarks_of_many_watchers_do_not_come_all_at_once() {
        let interval = Duration::from_secs(16);
        let waits: std::collections::HashSet<_> = (0..50).map(|_| jittered(interval)).collect();
        assert!(
            waits.iter().all(|wait| (Duration::from_secs(12)..Duration::from_secs(20)).contains(wait)),
            "{waits:?}"
        );
        let spread = waits.iter().max().zip(waits.iter().min()).map(|(longest, shortest)| *longest - *shortest);
        assert!(spread > Some(Duration::from_secs(4)), "{waits:?}");
    }

    /// The ring loses what comes while the state is sent; then the log is asked, which is out of reach here.
    #[tokio::test]
    async fn whoever_takes_long_to_read_the_state_at_first_is_not_slow() {
        let hub = Arc::new(Hub::new(1, 1_000, of_watches()));
        hub.begin(PositionToken::ZERO);
        let (subscription, start) = hub.watch(Filter::new(vec![], None)).unwrap();
        let initial = Initial::of(Arc::new(fold_of(&[("a", "1")]).snapshot()), Arc::clone(subscription.filter()));
        let log = PgPoolOptions::new().acquire_timeout(Duration::from_millis(100));
        let log = LogReader::new(log.connect_lazy("postgres://nobody@127.0.0.1:1/nothing").unwrap());
        let mut stream = Stream::behind(start, subscription, log, Duration::from_secs(60)).with_initial(initial);
        stream.begin().await.unwrap();
        for position in 1..=1_000 {
            let message = message(position, &[("a", Some("2"))]);
            let head = message.token();
            hub.publish(vec![message], head);
        }
        let mut frames = String::new();
        while let Some(frame) = stream.next().await {
            frames.push_str(std::str::from_utf8(&frame).unwrap());
        }
        let events: Vec<_> = frames.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(events, ["initial", "initial-end", "reset"]);
        assert!(frames.contains(r#""reason":"unavailable""#), "{frames}");
    }

    #[test]
    fn a_long_state_is_written_in_pieces_that_fit_together() {
        let value = format!("\"{}\"", "x".repeat(5_000));
        let names: Vec<_> = (0..100).map(|n| format!("name{n:03}")).collect();
        let values: Vec<_> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
        for exact in [0, 60, 100] {
            let exact = names[..exact].iter().map(|name| ConfigName::stored(name)).collect();
            let (items, pieces) = written(&values, Filter::new(exact, Some("name0")));
            let all = written(&values, Filter::new(vec![], None)).0;
            assert!(pieces > 5, "{pieces}");
            assert!(items.iter().all(|item| all.contains(item)));
            assert_eq!(items.len(), items.iter().collect::<std::collections::HashSet<_>>().len());
        }
        assert_eq!(written(&values, Filter::new(vec![], None)).0.len(), 100);
    }
}
