//! `cqrs_es::EventStore` over the log, and the same for several configurations at once.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use cqrs_es::{AggregateError, EventEnvelope, EventStore};
use shared::{
    event::ConfigValueEvent,
    metrics::Counters,
    name::ConfigName,
    position::{Position, PositionToken},
    telemetry::{self, spans},
};
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    answer::{self, Answer},
    append::Appended,
    cache::Remembered,
    error::StoreError,
    load,
    loaded::{Decided, LastEvent, LoadedConfig},
    loader,
    past::{self, Former, Past},
    queue::{self, AppendError},
    receipt::{CommandScope, Freshness, Receipt},
    trace::{self, UnitTrace},
    unit::{Check, Keyed, NewEvent, Unit},
};
use crate::{
    domain::{ConfigValue, Refusal},
    metrics::CacheResult,
};

/// The store: loads through the cache and the loader, commits through the committer.
#[derive(Clone, Debug)]
pub struct ConfigEventStore {
    remembered: Arc<Remembered>,
    loader: loader::Handle,
    committer: queue::Handle,
    log: PgPool,
    cache: Counters<CacheResult>,
}

impl ConfigEventStore {
    /// Over this loader and committer; what was is read through the pool.
    #[must_use]
    pub(crate) fn new(
        loader: loader::Handle,
        committer: queue::Handle,
        log: PgPool,
        cache: Counters<CacheResult>,
    ) -> Self {
        Self { remembered: Arc::new(Remembered::new()), loader, committer, log, cache }
    }

    /// The names' states, of one moment, and in their order. All from memory, if the scope allows it and all are there.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn load(&self, scope: &CommandScope, names: Vec<ConfigName>) -> Result<Vec<LoadedConfig>, StoreError> {
        let remembered = match scope.freshness() {
            Freshness::Remembered => {
                let remembered = self.remembered.all(&names);
                self.cache.of(if remembered.is_some() { CacheResult::Hit } else { CacheResult::Miss }).inc();
                remembered
            }
            Freshness::Loaded => None,
        };
        let loaded = match remembered {
            Some(remembered) => remembered,
            None => self.loader.load(names, scope.until()).await?,
        };
        for loaded in loaded.iter().filter(|loaded| !loaded.remembered) {
            self.remembered.keep(LoadedConfig { remembered: true, ..loaded.clone() });
        }
        let latest = loaded.iter().map(|loaded| loaded.token).max_by_key(|token| token.position);
        let remembered = loaded.iter().any(|loaded| loaded.remembered);
        scope.loaded(latest.unwrap_or(PositionToken::ZERO), remembered);
        Ok(loaded)
    }

    /// What a configuration was.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn former(&self, name: &ConfigName, past: Past) -> Result<Option<Former>, StoreError> {
        let mut span = spans::read_past();
        let former = past::former(&self.log, name, past).await;
        if former.is_err() {
            span.fail("unavailable");
        }
        former
    }

    /// Appends what was decided, all or nothing; the receipts are in the order of the configurations.
    ///
    /// # Errors
    /// What became of it instead; of [`StoreError::Append`] only the unknown outcome leaves open whether it was written.
    pub async fn append(
        &self,
        scope: &CommandScope,
        decided: Vec<Decided>,
        metadata: &HashMap<String, String>,
    ) -> Result<Vec<Receipt>, StoreError> {
        scope.decided(&decided);
        let changes = decided.iter().any(|decided| decided.event.is_some());
        if !changes && scope.is_remembered() {
            return Err(StoreError::Stale);
        }
        if !changes && scope.key().is_none() {
            return Ok(decided.into_iter().map(|decided| decided.loaded.unchanged()).collect());
        }
        let command_id = scope.command_id();
        let first = match self.append_unit(scope, &decided, changes, metadata).await {
            Ok(Appended::Written { first: position, recorded_at, lineage }) => {
                LastEvent { position, command_id, recorded_at, lineage: Some(lineage) }
            }
            Ok(Appended::Noted) => {
                return Ok(decided.into_iter().map(|decided| decided.loaded.unchanged()).collect());
            }
            Ok(Appended::Answered { request, answer }) => {
                // Whoever was answered then may have changed these names.
                self.forget(&decided);
                return Err(StoreError::Answered { request, answer: Box::new(Answer::from_json(&answer)?) });
            }
            Err(error) => {
                self.forget(&decided);
                return Err(error.into());
            }
        };
        let mut place = first;
        let receipts = decided.into_iter().map(|Decided { loaded, event }| {
            if event.is_none() {
                return loaded.unchanged();
            }
            let at = place;
            place.position = place.position.next();
            self.written(loaded, at)
        });
        Ok(receipts.collect())
    }

    /// The events carry the append's own span as their parent: replicas go on in its trace.
    async fn append_unit(
        &self,
        scope: &CommandScope,
        decided: &[Decided],
        changes: bool,
        metadata: &HashMap<String, String>,
    ) -> Result<Appended, AppendError> {
        let events = || decided.iter().filter(|decided| decided.event.is_some());
        let mut span = spans::append(events().count());
        let metadata = match span.context() {
            Some(context) => {
                let mut metadata = metadata.clone();
                telemetry::carry(context, &mut metadata);
                Cow::Owned(metadata)
            }
            None => Cow::Borrowed(metadata),
        };
        if let [Decided { loaded, event: Some(_) }] = decided
            && span.is_recorded()
        {
            span.set("config.name", loaded.name.as_str());
        }
        let (unit, trace) = (unit(scope, decided, changes, &metadata), UnitTrace::of(&span));
        let appended = self.committer.append_traced(unit, scope.until(), trace.clone()).await;
        trace::appended(span, &appended, trace.as_ref().and_then(UnitTrace::statement_elsewhere));
        appended
    }

    /// Keeps what a command with a key was refused with, under its key.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn note(&self, scope: &CommandScope, answer: &Answer) -> Result<(), StoreError> {
        let keyed = scope.key().map(|key| Keyed { key, answer: answer.to_json() });
        let unit =
            Unit { command_id: scope.command_id(), events: vec![], metadata: "{}".to_owned(), checks: vec![], keyed };
        match self.committer.append(unit, scope.until()).await? {
            Appended::Answered { request, answer } => {
                Err(StoreError::Answered { request, answer: Box::new(Answer::from_json(&answer)?) })
            }
            Appended::Noted | Appended::Written { .. } => Ok(()),
        }
    }

    /// The receipts of a command that was answered before.
    ///
    /// # Errors
    /// When the log cannot be read, or was rewritten.
    pub async fn receipts(&self, answer: &Answer) -> Result<Vec<Receipt>, StoreError> {
        match answer {
            Answer::Done { command_id, operations } => answer::receipts(&self.log, *command_id, operations).await,
            Answer::Refused { .. } => Ok(vec![]),
        }
    }

    /// A configuration whose event is in the log: it is remembered.
    fn written(&self, mut loaded: LoadedConfig, at: LastEvent) -> Receipt {
        let version = loaded.version + 1;
        loaded.state.set_version(version);
        let (previous, exists) = (loaded.previous.take(), loaded.state.value().is_some());
        let state = LoadedConfig::new(loaded.name, loaded.state, Some(at));
        let (token, recorded_at) = (state.token, state.recorded_at);
        self.remembered.keep(LoadedConfig { remembered: true, ..state });
        Receipt { version, token, recorded_at, changed: true, exists, previous }
    }

    fn forget(&self, decided: &[Decided]) {
        for Decided { loaded, .. } in decided {
            self.remembered.forget(&loaded.name);
        }
    }
}

/// The unit of what was decided. A configuration that is not changed must be as it was seen, if others are.
fn unit(scope: &CommandScope, decided: &[Decided], changes: bool, metadata: &HashMap<String, String>) -> Unit {
    let command_id = scope.command_id();
    let metadata = serde_json::to_string(metadata).expect("texts are JSON");
    let event = |Decided { loaded, event }: &Decided| {
        event.as_ref().map(|event| NewEvent {
            name: loaded.name.clone(),
            expected_version: loaded.version,
            seen: loaded.written_by,
            lineage: loaded.lineage,
            event_type: event.type_name(),
            payload: event.payload(),
        })
    };
    let check = |Decided { loaded, event }: &Decided| {
        (changes && event.is_none()).then(|| Check {
            name: loaded.name.clone(),
            version: loaded.version,
            seen: loaded.written_by,
        })
    };
    Unit {
        command_id,
        events: decided.iter().filter_map(event).collect(),
        metadata,
        checks: decided.iter().filter_map(check).collect(),
        keyed: scope.key().map(|key| Keyed { key, answer: answer_to_keep(command_id, decided).to_json() }),
    }
}

/// What a repetition is told. The changes have no places yet; those are looked up then.
fn answer_to_keep(command_id: Uuid, decided: &[Decided]) -> Answer {
    let mut place = Position::ZERO;
    let receipts = decided.iter().map(|Decided { loaded, event }| match event {
        None => loaded.clone().unchanged(),
        Some(_) => {
            place = place.next();
            let token = PositionToken::new(place, command_id);
            let (version, exists) = (loaded.version + 1, loaded.state.value().is_some());
            Receipt { version, token, recorded_at: loaded.recorded_at, changed: true, exists, previous: None }
        }
    });
    Answer::done(command_id, &receipts.collect::<Vec<_>>())
}

impl EventStore<ConfigValue> for ConfigEventStore {
    type AC = LoadedConfig;

    async fn load_events(&self, name: &str) -> Result<Vec<EventEnvelope<ConfigValue>>, AggregateError<Refusal>> {
        let events = load::load_events(&self.log, name).await.map_err(into_aggregate_error)?;
        Ok(events)
    }

    async fn load_aggregate(&self, name: &str) -> Result<LoadedConfig, AggregateError<Refusal>> {
        let loaded = async {
            let scope = CommandScope::current().ok_or(StoreError::NoScope)?;
            let loaded = self.load(&scope, vec![ConfigName::stored(name)]).await?;
            loaded.into_iter().next().ok_or(StoreError::Late)
        };
        loaded.await.map_err(into_aggregate_error)
    }

    async fn commit(
        &self,
        events: Vec<ConfigValueEvent>,
        loaded: LoadedConfig,
        metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<ConfigValue>>, AggregateError<Refusal>> {
        let (name, first) = (loaded.name.to_string(), usize::try_from(loaded.version).unwrap_or(usize::MAX) + 1);
        let committed = async {
            let scope = CommandScope::current().ok_or(StoreError::NoScope)?;
            // A command leads to one event at most.
            let decided = Decided { loaded, event: events.first().cloned() };
            for receipt in self.append(&scope, vec![decided], &metadata).await? {
                scope.committed(receipt);
            }
            Ok(())
        };
        committed.await.map_err(into_aggregate_error)?;
        let envelope = |payload| EventEnvelope { aggregate_id: name, sequence: first, payload, metadata };
        Ok(events.into_iter().next().map(envelope).into_iter().collect())
    }
}

/// The framework knows conflicts by their own variant; the rest is taken out again by `command`.
fn into_aggregate_error(error: StoreError) -> AggregateError<Refusal> {
    match error {
        StoreError::Append(AppendError::Conflict) => AggregateError::AggregateConflict,
        other => AggregateError::UnexpectedError(Box::new(other)),
    }
}
