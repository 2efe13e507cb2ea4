//! The committer: one task through which every event goes into the log. Waits for one unit, takes what else is queued up
//! to its limits, appends the group, and answers each caller only when it is durable.

use std::{sync::Arc, time::Duration};

use shared::{
    backoff::Backoff,
    handover::Giver,
    telemetry::{
        Chain,
        spans::{self, TraceSpan},
    },
};
use sqlx::postgres::PgConnectOptions;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    append::{Anchored, Appended, Group, Outcome, append},
    connection::Connections,
    failure::{Failure, Kind},
    handing::Handing,
    outage::Outage,
    queue::{AppendError, Handle, UnderWay, Waiting},
    taken::Taken,
    trace::UnitTrace,
};
use crate::metrics::{AppendMetrics, UnitOutcome};

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
    connections: Connections,
    outage: Outage,
    metrics: AppendMetrics,
    under_way: UnderWay,
    anchored: Anchored,
    hands_to: Option<Giver>,
    /// By the group that is gathered.
    taken: Taken,
    /// Taken from the queue, but touches a name of the group before it.
    held_back: Option<Waiting>,
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
        loop {
            let first = match self.held_back.take() {
                Some(held_back) => held_back,
                None => tokio::select! {
                    biased;
                    Some(waiting) = self.queue.recv() => waiting,
                    () = stop.cancelled() => {
                        self.queue.close();
                        match self.queue.recv().await {
                            Some(waiting) => waiting,
                            None => return Ok(()),
                        }
                    }
                },
            };
            let group = self.gather(first);
            self.under_way.begins();
            self.commit(group).await;
            self.under_way.ends();
        }
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

    /// Appends a group until its outcome is known, or its units' time is up. Answers everybody.
    async fn commit(&mut self, group: Vec<Waiting>) {
        let mut open = vec![(group, false)];
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        while let Some((group, mut perhaps_written)) = open.pop() {
            let Some(mut group) = self.still_wanted(group, perhaps_written) else { continue };
            let failure = match self.attempt(&group).await {
                Ok(appended) => {
                    if let Some(away) = self.outage.over() {
                        tracing::info!("Appends get through again after {} ms", away.as_millis());
                    }
                    self.anchored = appended.anchored;
                    self.answer(group, appended);
                    continue;
                }
                Err(failure) => failure,
            };
            perhaps_written |= failure.kind == Kind::Lost;
            match failure.kind {
                Kind::Lost | Kind::Away => self.tell_and_wait(&failure, group.len(), &mut backoff).await,
                // A lock that the attempt before may still hold, waiting for a standby, says as little as a lost connection.
                Kind::NotNow if perhaps_written => self.tell_and_wait(&failure, group.len(), &mut backoff).await,
                Kind::NotNow => {
                    tracing::error!(error = %Chain(&failure.error), units = group.len(), "An append was given up: the log's lock is held, or somebody cancelled it");
                    self.refuse(group, &AppendError::Unavailable);
                    continue;
                }
                // One unit spoils the group: halve it until that one stands alone. Order between units does not matter.
                Kind::Refused if group.len() > 1 => {
                    let second_half = group.split_off(group.len() / 2);
                    open.push((second_half, perhaps_written));
                }
                // An attempt before was cut off, and may yet be carried out: this refusal does not speak for it.
                Kind::Refused if perhaps_written => {
                    self.refuse(group, &AppendError::Unknown);
                    continue;
                }
                Kind::Refused => {
                    self.refuse(group, &AppendError::Refused(Arc::new(failure.error)));
                    continue;
                }
            }
            open.push((group, perhaps_written));
        }
    }

    async fn tell_and_wait(&mut self, failure: &Failure, units: usize, backoff: &mut Backoff) {
        if self.outage.failed() {
            tracing::warn!(error = %Chain(&failure.error), units, "An append did not get through; trying again");
        }
        tokio::time::sleep(backoff.next_wait()).await;
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

    async fn attempt(&mut self, group: &[Waiting]) -> Result<Group, Failure> {
        let attempted = self.attempt_once(group).await;
        if let Err(failure) = &attempted {
            self.connections.failed(&failure.error);
            // What was cut off may have been, or may yet be, carried out.
            if let (Kind::Lost, Some(to)) = (failure.kind, &self.hands_to) {
                to.missed();
            }
        }
        attempted
    }

    async fn attempt_once(&mut self, group: &[Waiting]) -> Result<Group, Failure> {
        let mut connection = self.connections.take().await.map_err(Failure::before)?;
        let ready: Vec<_> = group.iter().map(|waiting| &waiting.ready).collect();
        let mut span = self.statement(group);
        let began = Instant::now();
        let appending = append(&mut connection, &ready, self.options.key_lifetime, self.anchored);
        let appended = self.connections.bounded(appending).await.map_err(Failure::during);
        match &appended {
            Ok(_) => self.metrics.appended(began.elapsed(), group.iter().map(|waiting| waiting.bytes)),
            Err(failure) => span.fail(&failure.code()),
        }
        drop(span);
        // Otherwise it is dropped: its state is unknown as well, or its server is the wrong one.
        if appended.as_ref().err().is_none_or(|failure| matches!(failure.kind, Kind::NotNow | Kind::Refused)) {
            self.connections.give_back(connection);
        }
        appended
    }

    /// The units whose time is not up; the others are answered.
    fn still_wanted(&self, group: Vec<Waiting>, perhaps_written: bool) -> Option<Vec<Waiting>> {
        let now = Instant::now();
        let (wanted, late): (Vec<_>, Vec<_>) = group.into_iter().partition(|waiting| waiting.until > now);
        self.refuse(late, if perhaps_written { &AppendError::Unknown } else { &AppendError::Unavailable });
        (!wanted.is_empty()).then_some(wanted)
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

    fn refuse(&self, group: Vec<Waiting>, error: &AppendError) {
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
