//! Long-lived tasks. One that must not die takes the process with it when it does.

use std::{future::Future, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{BoxError, telemetry::Chain};

/// Longest that tasks may take to end after they were told to.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A task that must not die did.
#[derive(Debug, thiserror::Error)]
pub enum TaskDied {
    /// It gave up.
    #[error("the {name} task failed")]
    Failed {
        /// Which task.
        name: &'static str,
        /// Why.
        source: BoxError,
    },
    /// It ended although nobody told it to.
    #[error("the {name} task ended by itself")]
    Ended {
        /// Which task.
        name: &'static str,
    },
    /// A bug.
    #[error("a task that must not die panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// The tasks that a service cannot be without.
#[derive(Debug, Default)]
pub struct CriticalTasks {
    running: JoinSet<(&'static str, Result<(), BoxError>)>,
    stop: CancellationToken,
}

impl CriticalTasks {
    /// Starts a task, which is to end with `Ok` when the token that it is given is cancelled, and not before.
    pub fn spawn<F, E>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let task = task(self.stop.clone());
        self.running.spawn(async move { (name, task.await.map_err(Into::into)) });
    }

    /// Takes over the tasks of another service, to be stopped together with these.
    pub fn absorb(&mut self, name: &'static str, mut other: Self) {
        let stop = self.stop.clone();
        self.running.spawn(async move {
            tokio::select! {
                died = other.first_death() => (name, Err(died.into())),
                () = stop.cancelled() => {
                    other.stop().await;
                    (name, Ok(()))
                }
            }
        });
    }

    /// Resolves when one of them has died; never while they live, nor without any.
    pub async fn first_death(&mut self) -> TaskDied {
        match self.running.join_next().await {
            None => std::future::pending().await,
            Some(Ok((name, Ok(())))) => TaskDied::Ended { name },
            Some(Ok((name, Err(source)))) => TaskDied::Failed { name, source },
            Some(Err(panicked)) => TaskDied::Panicked(panicked),
        }
    }

    /// Tells them to end and waits, for a few seconds at most; what has not ended then is dropped.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(STOP_LIMIT, async {
            while let Some(task) = self.running.join_next().await {
                match task {
                    Ok((name, Err(error))) => {
                        tracing::error!(error = %Chain(error.as_ref()), task = name, "A task failed while stopping");
                    }
                    Err(error) => tracing::error!(%error, "A task panicked while stopping"),
                    Ok((_, Ok(()))) => {}
                }
            }
        });
        if ended.await.is_err() {
            tracing::warn!(limit_s = STOP_LIMIT.as_secs(), "Tasks did not end in time and were dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use super::*;

    async fn until_stopped(stop: CancellationToken) -> Result<(), Infallible> {
        stop.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn a_task_that_fails_ends_by_itself_or_panics_is_told_with_its_cause() {
        let died = async |spawn: fn(&mut CriticalTasks)| {
            let mut tasks = CriticalTasks::default();
            tasks.spawn("other", until_stopped);
            spawn(&mut tasks);
            let died = tasks.first_death().await;
            tasks.stop().await;
            Chain(&died).to_string()
        };
        let failed = died(|tasks| tasks.spawn("tail", async |_| Err::<(), _>("the log is gone"))).await;
        assert_eq!(failed, "the tail task failed: the log is gone");
        assert_eq!(
            died(|tasks| tasks.spawn("tail", async |_| Ok::<_, Infallible>(()))).await,
            "the tail task ended by itself"
        );
        let panicked = died(|tasks| tasks.spawn("tail", async |_| -> Result<(), Infallible> { panic!("a bug") })).await;
        assert!(panicked.contains("panicked") && panicked.contains("a bug"), "{panicked}");
    }

    #[tokio::test]
    async fn the_death_of_a_merged_services_task_is_told_too() {
        let (mut tasks, mut other) = (CriticalTasks::default(), CriticalTasks::default());
        tasks.spawn("committer", until_stopped);
        other.spawn("tail", async |_| Err::<(), _>("the log is gone"));
        tasks.absorb("query service", other);
        let told = Chain(&tasks.first_death().await).to_string();
        assert_eq!(told, "the query service task failed: the tail task failed: the log is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_when_told_to_is_left_after_its_time() {
        let mut tasks = CriticalTasks::default();
        tasks.spawn("stuck", async |_| {
            pending::<()>().await;
            Ok::<_, Infallible>(())
        });
        let began = tokio::time::Instant::now();
        tasks.stop().await;
        assert!(began.elapsed() >= STOP_LIMIT);
    }
}
