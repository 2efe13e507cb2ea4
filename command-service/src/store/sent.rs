//! A group on its way: sent, and what its answer says.

use std::{pin::Pin, sync::Arc};

use futures_util::FutureExt;
use shared::telemetry::spans::{self, TraceSpan};
use tokio::time::Instant;

use super::{
    anchor::Footing,
    append::{Group, Run, append, judged},
    committer::Committer,
    failure::{Failed, Failure, Kind},
    pipe::Pipe,
    queue::Waiting,
    trace::UnitTrace,
};

/// A group on its way.
pub(super) struct Sent {
    pub(super) units: Arc<Vec<Waiting>>,
    pub(super) answer: Pin<Box<dyn Future<Output = Result<Vec<Run>, sqlx::Error>> + Send>>,
    /// On which connection.
    pub(super) link: Arc<Pipe>,
    /// Since when the server has it, and no other group in front of it.
    since: Instant,
    footing: Footing,
    span: TraceSpan,
}

impl Sent {
    /// The group in front of it is answered.
    pub(super) fn is_first(&mut self) {
        self.since = Instant::now();
    }
}

impl Committer {
    /// Sends a group when none is under way.
    pub(super) async fn send(&mut self, group: Vec<Waiting>) -> Result<Sent, Failed> {
        match self.connections.take().await {
            Ok(link) => Ok(self.send_on(&link, group, self.anchored.footing())),
            Err(error) => {
                self.connections.failed(&error);
                Err((group, Failure::before(error)))
            }
        }
    }

    pub(super) fn send_on(&self, link: &Arc<Pipe>, group: Vec<Waiting>, footing: Footing) -> Sent {
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
        Sent { units, answer, link: Arc::clone(link), since: Instant::now(), footing, span }
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

    /// What a group's answer says: what was appended, or how it failed. What the next one can stand on follows from it.
    pub(super) fn conclude(
        &mut self,
        group: Sent,
        answer: Result<Vec<Run>, sqlx::Error>,
    ) -> Result<(Vec<Waiting>, Group), Failed> {
        let Sent { units, answer: over, link, since, footing, mut span } = group;
        drop(over);
        let units = Arc::into_inner(units).expect("besides, only the statement had them, which is over");
        let judged = answer.and_then(|runs| {
            let ready: Vec<_> = units.iter().map(|waiting| &waiting.ready).collect();
            judged(&ready, runs, self.anchored, footing)
        });
        match judged.map_err(Failure::during) {
            Ok(appended) => {
                self.metrics.appended(since.elapsed(), units.iter().map(|waiting| waiting.bytes));
                link.appended();
                self.connections.give_back(link);
                if let Some(away) = self.outage.over() {
                    tracing::info!("Appends get through again after {} ms", away.as_millis());
                }
                self.anchored = appended.anchored;
                Ok((units, appended))
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
}
