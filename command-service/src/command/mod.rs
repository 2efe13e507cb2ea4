//! Executing commands: each in a tracked task, in turn with others on the same name, tried again when somebody else's
//! command came between.

mod turns;

use std::{sync::Arc, time::Duration};

use cqrs_es::{AggregateError, CqrsFramework};
use shared::{backoff::Backoff, event::Metadata, ids::Ids, name::ConfigName, position::PositionToken};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::{
    domain::{ConfigValue, ConfigValueCommand, Refusal},
    store::{CommandScope, ConfigEventStore, Receipt, StoreError},
};
use turns::Turns;

/// How often a command is decided anew because another process wrote the name first.
const MAX_ATTEMPTS: u32 = 32;

/// Longest that a command may take, its turn and the database's absence included: a change that is written minutes after
/// it was asked for may undo a later one. Shorter than a request's limit, so that its answer is a true one.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(25);

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The aggregate said no.
    #[error("the command was refused")]
    Refused {
        /// Why.
        #[source]
        refusal: Refusal,
        /// The place in the log that the decision rests on.
        decided_at: PositionToken,
    },
    /// The name is written so often that this command never came through. Nothing was written.
    #[error("other commands on the same name came first, {MAX_ATTEMPTS} times")]
    Contention,
    /// The event store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bug.
    #[error("the command's task failed")]
    Task(#[from] tokio::task::JoinError),
    /// What the framework reported and nobody expected.
    #[error("the framework failed")]
    Framework(#[source] shared::BoxError),
}

/// Executes commands; cheap to clone.
#[derive(Clone)]
pub struct CommandBus {
    framework: Arc<CqrsFramework<ConfigValue, ConfigEventStore>>,
    turns: Turns,
    tracked: TaskTracker,
    ids: Ids,
}

impl std::fmt::Debug for CommandBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandBus").finish_non_exhaustive()
    }
}

impl CommandBus {
    /// A bus over the framework, whose commands run in tasks of this tracker.
    #[must_use]
    pub fn new(framework: CqrsFramework<ConfigValue, ConfigEventStore>, tracked: TaskTracker, ids: Ids) -> Self {
        Self { framework: Arc::new(framework), turns: Turns::default(), tracked, ids }
    }

    /// Carries a command out, to its end even if the caller goes away; `told` hears of its end before the caller does.
    ///
    /// # Errors
    /// Why it did not do what was asked.
    pub async fn execute(
        &self,
        name: ConfigName,
        command: ConfigValueCommand,
        metadata: Metadata,
        told: impl FnOnce(&Result<Receipt, CommandError>) + Send + 'static,
    ) -> Result<Receipt, CommandError> {
        let bus = self.clone();
        let until = Instant::now() + COMMAND_LIMIT;
        let task = async move {
            let result = bus.run(&name, &command, &metadata, until).await;
            told(&result);
            result
        };
        self.tracked.spawn(task.in_current_span()).await?
    }

    /// A conflict means that what was decided on is out of date: so it is decided again, on what is there now. A
    /// precondition that no longer holds is refused then, with the version that it met.
    async fn run(
        &self,
        name: &ConfigName,
        command: &ConfigValueCommand,
        metadata: &Metadata,
        until: Instant,
    ) -> Result<Receipt, CommandError> {
        let _turn = timeout_at(until, self.turns.wait(name)).await.map_err(|_| StoreError::Late)?;
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(50));
        for _ in 0..MAX_ATTEMPTS {
            let scope = CommandScope::new(self.ids.next(), until);
            let execution = self.framework.execute_with_metadata(name, command.clone(), metadata.clone());
            match scope.run(execution).await {
                Ok(()) => return scope.receipt().ok_or(StoreError::NoScope.into()),
                Err(AggregateError::AggregateConflict) => tokio::time::sleep(backoff.next_wait()).await,
                Err(AggregateError::UserError(refusal)) => {
                    return Err(CommandError::Refused { refusal, decided_at: scope.decided_at() });
                }
                Err(AggregateError::UnexpectedError(error)) => {
                    return Err(error
                        .downcast::<StoreError>()
                        .map_or_else(CommandError::Framework, |error| (*error).into()));
                }
                Err(AggregateError::DatabaseConnectionError(error) | AggregateError::DeserializationError(error)) => {
                    return Err(CommandError::Framework(error));
                }
            }
        }
        Err(CommandError::Contention)
    }
}
