//! Loading, grouped as commits are: what waits while a statement is under way is loaded by the next, so that the first writes
//! to many names cost no round trip each.

use std::{collections::HashSet, sync::Arc, time::Duration};

use shared::{backoff::Backoff, name::ConfigName, telemetry::Chain};
use sqlx::postgres::PgConnectOptions;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::Connections,
    error::{StoreError, may_succeed_later},
    load,
    loaded::LoadedConfig,
    outage::Outage,
};
use crate::metrics::LoadMetrics;

/// Statements that are under way at once, each on a connection of its own: a name with a long history holds up one of them.
pub const LANES: usize = 4;

/// Most names in one statement. A batch's names are always loaded by one, so that they are of one state.
const GROUP_NAMES: usize = 256;

/// Most loads that wait; one for each write under way.
const QUEUE: usize = 4096;

/// Longest that one exchange with the server may take: several fit into a command's time.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(8);

/// The names of one command.
struct Wanted {
    names: Vec<ConfigName>,
    until: Instant,
    answer: oneshot::Sender<Result<Vec<LoadedConfig>, StoreError>>,
}

/// Through which commands load; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Wanted>);

impl Handle {
    /// Loads the names, all as they were at one moment, after the call. While the database is away it is tried until `until`.
    ///
    /// # Errors
    /// When it cannot be read, or not in time.
    pub async fn load(&self, names: Vec<ConfigName>, until: Instant) -> Result<Vec<LoadedConfig>, StoreError> {
        let (answer, answered) = oneshot::channel();
        let wanted = Wanted { names, until, answer };
        self.0.send(wanted).await.map_err(|_| StoreError::Late)?;
        timeout_at(until, answered).await.ok().and_then(Result::ok).unwrap_or(Err(StoreError::Late))
    }
}

/// What waits, and what was taken and did not fit.
struct Queue {
    incoming: mpsc::Receiver<Wanted>,
    held_back: Option<Wanted>,
}

impl Queue {
    /// What waits, as long as it fits and no name comes twice; `None` at the end.
    async fn next(&mut self) -> Option<Vec<Wanted>> {
        let first = match self.held_back.take() {
            Some(held_back) => held_back,
            None => self.incoming.recv().await?,
        };
        let mut names: HashSet<_> = first.names.iter().cloned().collect();
        let mut group = vec![first];
        while let Ok(next) = self.incoming.try_recv() {
            if names.len() + next.names.len() > GROUP_NAMES || next.names.iter().any(|name| names.contains(name)) {
                self.held_back = Some(next);
                break;
            }
            names.extend(next.names.iter().cloned());
            group.push(next);
        }
        Some(group)
    }
}

/// The loader; run each of its lanes in a task.
pub struct Loader {
    database: PgConnectOptions,
    queue: Arc<Mutex<Queue>>,
    metrics: LoadMetrics,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").finish_non_exhaustive()
    }
}

impl Loader {
    /// A loader over this log, and the handle to it.
    #[must_use]
    pub fn new(database: PgConnectOptions, metrics: LoadMetrics) -> (Self, Handle) {
        let (sender, incoming) = mpsc::channel(QUEUE);
        let queue = Arc::new(Mutex::new(Queue { incoming, held_back: None }));
        // Look-ups by index whatever the statistics say: these plans live as long as their sessions.
        let database = database.options([("enable_seqscan", "off"), ("enable_bitmapscan", "off"), ("jit", "off")]);
        (Self { database, queue, metrics }, Handle(sender))
    }

    /// The lanes that share the queue.
    pub fn lanes(self) -> impl Iterator<Item = Lane> {
        let lane = move |_| Lane {
            queue: Arc::clone(&self.queue),
            connections: Connections::new(self.database.clone(), ATTEMPT_LIMIT, self.metrics.connection.clone()),
            outage: Outage::default(),
            metrics: self.metrics.clone(),
        };
        (0..LANES).map(lane)
    }
}

/// Loads one group after the other.
pub struct Lane {
    queue: Arc<Mutex<Queue>>,
    connections: Connections,
    outage: Outage,
    metrics: LoadMetrics,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl Lane {
    /// Loads what comes until `stop`. Commands that still wait then are at their end too.
    ///
    /// # Errors
    /// Never: the type is that of critical tasks.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        loop {
            let queue = Arc::clone(&self.queue);
            let next = async move { queue.lock().await.next().await };
            let Some(Some(group)) = stop.run_until_cancelled(next).await else { return Ok(()) };
            self.load(group).await;
        }
    }

    /// Loads a group and answers everybody. Reading is safe to repeat.
    async fn load(&mut self, group: Vec<Wanted>) {
        let mut open = vec![group];
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        while let Some(mut group) = open.pop() {
            // Who no longer waits needs no answer.
            group.retain(|wanted| wanted.until > Instant::now() && !wanted.answer.is_closed());
            let names: Vec<_> = group.iter().flat_map(|wanted| &wanted.names).collect();
            if names.is_empty() {
                continue;
            }
            match self.attempt(&names).await {
                Ok(rows) => {
                    if let Some(away) = self.outage.over() {
                        tracing::info!("Configurations can be loaded again after {} ms", away.as_millis());
                    }
                    answer(group, rows);
                }
                Err(Failure::Away(error)) => {
                    if self.outage.failed() {
                        tracing::warn!(error = %Chain(&error), names = names.len(), "Configurations could not be loaded; trying again");
                    }
                    tokio::time::sleep(backoff.next_wait()).await;
                    open.push(group);
                }
                // One name may spoil it for the others.
                Err(Failure::Refused(_)) if group.len() > 1 => {
                    let second_half = group.split_off(group.len() / 2);
                    open.extend([second_half, group]);
                }
                Err(Failure::Refused(error)) => {
                    let error = Arc::new(error);
                    for wanted in group {
                        let _gone = wanted.answer.send(Err(StoreError::Load(Arc::clone(&error))));
                    }
                }
            }
        }
    }

    async fn attempt(&mut self, names: &[&ConfigName]) -> Result<Vec<Option<load::Row>>, Failure> {
        let loaded = self.attempt_once(names).await;
        if let Err(Failure::Away(error) | Failure::Refused(error)) = &loaded {
            self.connections.failed(error);
        }
        loaded
    }

    async fn attempt_once(&mut self, names: &[&ConfigName]) -> Result<Vec<Option<load::Row>>, Failure> {
        // Whatever keeps us from connecting may pass.
        let mut connection = self.connections.take().await.map_err(Failure::Away)?;
        let began = Instant::now();
        let rows = self.connections.bounded(load::rows(&mut connection, names)).await.map_err(Failure::of)?;
        self.connections.give_back(connection);
        self.metrics.duration.observe(began.elapsed().as_secs_f64());
        self.metrics.loads.inc_by(names.len() as u64);
        Ok(rows)
    }
}

/// A failed attempt.
enum Failure {
    /// There is no server that can be asked, for now.
    Away(sqlx::Error),
    /// The server refused the statement.
    Refused(sqlx::Error),
}

impl Failure {
    fn of(error: sqlx::Error) -> Self {
        if may_succeed_later(&error) { Self::Away(error) } else { Self::Refused(error) }
    }
}

fn answer(group: Vec<Wanted>, rows: Vec<Option<load::Row>>) {
    let mut rows = rows.into_iter();
    for Wanted { names, answer, .. } in group {
        // Taken before anything can fail: the next command's rows are its own.
        let of_command: Vec<_> = rows.by_ref().take(names.len()).collect();
        let loaded = names.into_iter().zip(of_command).map(|(name, last)| load::fold(name, last)).collect();
        let _gone = answer.send(loaded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(names: &[&str]) -> (Wanted, oneshot::Receiver<Result<Vec<LoadedConfig>, StoreError>>) {
        let (answer, answered) = oneshot::channel();
        let names = names.iter().map(|name| ConfigName::stored(name)).collect();
        (Wanted { names, until: Instant::now(), answer }, answered)
    }

    /// Otherwise a command would be decided on the state of another's configuration.
    #[tokio::test]
    async fn a_name_that_cannot_be_read_fails_its_own_command_and_shifts_nobodys_rows() {
        let (spoilt, of_spoilt) = wanted(&["unreadable", "a"]);
        let (sound, of_sound) = wanted(&["b"]);
        let row = |event_type, sequence| Some(load::Row::sample(event_type, sequence));
        answer(vec![spoilt, sound], vec![row("Newer", 1), row("ConfigValueDeleted", 2), row("ConfigValueDeleted", 3)]);
        assert!(matches!(of_spoilt.await.unwrap(), Err(StoreError::UnknownEvent(_))));
        let loaded = of_sound.await.unwrap().unwrap();
        assert_eq!((loaded.len(), loaded[0].name().as_str(), loaded[0].version()), (1, "b", 3));
    }
}
