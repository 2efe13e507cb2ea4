//! What the tail does with the log while it has a connection: replay, then follow.

use std::{convert::Infallible, sync::Arc, time::Duration};

use shared::{
    backoff::Backoff,
    handover::{Taken, Taker},
    position::Position,
    telemetry::Chain,
};
use tokio::time::Instant;

use super::{
    Options, handed,
    link::{Hints, Link, LinkError, Wake},
    live::Live,
    outage::Outages,
    page::{self, PAGE_ROWS, PageEnd},
    replay::Replay,
    status::Status,
};
use crate::{
    metrics::ReplayCause,
    projection::{Fault, Published},
    watch::Hub,
};

/// First and longest wait before a log that cannot be applied is tried again. With the 4 s that an answer may take, no more
/// than the 5 s within which a dead link is noticed.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// The folds, and what is known of the log. It outlives connections.
#[derive(Debug)]
pub(super) struct Follower {
    projection: Arc<Published>,
    hub: Arc<Hub>,
    status: Arc<Status>,
    options: Options,
    handed: Taker,
    /// What readers see; `None` before the first replay is complete, and when the log it was folded from was rewritten.
    live: Option<Live>,
    /// The log from zero, while that is wanted.
    replay: Option<Replay>,
    /// Why that is wanted.
    cause: ReplayCause,
    halt: Option<Halt>,
    /// A session got as far as reading the log.
    followed: bool,
    said_started: bool,
}

/// The log cannot be applied: tried again with growing waits.
#[derive(Debug)]
struct Halt {
    reason: String,
    /// The last position before it.
    at: Position,
    backoff: Backoff,
}

/// What to do after a round; of two folds the later word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    /// Nothing was heard of the log.
    Silent,
    Wait,
    BackOff,
    GoOn,
}

impl Follower {
    pub(super) fn new(
        projection: Arc<Published>,
        hub: Arc<Hub>,
        status: Arc<Status>,
        options: Options,
        handed: Taker,
    ) -> Self {
        let (live, replay, halt) = (None, None, None);
        let (cause, followed, said_started) = (ReplayCause::Start, false, false);
        Self { projection, hub, status, options, handed, live, replay, cause, halt, followed, said_started }
    }

    /// Whether the log was ever read; a wrong schema is then no fault of the set-up, and is waited out.
    pub(super) fn has_followed(&self) -> bool {
        self.followed
    }

    /// Whether readers have a state.
    pub(super) fn has_state(&self) -> bool {
        self.projection.current().is_some()
    }

    /// Follows the log as long as the connection lasts.
    pub(super) async fn session(&mut self, link: &mut Link, outages: &mut Outages) -> LinkError {
        let Err(error) = self.follow(link, outages).await;
        if let Some(replay) = &mut self.replay {
            self.options.metrics.replay_failures.inc();
            replay.interrupt().await;
        }
        error
    }

    async fn follow(&mut self, link: &mut Link, outages: &mut Outages) -> Result<Infallible, LinkError> {
        let mut said_subscribed = false;
        // Whatever was written while there was no connection.
        if let Some(live) = &mut self.live {
            live.begin_to_catch_up();
        }
        loop {
            link.forget_hints();
            let next = self.round(link).await?;
            if next != Next::Silent {
                outages.contact();
                self.status.connected();
                self.options.metrics.connection.works();
                self.followed = true;
            }
            if next != Next::BackOff && self.replay.is_none() && !said_subscribed {
                said_subscribed = true;
                self.say_subscribed(link);
            }
            match next {
                Next::GoOn => {}
                Next::Silent | Next::Wait => self.wait(link).await?,
                Next::BackOff => {
                    let wait = self.halt.as_mut().map(|halt| halt.backoff.next_wait());
                    tokio::time::sleep(wait.unwrap_or(FIRST_RETRY)).await;
                }
            }
        }
    }

    /// Until the log is to be read again. What this process appends itself is applied meanwhile.
    async fn wait(&mut self, link: &mut Link) -> Result<(), LinkError> {
        let until = Instant::now() + self.options.poll_interval;
        loop {
            let wake = tokio::select! {
                wake = link.wait(until, &self.handed) => wake?,
                () = self.status.rebuild_asked() => Wake::Poll,
                () = copied(&mut self.replay) => Wake::Poll,
                () = self.handed.arrived() => Wake::Handed,
            };
            match wake {
                Wake::Handed if self.apply_handed() => {}
                Wake::Handed | Wake::Poll => return Ok(()),
                Wake::Hint(head) => {
                    self.status.update(|now| now.head = now.head.max(head));
                    return Ok(());
                }
            }
        }
    }

    /// Whether all that has arrived is applied; otherwise the log is to be read.
    fn apply_handed(&mut self) -> bool {
        let Taken { appended, complete } = self.handed.take();
        let Some(live) = &mut self.live else { return false };
        if self.replay.is_some() || self.halt.is_some() {
            return false;
        }
        let Some(groups) = handed::pending(&appended, live.anchor()) else { return false };
        let (before, mut all) = (live.position(), complete);
        for group in groups {
            // Others may have written between two of them.
            all &= group.behind == live.anchor() && handed::apply(group, live).is_ok();
            live.publish();
            if !all {
                break;
            }
        }
        let position = live.position();
        if position > before {
            self.options.metrics.handed_over.inc_by(position.0 - before.0);
            self.status.update(|now| now.head = now.head.max(position));
            self.status.heard();
            self.status.at_the_end();
        }
        all
    }

    /// One page for readers, and one of the replay: readers keep up while it runs.
    async fn round(&mut self, link: &mut Link) -> Result<Next, LinkError> {
        if self.replay.is_none() && (self.live.is_none() || self.status.take_rebuild()) {
            let head = link.head().await?;
            if self.live.is_some() {
                self.cause = ReplayCause::Rebuild;
            }
            self.status.update(|now| (now.head, now.replaying) = (head, Some(Position::ZERO)));
            self.replay = Some(Replay::begin(head));
        }
        let live = self.follow_live(link).await?;
        let replay = self.go_on_replaying(link).await?;
        if live != Next::BackOff
            && replay != Next::BackOff
            && let Some(halt) = self.halt.take()
        {
            tracing::info!("The event log can be applied again, after: {}", halt.reason);
            self.status.update(|now| (now.halted, now.halted_by) = (None, None));
        }
        Ok(live.max(replay))
    }

    async fn follow_live(&mut self, link: &mut Link) -> Result<Next, LinkError> {
        let Some(live) = &self.live else { return Ok(Next::Silent) };
        let rows = page_rows(self.halt.as_ref(), live.position());
        self.read_live(link, rows).await
    }

    /// Up to so many events, for readers and watchers.
    async fn read_live(&mut self, link: &mut Link, rows: i64) -> Result<Next, LinkError> {
        let Some(live) = &mut self.live else { return Ok(Next::Wait) };
        let end = page::read(link, live, rows).await;
        live.publish();
        live.end_catching_up();
        if matches!(end, Ok(PageEnd::Full)) {
            live.begin_to_catch_up();
        }
        let (end, position) = (end?, live.position());
        if matches!(end, PageEnd::Drained) {
            self.status.at_the_end();
        }
        self.status.update(|now| {
            now.head = if matches!(end, PageEnd::Drained) { position } else { now.head.max(position) };
        });
        Ok(match end {
            PageEnd::Full => Next::GoOn,
            PageEnd::Drained => Next::Wait,
            PageEnd::Rewritten => self.rewritten(position),
            PageEnd::Faulty(fault) => {
                self.halted(&fault, position);
                Next::BackOff
            }
        })
    }

    /// Watchers hear of every event through the live fold: it comes as far as the replay, which then takes its place.
    /// Whether it is there.
    async fn bring_live_to(&mut self, position: Position, link: &mut Link) -> Result<bool, LinkError> {
        while let Some(behind) = self.live.as_ref().map(|live| position.0.saturating_sub(live.position().0)) {
            let rows = PAGE_ROWS.min(i64::try_from(behind).unwrap_or(PAGE_ROWS));
            if behind == 0 {
                break;
            }
            if self.read_live(link, rows).await? != Next::GoOn {
                break;
            }
        }
        let Some(live) = &mut self.live else { return Ok(true) };
        if live.position() != position {
            return Ok(false);
        }
        // Here the replay found the log drained.
        live.end_command();
        live.publish();
        Ok(true)
    }

    async fn go_on_replaying(&mut self, link: &mut Link) -> Result<Next, LinkError> {
        let Some(replay) = &mut self.replay else { return Ok(Next::Silent) };
        let rows = page_rows(self.halt.as_ref(), replay.position());
        let end = replay.go_on(link, &self.options, rows, self.halt.is_some()).await?;
        replay.tell_progress();
        let (position, progress) = (replay.position(), replay.progress());
        let before = self.status.report().replaying;
        self.status.update(|now| {
            (now.replaying, now.progress, now.head) = (Some(position), Some(progress), now.head.max(position));
        });
        let Some(end) = end else {
            // A copy is under way, through connections of its own: what is heard of the log is what they bring.
            return Ok(if before.is_some_and(|before| position > before) { Next::Wait } else { Next::Silent });
        };
        let seen = self.live.as_ref().map_or(Position::ZERO, Live::position);
        let drained = match end {
            PageEnd::Full => false,
            PageEnd::Drained => true,
            PageEnd::Rewritten => return Ok(self.rewritten(position)),
            PageEnd::Faulty(fault) => {
                if self.halted(&fault, position) {
                    self.options.metrics.replay_failures.inc();
                }
                return Ok(Next::BackOff);
            }
        };
        if replay.has_caught_up(drained, seen)
            && self.bring_live_to(position, link).await?
            && let Some(replay) = self.replay.take()
        {
            self.swap_in(replay, drained);
        }
        Ok(Next::GoOn)
    }

    /// Readers get the replayed state, all at once.
    fn swap_in(&mut self, replay: Replay, drained: bool) {
        let first = !self.has_state();
        let (fold, figures) = replay.complete(self.options.clock);
        let snapshot = fold.snapshot();
        let (position, token) = (snapshot.position(), snapshot.token());
        // The old fold goes first, so that the old state is freed where `replace` has it freed.
        let (projection, hub) = (Arc::clone(&self.projection), Arc::clone(&self.hub));
        self.live = Some(Live::new(fold, projection, hub, self.options.metrics.clone()));
        self.projection.replace(snapshot);
        self.hub.begin(token);
        self.options.metrics.replays.of(self.cause).inc();
        if drained {
            self.status.at_the_end();
        }
        self.status.update(|now| {
            (now.replaying, now.progress, now.following) = (None, None, true);
            now.last_replay = Some(figures);
            now.rebuilds += u64::from(!first);
            now.head = if drained { position } else { now.head.max(position) };
        });
    }

    /// The log is not the one that was folded: a failover lost its tail, or it was restored. What readers have is served
    /// until it is folded anew.
    fn rewritten(&mut self, position: Position) -> Next {
        tracing::error!(
            "The event log was rewritten: the event at position {position} is no longer the one that was applied; \
             rebuilding from zero, serving the old state meanwhile"
        );
        self.live = None;
        self.hub.rewritten();
        if let Some(replay) = self.replay.take() {
            self.options.metrics.replay_failures.inc();
            replay.give_up();
        }
        self.cause = ReplayCause::Divergence;
        self.status.update(|now| {
            now.divergences += 1;
            (now.replaying, now.progress, now.following) = (Some(Position::ZERO), None, false);
        });
        // If somebody asked for a rebuild: this is it.
        self.status.take_rebuild();
        Next::GoOn
    }

    /// Said once for each fault, not for each attempt; whether it was now.
    fn halted(&mut self, fault: &Fault, at: Position) -> bool {
        let reason = fault.reason();
        let is_news = self.halt.as_ref().is_none_or(|halt| halt.reason != reason);
        if is_news {
            tracing::error!("ConfigStateProjection halted: {}; nothing behind it is applied", Chain(fault));
            let cause = fault.cause();
            self.status.update(|now| (now.halted, now.halted_by) = (Some(reason.clone()), Some(cause)));
            self.halt = Some(Halt { reason, at, backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY) });
        }
        is_news
    }

    fn say_subscribed(&mut self, link: &Link) {
        let interval_ms = u64::try_from(self.options.poll_interval.as_millis()).unwrap_or(u64::MAX);
        let by = match link.hints {
            Hints::Delivered => "notifications and polling",
            Hints::Off => "polling only",
            Hints::NotNeeded => "what this process appends, and polling",
            Hints::Refused => "polling only: the database is a standby, which delivers no notifications",
        };
        tracing::info!(by, interval_ms, "ConfigStateProjection subscribed to EventStore events");
        if !std::mem::replace(&mut self.said_started, true) {
            tracing::info!("ConfigStateProjection started");
        }
    }
}

/// Resolves when a replay's copy is over.
async fn copied(replay: &mut Option<Replay>) {
    match replay {
        Some(replay) => replay.copied().await,
        None => std::future::pending().await,
    }
}

/// Of a fold that is halted at its position, only the next event is of interest.
fn page_rows(halt: Option<&Halt>, position: Position) -> i64 {
    if halt.is_some_and(|halt| halt.at == position) { 1 } else { PAGE_ROWS }
}
