//! Executing commands: each in a tracked task, in turn with others on the same names, tried again when somebody else's
//! command came between.
//!
//! ```text
//! request ─► turns ─► attempt (framework, or batch: load, decide, append) ─► done, or answered before
//! ```

mod request;

mod turns;

mod batch;

mod counting;

use std::{sync::Arc, time::Duration};

use cqrs_es::{AggregateError, CqrsFramework};
use shared::{
    backoff::Backoff,
    event::Metadata,
    ids::Ids,
    name::ConfigName,
    position::PositionToken,
    telemetry::{
        request::carried,
        spans::{self, TraceSpan},
    },
};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

pub use self::request::{CommandError, Done, Operation, Request, Work};
use self::{counting::Counting, turns::Turns};
use crate::{
    domain::{ConfigValue, Refusal},
    metrics::WriteMetrics,
    store::{Answer, AppendError, CommandScope, ConfigEventStore, Freshness, LoadedConfig, Past, Receipt, StoreError},
    update_worker::UpdateNotifier,
};

/// How often a command is decided anew because another process wrote the name first.
const MAX_ATTEMPTS: u32 = 32;

/// Longest that a command may take, its turn and the database's absence included: a change that is written minutes after
/// it was asked for may undo a later one. Shorter than a request's limit, so that its answer is a true one.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(25);

/// Executes commands.
pub struct CommandBus {
    framework: CqrsFramework<ConfigValue, ConfigEventStore>,
    store: ConfigEventStore,
    notifier: UpdateNotifier,
    turns: Turns,
    tracked: TaskTracker,
    ids: Ids,
    metrics: WriteMetrics,
}

impl std::fmt::Debug for CommandBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandBus").finish_non_exhaustive()
    }
}

impl CommandBus {
    /// A bus over the store, that tells the worker. Commands run in tasks of this tracker.
    #[must_use]
    pub(crate) fn new(
        store: ConfigEventStore,
        notifier: UpdateNotifier,
        tracked: TaskTracker,
        ids: Ids,
        metrics: WriteMetrics,
    ) -> Self {
        let framework = CqrsFramework::new(store.clone(), vec![Box::new(notifier.clone())], ());
        Self { framework, store, notifier, turns: Turns::default(), tracked, ids, metrics }
    }

    /// Carries a command out, to its end even if the caller goes away; `ended` is run with what came of it before the caller
    /// hears of it.
    ///
    /// # Errors
    /// Why it did not do what was asked.
    pub async fn execute<F: Future<Output = ()> + Send>(
        self: &Arc<Self>,
        request: Request,
        ended: impl FnOnce(&Result<Done, CommandError>) -> F + Send + 'static,
    ) -> Result<Done, CommandError> {
        let bus = Arc::clone(self);
        let until = Instant::now() + COMMAND_LIMIT;
        // Boxed where it is made: on its way into the runtime it would be moved several times.
        let task = Box::pin(async move {
            let counting = Counting::begin(&bus.metrics, &request.work);
            let result = bus.run(request, until).await;
            counting.end(&result);
            ended(&result).await;
            result
        });
        self.tracked.spawn(carried(task)).await?
    }

    async fn run(&self, request: Request, until: Instant) -> Result<Done, CommandError> {
        let turns = self.turns.wait_for_all(request.work.names());
        // Not the database's fault, and nothing was written.
        let _turns = timeout_at(until, turns).await.map_err(|_| CommandError::Contention)?;
        self.decide(&request, until).await
    }

    /// A conflict means that what was decided on is out of date: so it is decided again, on what is there now. A
    /// precondition that no longer holds is refused then, with the version that it met.
    async fn decide(&self, request: &Request, until: Instant) -> Result<Done, CommandError> {
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(50));
        let mut freshness = Freshness::Remembered;
        for attempt in 1..=MAX_ATTEMPTS {
            let scope = CommandScope::new(self.ids.next(), until, request.key, freshness);
            let scope = scope.decided_in(decision(&request.work, attempt));
            let error = match scope.run(self.attempt(&scope, request)).await {
                Ok(receipts) => return Ok(Done { receipts, replayed: false }),
                Err(error) => error,
            };
            if let CommandError::Refused { refusal, operation, .. } = &error {
                scope.refused(refusal, *operation);
            }
            match error {
                CommandError::Refused { .. } | CommandError::Store(StoreError::Stale) if scope.is_remembered() => {
                    spans::decided_anew(attempt, "remembered");
                    // What is remembered may say yes, which the append verifies; never no.
                    freshness = Freshness::Loaded;
                }
                CommandError::Refused { refusal, operation, .. } => {
                    return self.refused(&scope, refusal, operation).await;
                }
                CommandError::Store(StoreError::Answered { request, answer }) => {
                    return self.answered(&scope, &request, *answer).await;
                }
                error if error.is_conflict() => {
                    self.metrics.conflicts.inc();
                    spans::decided_anew(attempt, "conflict");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                error => return Err(error),
            }
        }
        Err(CommandError::Contention)
    }

    async fn attempt(&self, scope: &CommandScope, request: &Request) -> Result<Vec<Receipt>, CommandError> {
        let Request { work, metadata, .. } = request;
        match work {
            Work::One(operation) => self.attempt_one(scope, operation, metadata.clone()).await,
            Work::Batch(operations) => batch::execute(&self.store, &self.notifier, scope, operations, metadata).await,
            Work::Rollback { name, to, precondition } => {
                let former = timeout_at(scope.until(), self.store.former(name, *to));
                let Some(former) = former.await.unwrap_or(Err(StoreError::Late))? else {
                    return Err(self.no_such_version(scope, name, *to).await?);
                };
                let mut metadata = metadata.clone();
                request::say_rollback(&mut metadata, former.version);
                let command = request::rollback(former, precondition.clone());
                self.attempt_one(scope, &Operation { name: name.clone(), command }, metadata).await
            }
        }
    }

    async fn attempt_one(
        &self,
        scope: &CommandScope,
        Operation { name, command }: &Operation,
        metadata: Metadata,
    ) -> Result<Vec<Receipt>, CommandError> {
        let execution = self.framework.execute_with_metadata(name, command.clone(), metadata);
        execution.await.map_err(into_command_error)?;
        Ok(vec![scope.receipt().ok_or(StoreError::NoScope)?])
    }

    /// The refusal of a rollback to what never was; a conflict, if it came to be since that was looked up.
    async fn no_such_version(
        &self,
        scope: &CommandScope,
        name: &ConfigName,
        to: Past,
    ) -> Result<CommandError, CommandError> {
        let loaded = self.store.load(scope, vec![name.clone()]).await?;
        let last_version = loaded.first().map_or(0, LoadedConfig::version);
        if matches!(to, Past::Version(version) if version <= last_version) {
            if scope.is_remembered() {
                // A failover may have lost it: only a load can tell.
                return Ok(StoreError::Stale.into());
            }
            return Ok(StoreError::Append(AppendError::Conflict).into());
        }
        Ok(refused(Refusal::NoSuchVersion { last_version }, 0))
    }

    /// The refusal; kept first, when the command has a key. Another command with that key may have been carried out meanwhile:
    /// its answer is this one's.
    async fn refused(&self, scope: &CommandScope, refusal: Refusal, operation: usize) -> Result<Done, CommandError> {
        let decided_at = scope.decided_at();
        if scope.key().is_some() {
            let answer = Answer::refused(scope.command_id(), operation, &refusal, decided_at);
            match self.store.note(scope, &answer).await {
                Ok(()) => {}
                Err(StoreError::Answered { request, answer }) => return self.answered(scope, &request, *answer).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommandError::Refused { refusal, operation, decided_at, replayed: false })
    }

    /// What the first command with this key was answered.
    async fn answered(&self, scope: &CommandScope, request: &[u8], answer: Answer) -> Result<Done, CommandError> {
        if scope.key().is_none_or(|key| key.request != *request) {
            return Err(CommandError::KeyReused);
        }
        let replayed = answer.command_id() != scope.command_id();
        match &answer {
            Answer::Done { .. } => {
                // It is done, whatever keeps us from reading where: that must not sound as if nothing was written.
                let receipts = timeout_at(scope.until(), self.store.receipts(&answer)).await;
                let receipts = receipts.ok().and_then(Result::ok).ok_or(StoreError::Append(AppendError::Unknown))?;
                Ok(Done { receipts, replayed })
            }
            Answer::Refused { operation, refusal, decided_at, .. } => Err(CommandError::Refused {
                refusal: refusal.clone(),
                operation: *operation,
                decided_at: decided_at.parse().unwrap_or(PositionToken::ZERO),
                replayed,
            }),
        }
    }
}

/// The span of an attempt's decision.
fn decision(work: &Work, attempt: u32) -> TraceSpan {
    let mut span = spans::decide(attempt);
    if !span.is_recorded() {
        return span;
    }
    match work {
        Work::One(Operation { name, .. }) => span.set("config.name", name.as_str()),
        Work::Batch(operations) => span.set("config.operations", spans::count(operations.len())),
        Work::Rollback { name, to, .. } => {
            span.set("config.name", name.as_str());
            match to {
                Past::Version(version) => {
                    span.set("config.rollback.version", i64::try_from(*version).unwrap_or(i64::MAX));
                }
                Past::At(moment) => span.set("config.rollback.at", moment.to_string().as_str()),
            }
        }
    }
    span
}

fn refused(refusal: Refusal, operation: usize) -> CommandError {
    // Where it was decided is in the command's scope.
    CommandError::Refused { refusal, operation, decided_at: PositionToken::ZERO, replayed: false }
}

fn into_command_error(error: AggregateError<Refusal>) -> CommandError {
    match error {
        AggregateError::AggregateConflict => StoreError::Append(AppendError::Conflict).into(),
        AggregateError::UserError(refusal) => refused(refusal, 0),
        AggregateError::UnexpectedError(error) => match error.downcast::<StoreError>() {
            Ok(error) => (*error).into(),
            Err(error) => CommandError::Framework(error),
        },
        AggregateError::DatabaseConnectionError(error) | AggregateError::DeserializationError(error) => {
            CommandError::Framework(error)
        }
    }
}
