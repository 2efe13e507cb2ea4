//! A configuration on its way from the log to a decision, and from there to an append.

use chrono::DateTime;
use cqrs_es::AggregateContext;
use shared::{
    event::ConfigValueEvent,
    moment::Moment,
    name::ConfigName,
    position::{Position, PositionToken},
    value::ConfigJson,
};
use uuid::Uuid;

use super::{anchor::Lineage, receipt::Receipt};
use crate::domain::ConfigValue;

/// The event that a configuration's state is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastEvent {
    pub(super) position: Position,
    /// Which command wrote it.
    pub(super) command_id: Uuid,
    pub(super) recorded_at: Moment,
    /// The lineage that it belongs to, if this process appended it.
    pub(super) lineage: Option<Lineage>,
}

/// A configuration as it was loaded, and where in the log that is.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    pub(super) name: ConfigName,
    pub(super) state: ConfigValue,
    /// The state before the command: the framework applies events to `state` while it decides.
    pub(super) version: u64,
    pub(super) previous: Option<ConfigJson>,
    pub(super) token: PositionToken,
    /// The command that wrote its last event.
    pub(super) written_by: Option<Uuid>,
    /// The lineage of that event, if this process appended it.
    pub(super) lineage: Option<Lineage>,
    pub(super) recorded_at: Moment,
    pub(super) remembered: bool,
}

impl LoadedConfig {
    /// It is as its last event left it; `None`: it was never written.
    pub(super) fn new(name: ConfigName, state: ConfigValue, last: Option<LastEvent>) -> Self {
        let (version, previous) = (state.version(), state.value().cloned());
        let token = last.map_or(PositionToken::ZERO, |last| PositionToken::new(last.position, last.command_id));
        let recorded_at = last.map_or(Moment(DateTime::UNIX_EPOCH), |last| last.recorded_at);
        let (written_by, lineage) = (last.map(|last| last.command_id), last.and_then(|last| last.lineage));
        Self { name, state, version, previous, token, written_by, lineage, recorded_at, remembered: false }
    }

    /// Of which configuration.
    #[must_use]
    pub fn name(&self) -> &ConfigName {
        &self.name
    }

    /// What decides.
    pub fn state(&mut self) -> &mut ConfigValue {
        &mut self.state
    }

    /// Its version as it was loaded.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The place of its last event.
    #[must_use]
    pub fn token(&self) -> PositionToken {
        self.token
    }

    /// Whether it is what the process remembers, and not what was loaded now.
    #[must_use]
    pub fn is_remembered(&self) -> bool {
        self.remembered
    }

    /// What its values weigh, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let value = |value: Option<&ConfigJson>| value.map_or(0, |value| value.json().len());
        value(self.state.value()) + value(self.previous.as_ref())
    }

    /// Nothing was changed: it is what it was.
    pub(super) fn unchanged(self) -> Receipt {
        let exists = self.state.value().is_some();
        let Self { version, token, recorded_at, previous, .. } = self;
        Receipt { version, token, recorded_at, changed: false, exists, previous }
    }
}

impl AggregateContext<ConfigValue> for LoadedConfig {
    fn aggregate(&mut self) -> &mut ConfigValue {
        &mut self.state
    }
}

/// A configuration and the event that a command led to; none if it changes nothing, but the command depends on it.
#[derive(Debug)]
pub struct Decided {
    /// As it was loaded, the event applied.
    pub loaded: LoadedConfig,
    /// What is new.
    pub event: Option<ConfigValueEvent>,
}
