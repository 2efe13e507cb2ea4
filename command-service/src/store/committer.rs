//! The committer: one task through which every event goes into the log. Waits for one unit, takes what else is queued up
//! to its limits, appends the group, and answers each caller only when it is durable.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use shared::{
    handover::Giver,
    telemetry::spans::{self, TraceSpan},
};
use sqlx::postgres::PgConnectOptions;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    append::{Anchored, Appended, Footing, Group, Outcome, Run, append, judged},
    connection::{Connections, bounded},
    failure::{Failed, Failure, Kind},
    handing::Handing,
    outage::Outage,
    pipe::Pipe,
    queue::{AppendError, Enough, Handle, UnderWay, Waiting},
    taken::Taken,
    trace::UnitTrace,
};
use crate::metrics::{AppendMetrics, UnitOutcome};

/// How many units are sent behind a group that is under way, as a part of how many that has. Fewer wait for its outcome, and for
/// whoever comes meanwhile: each group costs a flush, so small ones would cost more than they save.
const ENOUGH: (usize, usize) = (3, 4);

/// Limits of the committer.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most units that wait; a further one is refused.
    pub queue_units: usize,
    /// Most bytes of events that wait, as they are in the log. In memory an event has its name twice, and some 200 bytes besides.
    pub queue_bytes: u32,
    /// Most units in one append.
    pub group_units: usize,
    /// Most bytes of events in one append; a larger unit goes alone.
    pub group_bytes: usize,
    /// How long answers are kept under their idempotency keys.
    pub key_lifetime: Duration,
    /// Longest that one attempt may take. Longer than the server's own bound on the wait for the lock, which ends with a
    /// definite answer.
    pub attempt_limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_units: 4096,
            queue_bytes: 64 * 1024 * 1024,
            group_units: 512,
            group_bytes: 4 * 1024 * 1024,
            key_lifetime: Duration::from_hours(24),
            attempt_limit: Duration::from_secs(8),
        }
    }
}

/// The task; [`Committer::run`] it.
pub struct Committer {
    queue: mpsc::Receiver<Waiting>,
    options: Options,
    connections: Connections<Arc<Pipe>>,
    /// Told by whoever settles what failed.
    pub(super) outage: Outage,
    metrics: AppendMetrics,
    under_way: UnderWay,
    enough: Arc<Enough>,
    anchored: Anchored,
    hands_to: Option<Giver>,
    /// By the group that is gathered.
    taken: Taken,
    /// Taken from the queue, but did not fit into the group before it.
    held_back: Option<Waiting>,
}

/// A group on its way.
struct Sent {
    units: Arc<Vec<Waiting>>,
    answer: Pin<Box<dyn Future<Output = Result<Vec<Run>, sqlx::Error>> + Send>>,
    span: TraceSpan,
    link: Arc<Pipe>,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Committer {
    /// A committer with a connection of its own, and the handle to it. What it appends, it also hands to `hands_to`.
    #[must_use]
    pub fn new(
        database: PgConnectOptions,
        options: Options,
        metrics: AppendMetrics,
        hands_to: Option<Giver>,
    ) -> (Self, Handle) {
        let (handle, queue) = Handle::new(options.queue_units, options.queue_bytes, metrics.clone());
        let connections = Connections::new(database, options.attempt_limit, metrics.connection.clone());
        let (outage, anchored) = (Outage::default(), Anchored::default());
        let (taken, held_back) = (Taken::default(), None);
        let committer = Self {
            queue,
            options,
            connections,
            outage,
            metrics,
            under_way: handle.under_way(),
            enough: handle.enough(),
            anchored,
            hands_to,
            taken,
            held_back,
        };
        (committer, handle)
    }

    /// Appends what comes until `stop`; then what is queued, and ends.
    ///
    /// # Errors
    /// Never: the type is that of critical tasks.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut sent = None;
        loop {
            let group = match sent.take() {
                Some(sent) => sent,
                None => {
                    let Some(first) = self.first(&stop).await else { return Ok(()) };
                    self.under_way.begins();
                    let group = self.gather(first);
                    match self.send(group).await {
                        Ok(sent) => sent,
                        Err(failed) => {
                            Box::pin(self.settle(vec![failed])).await;
                            self.under_way.ends();
                            continue;
                        }
                    }
                }
            };
            self.under_way.begins();
            sent = self.carry_out(group).await;
            self.under_way.ends();
        }
    }

    /// Waits for the next unit; none when all are appended and no more will come.
    async fn first(&mut self, stop: &CancellationToken) -> Option<Waiting> {
        if let Some(held_back) = self.held_back.take() {
            return Some(held_back);
        }
        tokio::select! {
            biased;
            Some(waiting) = self.queue.recv() => Some(waiting),
            () = stop.cancelled() => {
                self.queue.close();
                self.queue.recv().await
            }
        }
    }

    /// The next unit, if there is one.
    fn next(&mut self) -> Option<Waiting> {
        self.held_back.take().or_else(|| self.queue.try_recv().ok())
    }

    /// The first unit and what is queued behind it, as long as it fits and can be judged beside the others.
    fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        let taken = &mut self.taken;
        taken.clear();
        taken.add(&first.ready);
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while group.len() < self.options.group_units {
            let Ok(next) = self.queue.try_recv() else { break };
            bytes = bytes.saturating_add(next.bytes);
            if bytes > self.options.group_bytes || taken.clashes(&next.ready) {
                self.held_back = Some(next);
                break;
            }
            taken.add(&next.ready);
            group.push(next);
        }
        let now = Instant::now();
        for waiting in &group {
            self.metrics.queue_wait.observe((now - waiting.since).as_secs_f64());
        }
        group
    }

    /// Waits for what becomes of a group, and answers everybody. Returns the next one, if it is on its way already: it is sent
    /// as soon as it is worth it, and at the latest before these are answered.
    async fn carry_out(&mut self, mut group: Sent) -> Option<Sent> {
        let began = Instant::now();
        let (answer, next) = self.answer_of(&mut group).await;
        match self.conclude(group, answer, began) {
            Ok((group, link, appended)) => {
                let next = next.or_else(|| {
                    let next = self.next()?;
                    let next = self.gather(next);
                    Some(self.send_on(&link, next, self.anchored.footing()))
                });
                self.answer(group, appended);
                next
            }
            Err(failed) => {
                let mut failed = vec![failed];
                if let Some(next) = next {
                    failed.extend(self.carry_out_behind(next, &failed[0].1).await);
                }
                Box::pin(self.settle(failed)).await;
                None
            }
        }
    }

    /// What the server says of a group; and the next one, if so many units came meanwhile that it was sent behind this.
    async fn answer_of(&mut self, group: &mut Sent) -> (Result<Vec<Run>, sqlx::Error>, Option<Sent>) {
        let ready: Vec<_> = group.units.iter().map(|waiting| &waiting.ready).collect();
        let footing = self.anchored.footing_behind(&ready);
        let enough = (ready.len() * ENOUGH.0).div_ceil(ENOUGH.1);
        let mut answer = pin!(bounded(self.options.attempt_limit, &mut group.answer));
        let Some(footing) = footing else { return (answer.await, None) };
        if self.held_back.is_none() {
            tokio::select! {
                biased;
                answer = &mut answer => {
                    return (answer, None);
                }
                () = self.enough.wait(&self.queue, enough) => {}
            }
        }
        let Some(next) = self.next() else { return (answer.await, None) };
        let next = self.gather(next);
        let next = self.send_on(&group.link, next, footing);
        (answer.await, Some(next))
    }

    /// Waits for what becomes of a group that was sent behind one that failed. On a connection that works it has an outcome of its own.
    async fn carry_out_behind(&mut self, mut group: Sent, before: &Failure) -> Option<Failed> {
        let began = Instant::now();
        let answer = match before.kind {
            Kind::Lost => {
                Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::ConnectionReset, "the connection was given up")))
            }
            Kind::Away | Kind::NotNow | Kind::Refused => bounded(self.options.attempt_limit, &mut group.answer).await,
        };
        match self.conclude(group, answer, began) {
            Ok((group, _, appended)) => {
                self.answer(group, appended);
                None
            }
            Err(failed) => Some(failed),
        }
    }

    /// Appends a group, when none is under way, and answers everybody; unless it fails.
    pub(super) async fn attempt(&mut self, group: Vec<Waiting>) -> Option<Failed> {
        let began = Instant::now();
        let mut group = match self.send(group).await {
            Ok(sent) => sent,
            Err(failed) => return Some(failed),
        };
        let answer = bounded(self.options.attempt_limit, &mut group.answer).await;
        match self.conclude(group, answer, began) {
            Ok((group, _, appended)) => {
                self.answer(group, appended);
                None
            }
            Err(failed) => Some(failed),
        }
    }

    /// Sends a group when none is under way.
    async fn send(&mut self, group: Vec<Waiting>) -> Result<Sent, Failed> {
        match self.connections.take().await {
            Ok(link) => Ok(self.send_on(&link, group, self.anchored.footing())),
            Err(error) => {
                self.connections.failed(&error);
                Err((group, Failure::before(error)))
            }
        }
    }

    fn send_on(&self, link: &Arc<Pipe>, group: Vec<Waiting>, footing: Footing) -> Sent {
        let span = self.statement(&group);
        let units = Arc::new(group);
        let (on, of, lifetime) = (Arc::clone(link), Arc::clone(&units), self.options.key_lifetime);
        let mut answer: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            let ready: Vec<_> = of.iter().map(|waiting| &waiting.ready).collect();
            append(&on, &ready, lifetime, footing).await
        });
        // It is sent when it is polled for the first time: now, and not when its turn comes.
        if let Some(failed) = (&mut answer).now_or_never() {
            answer = Box::pin(std::future::ready(failed));
        }
        Sent { units, answer, span, link: Arc::clone(link) }
    }

    /// What a group's answer says: what was appended, or how it failed. What the next one can stand on follows from it.
    fn conclude(
        &mut self,
        group: Sent,
        answer: Result<Vec<Run>, sqlx::Error>,
        began: Instant,
    ) -> Result<(Vec<Waiting>, Arc<Pipe>, Group), Failed> {
        let Sent { units, answer: over, mut span, link } = group;
        drop(over);
        let units = Arc::into_inner(units).expect("besides, only the statement had them, which is over");
        let judged = answer.and_then(|runs| {
            let ready: Vec<_> = units.iter().map(|waiting| &waiting.ready).collect();
            judged(&ready, runs, self.anchored)
        });
        match judged.map_err(Failure::during) {
            Ok(appended) => {
                self.metrics.appended(began.elapsed(), units.iter().map(|waiting| waiting.bytes));
                self.connections.give_back(Arc::clone(&link));
                if let Some(away) = self.outage.over() {
                    tracing::info!("Appends get through again after {} ms", away.as_millis());
                }
                self.anchored = appended.anchored;
                Ok((units, link, appended))
            }
            Err(failure) => {
                span.fail(&failure.code());
                self.connections.failed(&failure.error);
                if matches!(failure.kind, Kind::NotNow | Kind::Refused) {
                    self.connections.give_back(link);
                } else {
                    // Its state is unknown as well, or its server is the wrong one.
                    self.connections.forget();
                }
                // What was cut off may have been, or may yet be, carried out.
                if let (Kind::Lost, Some(to)) = (failure.kind, &self.hands_to) {
                    to.missed();
                }
                Err((units, failure))
            }
        }
    }

    /// The span of a group's statement. It is told to the commands before it has an outcome: they have theirs a moment later.
    fn statement(&self, group: &[Waiting]) -> TraceSpan {
        let traced = || group.iter().filter_map(|waiting| waiting.trace.as_ref());
        if traced().next().is_none() {
            return TraceSpan::default();
        }
        let events = group.iter().map(|waiting| waiting.ready.unit.events.len()).sum();
        let mut span = spans::insert(traced().map(UnitTrace::append), group.len(), events);
        self.connections.tell_place(&mut span);
        traced().for_each(|trace| trace.went_with(&span));
        span
    }

    /// What was appended is on its way to the projection before its callers hear of it.
    fn answer(&self, group: Vec<Waiting>, appended: Group) {
        let Group { outcomes, head, server_process, .. } = appended;
        let mut told = Vec::with_capacity(group.len());
        let mut handing = self.hands_to.as_ref().map(|to| (to, Handing::default()));
        for (Waiting { ready, answer, .. }, outcome) in group.into_iter().zip(outcomes) {
            let spent = match &mut handing {
                Some((_, handing)) => {
                    handing.add(ready.unit, &outcome);
                    None
                }
                None => Some(ready),
            };
            told.push((answer, outcome, spent));
        }
        if let Some((to, handing)) = handing {
            handing.give(to, head, server_process);
        }
        for (to, outcome, spent) in told {
            let (outcome, counted) = match outcome {
                Outcome::Done { appended, repeated } => {
                    let answered = matches!(appended, Appended::Answered { .. });
                    let counted = if answered { UnitOutcome::Answered } else { UnitOutcome::Appended };
                    (Ok(appended), if repeated { UnitOutcome::Repeated } else { counted })
                }
                Outcome::Conflict => (Err(AppendError::Conflict), UnitOutcome::Conflict),
            };
            self.metrics.units.of(counted).inc();
            // A caller that is gone no longer asks.
            let _gone = to.send((outcome, spent));
        }
    }

    pub(super) fn refuse(&self, group: Vec<Waiting>, error: &AppendError) {
        let counted = match error {
            AppendError::Conflict => UnitOutcome::Conflict,
            AppendError::Refused(_) => UnitOutcome::Refused,
            AppendError::Unknown => UnitOutcome::Unknown,
            AppendError::Overloaded | AppendError::Unavailable => UnitOutcome::Failed,
        };
        for waiting in group {
            self.metrics.units.of(counted).inc();
            let _gone = waiting.answer.send((Err(error.clone()), Some(waiting.ready)));
        }
    }
}
