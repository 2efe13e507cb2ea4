//! One watcher's stream: the state at first if it wants it, then what is older than the ring, then what comes.

use std::{collections::VecDeque, convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use shared::{backoff, name::ConfigName, position::PositionToken, telemetry::Chain};
use tokio::{
    select,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep},
};

use super::{
    Filter, Reset, frame,
    hub::Hub,
    log::{Fitting, LogError, LogReader},
    subscription::{Next, Subscription},
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
    /// Its place among those who read the log, as long as something of a page is ready.
    place: Option<OwnedSemaphorePermit>,
    fitting: Fitting,
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
        subscription.start_from(start);
        let ready = VecDeque::from([frame::hello(backoff::between(&RECONNECT)), frame::bookmark(start)]);
        let next_bookmark = Box::pin(sleep(jittered(bookmark_interval)));
        let (phase, place, fitting) = (Phase::Following, None, Fitting::default());
        Self { subscription, log, phase, ready, place, fitting, bookmark_interval, next_bookmark }
    }

    /// Sends the state first that it begins behind.
    pub(crate) fn with_initial(mut self, initial: Initial) -> Self {
        // Its position is told behind it: a client that loses it under way must not take it for complete.
        self.ready.truncate(1);
        self.phase = Phase::Initial(Box::new(initial));
        self
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
                    (self.ready, self.place) = (VecDeque::new(), None);
                }
                return Some(frame);
            }
            match &mut self.phase {
                Phase::Over => return None,
                Phase::Initial(initial) => match (self.subscription.over(), initial.piece()) {
                    (Some(reset), _) => self.end(reset),
                    (None, Some(Ok(piece))) => return Some(piece),
                    (None, Some(Err(TooSlow))) => self.end(Reset::Slow),
                    (None, None) => {
                        self.ready.push_back(frame::initial_end(initial.snapshot.token(), initial.configurations));
                        self.phase = Phase::Following;
                    }
                },
                Phase::Following => select! {
                    biased;
                    next = self.subscription.next() => match next {
                        Next::Frame(frame) => return Some(frame),
                        Next::Over(reset) => self.end(reset),
                        Next::Older(from) => {
                            if let Err(reset) = Box::pin(self.read_log(from)).await {
                                self.end(reset);
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

    async fn read_log(&mut self, from: PositionToken) -> Result<(), Reset> {
        let read = async {
            let place = self.log.place().await?;
            let head = self.subscription.head().ok_or(LogError::Rewritten)?;
            let page = self.log.page(self.subscription.filter(), from, head.position, self.fitting).await?;
            Ok((place, page))
        };
        let (place, page) = select! {
            biased;
            reset = self.subscription.ended() => return Err(reset),
            read = read => read.map_err(|error| unread(&error))?,
        };
        self.subscription.start_from(page.reached);
        (self.place, self.fitting) = (Some(place), page.fitting);
        self.subscription.metrics().deliveries.inc_by(page.frames.len() as u64);
        self.ready.extend(page.frames);
        // How far it came, should nothing further be for this watcher for long.
        self.ready.push_back(frame::bookmark(page.reached));
        Ok(())
    }

    fn end(&mut self, reset: Reset) {
        self.subscription.metrics().cut.of(reset).inc();
        self.subscription.metrics().resets.of(reset).inc();
        tracing::debug!("A watcher was ended: {}", reset.word());
        self.phase = Phase::Over;
        self.ready.push_back(frame::reset(reset, backoff::between(&RECONNECT)));
    }
}

/// Why the stream ends when the log could not be read.
fn unread(error: &LogError) -> Reset {
    if matches!(error, LogError::Rewritten) {
        return Reset::Rewritten;
    }
    tracing::warn!("A watcher that needs the event log was ended: {}", Chain(error));
    Reset::Unavailable
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
        watch::{Hub, log::MAX_READERS, message::tests::message},
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

    /// A broken connection brings no reset: what was said at first holds.
    #[tokio::test]
    async fn watchers_whose_connections_break_do_not_all_come_back_at_once() {
        let mut waits = std::collections::HashSet::new();
        for _ in 0..50 {
            let hello = stream(&hub(0)).0.next().await.unwrap();
            let wait = std::str::from_utf8(&hello).unwrap().trim().strip_prefix("retry: ").unwrap();
            waits.insert(Duration::from_millis(wait.parse().unwrap()));
        }
        assert!(waits.len() > 25 && waits.iter().all(|wait| RECONNECT.contains(wait)), "{waits:?}");
    }

    /// At this position, remembering next to nothing.
    fn hub(position: u64) -> Arc<Hub> {
        let hub = Arc::new(Hub::new(3, 1_000, of_watches()));
        hub.begin(PositionToken { position: Position(position), fingerprint: None });
        hub
    }

    /// A watcher from the beginning on, and its log, which is out of reach.
    fn stream(hub: &Arc<Hub>) -> (Stream, LogReader) {
        let (subscription, _) = hub.watch(Filter::new(vec![], None)).unwrap();
        let log = PgPoolOptions::new().acquire_timeout(Duration::from_millis(100));
        let log = LogReader::new(log.connect_lazy("postgres://nobody@127.0.0.1:1/nothing").unwrap());
        (Stream::behind(PositionToken::ZERO, subscription, log.clone(), Duration::from_secs(60)), log)
    }

    /// What is told until its end; of the last the reason.
    async fn events(mut stream: Stream) -> Vec<String> {
        let mut frames = String::new();
        while let Some(frame) = stream.next().await {
            frames.push_str(std::str::from_utf8(&frame).unwrap());
        }
        let mut events: Vec<_> =
            frames.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect();
        let reason = frames.rsplit_once("\"reason\":\"").and_then(|(_, rest)| rest.split('"').next()).unwrap();
        events.last_mut().unwrap().push_str(&format!(" {reason}"));
        events
    }

    /// The ring loses what comes while the state is sent; then the log is asked, which is out of reach here.
    #[tokio::test]
    async fn whoever_takes_long_to_read_the_state_at_first_is_not_slow() {
        let hub = hub(0);
        let (mut stream, _log) = stream(&hub);
        let initial = Initial::of(Arc::new(fold_of(&[("a", "1")]).snapshot()), Arc::clone(stream.filter()));
        stream = stream.with_initial(initial);
        for position in 1..=1_000 {
            let message = message(position, &[("a", Some("2"))]);
            let head = message.token();
            hub.publish(vec![message], head);
        }
        assert_eq!(events(stream).await, ["initial", "initial-end", "reset unavailable"]);
    }

    #[tokio::test]
    async fn while_the_state_at_first_is_sent_a_watcher_hears_of_a_stop_and_of_a_rewritten_log() {
        let value = format!("\"{}\"", "x".repeat(PIECE_BYTES));
        let state = Arc::new(fold_of(&[("a", &value), ("b", &value), ("c", &value)]).snapshot());
        for last in ["reset shutdown", "reset rewritten"] {
            let hub = hub(0);
            let (stream, _log) = stream(&hub);
            let initial = Initial::of(Arc::clone(&state), Arc::clone(stream.filter()));
            let mut stream = stream.with_initial(initial);
            stream.next().await.expect("its greeting");
            stream.next().await.expect("the first piece");
            if last.ends_with("shutdown") {
                hub.stop();
            } else {
                hub.rewritten();
            }
            assert_eq!(events(stream).await, [last]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_read_the_log_at_once_and_who_waits_for_that_hears_of_a_stop() {
        let hub = hub(10);
        let ((waits, log), (stops, other_log)) = (stream(&hub), stream(&hub));
        let mut readers = vec![];
        for log in [&log, &other_log] {
            for _ in 0..MAX_READERS {
                readers.push(log.place().await.unwrap());
            }
        }
        assert_eq!(events(waits).await, ["bookmark", "reset unavailable"], "not for ever");
        let stopping = async {
            sleep(Duration::from_secs(1)).await;
            hub.stop();
        };
        assert_eq!(tokio::join!(events(stops), stopping).0, ["bookmark", "reset shutdown"]);
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
