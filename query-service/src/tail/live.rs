//! The fold that readers see, and what of it they may see: whole commands only.
//!
//! A page of the log may end within a command's events. What is handed to readers and watchers ends where a command does:
//! where the next event is another's, or the log is drained, for one append is atomic.

use std::sync::Arc;

use shared::{
    position::Position,
    telemetry::spans::{self, TraceSpan},
};
use uuid::Uuid;

use super::page::Reader;
use crate::{
    metrics::TailMetrics,
    projection::{Fault, Fold, Published, Recorded, Snapshot},
    watch::{Draft, Hub, Message},
};

/// Follows the log for readers and watchers.
#[derive(Debug)]
pub(super) struct Live {
    fold: Fold,
    projection: Arc<Published>,
    hub: Arc<Hub>,
    metrics: TailMetrics,
    /// The command whose end was not seen yet.
    open: Option<Draft>,
    /// The state before it, where it has more than one event.
    before: Option<Snapshot>,
    /// Commands that are complete, for watchers.
    whole: Vec<Message>,
    /// Where readers are.
    published: Position,
    /// While the log is known to go on far behind: one span for all that is read meanwhile.
    catching_up: Option<CatchUp>,
}

/// What is applied while the replica is behind the log.
#[derive(Debug, Default)]
struct CatchUp {
    /// Begins with the first event.
    span: TraceSpan,
    events: usize,
    commands: usize,
}

impl Live {
    /// Goes on from a state that ends where a command does, and is published.
    pub(super) fn new(fold: Fold, projection: Arc<Published>, hub: Arc<Hub>, metrics: TailMetrics) -> Self {
        let published = fold.position();
        Self { fold, projection, hub, metrics, open: None, before: None, whole: vec![], published, catching_up: None }
    }

    /// What is read from here on was written a while ago: each command in a trace that is over.
    pub(super) fn begin_to_catch_up(&mut self) {
        self.catching_up.get_or_insert_default();
    }

    /// It is at the log's end, or as far as it came.
    pub(super) fn end_catching_up(&mut self) {
        let Some(CatchUp { mut span, events, commands }) = self.catching_up.take() else { return };
        span.set("messaging.batch.message_count", spans::count(events));
        span.set("config.commands", spans::count(commands));
        span.set("config.position", i64::try_from(self.position().0).unwrap_or(i64::MAX));
    }

    /// The span of a command that begins with this event.
    fn processing(&mut self, event: &Recorded<'_>) -> TraceSpan {
        let Some(catching_up) = &mut self.catching_up else { return spans::process(event.metadata) };
        catching_up.commands += 1;
        if let Some(written) = spans::sampled_parent(event.metadata) {
            catching_up.span.link(&written);
        }
        TraceSpan::default()
    }

    pub(super) fn position(&self) -> Position {
        self.fold.position()
    }

    /// The event that was applied last, and which command wrote it.
    pub(super) fn anchor(&self) -> Option<(Position, Uuid)> {
        self.fold.anchor()
    }

    /// The log is known to have nothing more of the last command.
    pub(super) fn end_command(&mut self) {
        self.whole.extend(self.open.take().and_then(Draft::finish));
        self.before = None;
    }

    /// Readers get the state behind the last whole command, and then watchers the commands up to it.
    pub(super) fn publish(&mut self) {
        let snapshot = self.before.clone().unwrap_or_else(|| self.fold.snapshot());
        let token = snapshot.token();
        if token.position == self.published {
            return;
        }
        self.metrics.events_applied.inc_by(token.position.0.saturating_sub(self.published.0));
        self.published = token.position;
        self.projection.advance(snapshot);
        self.metrics.visible(self.whole.iter().map(Message::recorded_at));
        self.whole.iter_mut().for_each(Message::is_visible);
        self.hub.publish(std::mem::take(&mut self.whole), token);
    }
}

impl Reader for Live {
    fn fold(&self) -> &Fold {
        &self.fold
    }

    fn apply(&mut self, event: &Recorded<'_>, goes_on: bool) -> Result<(), Fault> {
        if !self.open.as_ref().is_some_and(|open| open.goes_on_with(event)) {
            self.end_command();
            self.before = goes_on.then(|| self.fold.snapshot());
        }
        if let Some(catching_up) = &mut self.catching_up {
            if catching_up.events == 0 {
                catching_up.span = spans::catch_up();
            }
            catching_up.events += 1;
        }
        let processing = if self.open.is_none() { self.processing(event) } else { TraceSpan::default() };
        self.fold.apply(event)?;
        let open = self.open.get_or_insert_with(|| {
            let mut draft = Draft::of(event);
            draft.traced_by(processing);
            draft
        });
        open.push(event).map_err(|source| Fault::Unknown { position: event.position, source })?;
        if !goes_on {
            self.end_command();
        }
        Ok(())
    }

    fn batch(&mut self) {
        self.publish();
    }

    fn drained(&mut self) {
        self.end_command();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        pin::pin,
        sync::atomic::{AtomicU64, Ordering::SeqCst},
        task::{Context, Wake, Waker},
    };

    use proptest::prelude::*;
    use shared::{event::AGGREGATE_TYPE, position::PositionToken};
    use uuid::Uuid;

    use super::*;
    use crate::{
        metrics::tests::{of_tail, of_watches},
        tail::page::Reader,
        watch::Filter,
    };

    fn live() -> Live {
        let hub = Arc::new(Hub::new(1, 1_000, of_watches()));
        hub.begin(PositionToken::ZERO);
        Live::new(Fold::default(), Arc::new(Published::nothing_yet()), hub, of_tail())
    }

    fn event(position: u64, command: u64) -> Recorded<'static> {
        Recorded {
            position: Position(position),
            aggregate_type: AGGREGATE_TYPE,
            aggregate_id: "a",
            sequence: position,
            event_type: "ConfigValueDeleted",
            event_version: "1.0",
            payload: "{}",
            metadata: "{}",
            recorded_at: "2024-01-15T10:30:00Z".parse().unwrap(),
            command_id: Uuid::from_u128(u128::from(command)),
        }
    }

    fn shown(live: &Live) -> u64 {
        live.projection.applied().now().0
    }

    /// Where readers are at the moment when it is woken.
    struct Woken {
        projection: Arc<Published>,
        saw: AtomicU64,
    }

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.saw.store(self.projection.applied().now().0, SeqCst);
        }
    }

    #[test]
    fn whoever_hears_of_a_change_finds_it() {
        let mut live = live();
        let woken = Arc::new(Woken { projection: Arc::clone(&live.projection), saw: AtomicU64::new(u64::MAX) });
        let mut waiting = live.hub.wait_for(Filter::new(vec![], None)).unwrap();
        let mut changed = pin!(waiting.changed());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        live.apply(&event(1, 1), false).unwrap();
        live.publish();
        assert_eq!(woken.saw.load(SeqCst), 1);
    }

    #[test]
    fn a_fault_within_a_command_leaves_what_was_before_the_command() {
        let mut live = live();
        live.apply(&event(1, 1), false).unwrap();
        live.apply(&event(2, 2), true).unwrap();
        let unknown = Recorded { event_type: "ConfigValueRenamed", ..event(3, 2) };
        live.apply(&unknown, false).unwrap_err();
        live.publish();
        assert_eq!((shown(&live), live.position()), (1, Position(2)));
        live.apply(&event(3, 2), false).unwrap();
        live.publish();
        assert_eq!(shown(&live), 3, "it can be read now");
    }

    proptest! {
        /// However the log is cut into pages and batches, what is shown ends where a command does, and at the end of the log
        /// everything is shown.
        #[test]
        fn shows_whole_commands_only(
            commands in prop::collection::vec(1..5_u64, 0..12),
            page_rows in 1..7_usize,
            batches in any::<u64>(),
        ) {
            let mut live = live();
            let (mut log, mut ends) = (vec![], BTreeSet::from([0]));
            for (command, events) in (1..).zip(commands) {
                for _ in 0..events {
                    log.push(event(log.len() as u64 + 1, command));
                }
                ends.insert(log.len() as u64);
            }
            for page in log.chunks(page_rows) {
                let drained = page.last().unwrap().position.0 == log.len() as u64 && page.len() < page_rows;
                for (index, event) in page.iter().enumerate() {
                    let goes_on = page.get(index + 1).map_or(!drained, |next| next.command_id == event.command_id);
                    live.apply(event, goes_on).unwrap();
                    if (batches >> (event.position.0 % 64)) & 1 == 1 {
                        live.batch();
                    }
                    prop_assert!(ends.contains(&shown(&live)), "{} of {ends:?}", shown(&live));
                }
                live.publish();
                prop_assert!(ends.contains(&shown(&live)), "{} of {ends:?}", shown(&live));
            }
            live.drained();
            live.publish();
            prop_assert_eq!(shown(&live), log.len() as u64);
        }
    }
}
