//! `cqrs_es::EventStore` over the log.

use std::collections::HashMap;

use cqrs_es::{AggregateContext, AggregateError, EventEnvelope, EventStore};
use shared::{
    database::{Meaning, meaning},
    event::{ConfigValueEvent, UnknownEvent},
    moment::Moment,
    name::ConfigName,
    position::PositionToken,
    value::ConfigJson,
};
use sqlx::PgPool;
use tokio::time::timeout_at;
use tokio_util::task::TaskTracker;

use super::{
    append::{NewEvent, Unit},
    committer::{AppendError, Handle},
    load,
    receipt::{CommandScope, Receipt},
    snapshot,
};
use crate::domain::{ConfigValue, Refusal};

/// Why a command could not be carried out, though nobody refused it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state could not be read; nothing was written.
    #[error("the configuration could not be loaded")]
    Load(#[source] sqlx::Error),
    /// The command's time was up before it was loaded; nothing was written.
    #[error("the configuration could not be loaded in time")]
    Late,
    /// A newer release wrote it.
    #[error("the configuration's history is not understood")]
    UnknownEvent(#[from] UnknownEvent),
    /// Its snapshot cannot be read; it may be deleted from `snapshots`.
    #[error("the configuration's snapshot is not understood")]
    Snapshot(#[source] serde_json::Error),
    /// The append failed, or its outcome is unknown.
    #[error("the events could not be appended")]
    Append(#[from] AppendError),
    /// A command was executed without a scope: a bug.
    #[error("a command was executed outside of a scope")]
    NoScope,
}

impl StoreError {
    /// Whether the event store is out of reach, and nothing was written: another attempt may succeed.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Load(error) => meaning(error) == Meaning::ConnectionLost,
            Self::Append(error) => matches!(error, AppendError::Unavailable),
            Self::Late => true,
            _ => false,
        }
    }
}

/// A configuration as it was loaded, and where in the log that is.
#[derive(Debug)]
pub struct LoadedConfig {
    name: ConfigName,
    state: ConfigValue,
    /// The state before the command: the framework applies events to `state` while it decides.
    version: u64,
    previous: Option<ConfigJson>,
    token: PositionToken,
    recorded_at: Moment,
}

impl LoadedConfig {
    pub(super) fn new(name: ConfigName, state: ConfigValue, token: PositionToken, recorded_at: Moment) -> Self {
        let (version, previous) = (state.version(), state.value().cloned());
        Self { name, state, version, previous, token, recorded_at }
    }
}

impl AggregateContext<ConfigValue> for LoadedConfig {
    fn aggregate(&mut self) -> &mut ConfigValue {
        &mut self.state
    }
}

/// The store: loads through a pool, commits through the committer.
#[derive(Clone, Debug)]
pub struct ConfigEventStore {
    pool: PgPool,
    committer: Handle,
    tracked: TaskTracker,
}

impl ConfigEventStore {
    /// Over this pool and committer; snapshots are written in tasks of this tracker.
    #[must_use]
    pub fn new(pool: PgPool, committer: Handle, tracked: TaskTracker) -> Self {
        Self { pool, committer, tracked }
    }

    async fn append(
        &self,
        mut loaded: LoadedConfig,
        events: &[ConfigValueEvent],
        metadata: &HashMap<String, String>,
    ) -> Result<(), StoreError> {
        let scope = CommandScope::current().ok_or(StoreError::NoScope)?;
        let LoadedConfig { version, token, recorded_at, .. } = loaded;
        let Some(last) = events.len().checked_sub(1) else {
            scope.committed(Receipt { version, token, recorded_at, changed: false, previous: loaded.previous });
            return Ok(());
        };
        let metadata = serde_json::to_string(metadata).map_err(StoreError::Snapshot)?;
        let command_id = scope.command_id();
        let events = events.iter().zip(version..).map(|(event, expected_version)| NewEvent {
            name: loaded.name.clone(),
            expected_version,
            event_type: event.type_name(),
            payload: event.payload(),
            metadata: metadata.clone(),
        });
        let appended = self.committer.append(Unit { command_id, events: events.collect() }, scope.until()).await?;
        let version = version + last as u64 + 1;
        let position = shared::position::Position(appended.first.0 + last as u64);
        let token = PositionToken::new(position, command_id);
        scope.committed(Receipt {
            version,
            token,
            recorded_at: appended.recorded_at,
            changed: true,
            previous: loaded.previous,
        });
        loaded.state.set_version(version);
        if version.is_multiple_of(snapshot::SNAPSHOT_EVERY) {
            self.tracked.spawn(snapshot::write(self.pool.clone(), loaded.name, loaded.state));
        }
        Ok(())
    }
}

impl EventStore<ConfigValue> for ConfigEventStore {
    type AC = LoadedConfig;

    async fn load_events(&self, name: &str) -> Result<Vec<EventEnvelope<ConfigValue>>, AggregateError<Refusal>> {
        let events = load::load_events(&self.pool, name).await.map_err(into_aggregate_error)?;
        Ok(events)
    }

    async fn load_aggregate(&self, name: &str) -> Result<LoadedConfig, AggregateError<Refusal>> {
        let name = ConfigName::stored(name);
        let load = load::load(&self.pool, &name);
        let Some(scope) = CommandScope::current() else { return load.await.map_err(into_aggregate_error) };
        let loaded = timeout_at(scope.until(), load).await.unwrap_or(Err(StoreError::Late));
        let loaded = loaded.map_err(into_aggregate_error)?;
        scope.loaded(loaded.token);
        Ok(loaded)
    }

    async fn commit(
        &self,
        events: Vec<ConfigValueEvent>,
        loaded: LoadedConfig,
        metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<ConfigValue>>, AggregateError<Refusal>> {
        let (name, first) = (loaded.name.to_string(), usize::try_from(loaded.version).unwrap_or(usize::MAX) + 1);
        self.append(loaded, &events, &metadata).await.map_err(into_aggregate_error)?;
        let envelopes = events.into_iter().zip(first..).map(|(payload, sequence)| EventEnvelope {
            aggregate_id: name.clone(),
            sequence,
            payload,
            metadata: metadata.clone(),
        });
        Ok(envelopes.collect())
    }
}

/// The framework knows conflicts by their own variant; the rest is taken out again by `command`.
fn into_aggregate_error(error: StoreError) -> AggregateError<Refusal> {
    match error {
        StoreError::Append(AppendError::Conflict) => AggregateError::AggregateConflict,
        other => AggregateError::UnexpectedError(Box::new(other)),
    }
}
