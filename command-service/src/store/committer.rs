//! The committer: one task through which every event goes into the log. Waits for one unit, takes what else is queued up
//! to its limits, appends the group, and answers each caller only when it is durable.

use std::{io, pin::pin, sync::Arc, time::Duration};

use shared::handover::Giver;
use sqlx::postgres::PgConnectOptions;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    anchor::Anchored,
    append::{Appended, Group, Outcome, Run},
    connection::{Connections, bounded},
    failure::{Failed, Failure, Kind},
    handing::Handing,
    outage::Outage,
    pipe::Pipe,
    queue::{AppendError, Enough, Handle, UnderWay, Waiting},
    sent::Sent,
    taken::Taken,
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
    pub(super) options: Options,
    pub(super) connections: Connections<Arc<Pipe>>,
    pub(super) outage: Outage,
    pub(super) metrics: AppendMetrics,
    under_way: UnderWay,
    enough: Arc<Enough>,
    pub(super) anchored: Anchored,
    pub(super) hands_to: Option<Giver>,
    /// By the group that is gathered.
    taken: Taken,
    /// Taken from the queue, but did not fit into the group before it.
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
                Some(sent) => {
                    self.under_way.begins();
                    sent
                }
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
            sent = self.carry_out(group).await;
            self.under_way.ends();
        }
    }

    /// Waits for the next unit; none when all are appended and no more will come.
    async fn first(&mut self, stop: &CancellationToken) -> Option<Waiting> {
        loop {
            if let Some(next) = self.next() {
                return Some(next);
            }
            self.held_back = tokio::select! {
                biased;
                Some(waiting) = self.queue.recv() => Some(waiting),
                () = stop.cancelled() => {
                    self.queue.close();
                    Some(self.queue.recv().await?)
                }
            };
        }
    }

    /// The next unit, if there is one. Those whose time is up are answered instead: they have never been sent.
    fn next(&mut self) -> Option<Waiting> {
        loop {
            let waiting = self.held_back.take().or_else(|| self.queue.try_recv().ok())?;
            if waiting.until > Instant::now() {
                return Some(waiting);
            }
            self.refuse(vec![waiting], &AppendError::Unavailable);
        }
    }

    /// The first unit and what is queued behind it, as long as it fits and can be judged beside the others.
    fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        self.taken.clear();
        self.taken.add(&first.ready);
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while group.len() < self.options.group_units {
            let Some(next) = self.next() else { break };
            bytes = bytes.saturating_add(next.bytes);
            if bytes > self.options.group_bytes || self.taken.clashes(&next.ready) {
                self.held_back = Some(next);
                break;
            }
            self.taken.add(&next.ready);
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
        let link = Arc::clone(&group.link);
        let (answer, mut next) = self.answer_of(&mut group).await;
        if let Some(next) = &mut next {
            next.is_first();
        }
        match self.conclude(group, answer) {
            Ok((group, appended)) => {
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
        let footing = self.anchored.footing_behind(&ready).filter(|_| group.link.has_appended());
        let enough = (ready.len() * ENOUGH.0).div_ceil(ENOUGH.1);
        let mut answer = pin!(bounded(self.options.attempt_limit, &mut group.answer));
        let Some(footing) = footing else { return (answer.await, None) };
        let in_queue = enough.saturating_sub(usize::from(self.held_back.is_some()));
        tokio::select! {
            biased;
            answer = &mut answer => {
                return (answer, None);
            }
            () = self.enough.wait(&self.queue, in_queue) => {}
        }
        let Some(next) = self.next() else { return (answer.await, None) };
        let next = self.gather(next);
        let next = self.send_on(&group.link, next, footing);
        (answer.await, Some(next))
    }

    /// Waits for what becomes of a group that was sent behind one that failed. On a connection that works it has an outcome of its own.
    async fn carry_out_behind(&mut self, mut group: Sent, before: &Failure) -> Option<Failed> {
        let answer = match before.kind {
            Kind::Lost => {
                Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::ConnectionReset, "the connection was given up")))
            }
            Kind::Away | Kind::NotNow | Kind::Refused => bounded(self.options.attempt_limit, &mut group.answer).await,
        };
        self.finish(group, answer)
    }

    /// Appends a group, when none is under way, and answers everybody; unless it fails.
    pub(super) async fn attempt(&mut self, group: Vec<Waiting>) -> Option<Failed> {
        match self.send(group).await {
            Ok(mut group) => {
                let answer = bounded(self.options.attempt_limit, &mut group.answer).await;
                self.finish(group, answer)
            }
            Err(failed) => Some(failed),
        }
    }

    fn finish(&mut self, group: Sent, answer: Result<Vec<Run>, sqlx::Error>) -> Option<Failed> {
        match self.conclude(group, answer) {
            Ok((group, appended)) => {
                self.answer(group, appended);
                None
            }
            Err(failed) => Some(failed),
        }
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
