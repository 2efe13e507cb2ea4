//! The aggregate.

use cqrs_es::{Aggregate, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use shared::{
    event::{AGGREGATE_TYPE, ConfigValueEvent},
    value::ConfigJson,
};

use super::command::{Change, ConfigValueCommand, Precondition, Refusal};

/// One configuration, as its last event left it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigValue {
    state: State,
    /// Number of its last event. Set by the event store that loaded it and never by `apply`, which the framework may run
    /// twice for one event (it does when it makes a snapshot): a state is the same after two runs, a counter is not.
    #[serde(skip)]
    version: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    #[default]
    NeverSet,
    Set {
        value: ConfigJson,
    },
    Deleted,
}

impl ConfigValue {
    /// Says which version this state is.
    pub fn set_version(&mut self, version: u64) {
        self.version = version;
    }

    /// Number of its last event; 0 before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Its value; `None` when it was never set or is deleted.
    #[must_use]
    pub fn value(&self) -> Option<&ConfigJson> {
        match &self.state {
            State::Set { value } => Some(value),
            State::NeverSet | State::Deleted => None,
        }
    }

    /// The event that a command leads to; `None` when it changes nothing.
    fn decide(&self, command: ConfigValueCommand) -> Result<Option<ConfigValueEvent>, Refusal> {
        // What is not there cannot be deleted, whatever the precondition says: RFC 9110 section 13.2.1.
        match (&command.change, &self.state) {
            (Change::Delete, State::NeverSet) => return Err(Refusal::NeverSet),
            (Change::Delete, State::Deleted) => return Err(Refusal::AlreadyDeleted),
            _ => {}
        }
        if !self.satisfies(&command.precondition) {
            return Err(Refusal::PreconditionFailed { current_version: self.value().map_or(0, |_| self.version) });
        }
        Ok(match command.change {
            Change::Set(value) if self.value() == Some(&value) => None,
            Change::Set(value) => Some(ConfigValueEvent::ConfigValueSet { value }),
            Change::Clear if self.value().is_none() => None,
            Change::Delete | Change::Clear => Some(ConfigValueEvent::ConfigValueDeleted),
            Change::Keep => None,
        })
    }

    fn satisfies(&self, precondition: &Precondition) -> bool {
        let exists = self.value().is_some();
        match precondition {
            Precondition::None => true,
            Precondition::Exists => exists,
            Precondition::Absent => !exists,
            Precondition::VersionIn(versions) => exists && versions.contains(&self.version),
        }
    }
}

impl Aggregate for ConfigValue {
    const TYPE: &'static str = AGGREGATE_TYPE;
    type Command = ConfigValueCommand;
    type Event = ConfigValueEvent;
    type Error = Refusal;
    type Services = ();

    async fn handle(&mut self, command: ConfigValueCommand, (): &(), sink: &EventSink<Self>) -> Result<(), Refusal> {
        if let Some(event) = self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    /// An event replaces the whole state: so the event store loads the last one only.
    fn apply(&mut self, event: ConfigValueEvent) {
        self.state = match event {
            ConfigValueEvent::ConfigValueSet { value } => State::Set { value },
            ConfigValueEvent::ConfigValueDeleted => State::Deleted,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use cqrs_es::{
        CqrsFramework, EventStore,
        persist::{
            PersistedEventRepository, PersistedEventStore, PersistenceError, ReplayStream, SerializedEvent,
            SerializedSnapshot,
        },
    };
    use proptest::prelude::*;
    use serde_json::{Value, value::RawValue};
    use tokio::sync::Mutex;

    use super::*;

    fn json(text: &str) -> ConfigJson {
        ConfigJson::accept(RawValue::from_string(text.to_owned()).unwrap(), 1000).unwrap()
    }

    fn was_set(text: &str) -> ConfigValueEvent {
        ConfigValueEvent::ConfigValueSet { value: json(text) }
    }

    const WAS_DELETED: ConfigValueEvent = ConfigValueEvent::ConfigValueDeleted;

    struct Given(ConfigValue);

    fn given<const N: usize>(events: [ConfigValueEvent; N]) -> Given {
        let mut aggregate = ConfigValue::default();
        events.into_iter().for_each(|event| aggregate.apply(event));
        aggregate.set_version(N as u64);
        Given(aggregate)
    }

    impl Given {
        fn when(&self, change: Change, precondition: Precondition) -> Result<Option<ConfigValueEvent>, Refusal> {
            self.0.decide(ConfigValueCommand { change, precondition })
        }

        fn set(&self, text: &str) -> Result<Option<ConfigValueEvent>, Refusal> {
            self.when(Change::Set(json(text)), Precondition::None)
        }

        fn delete(&self) -> Result<Option<ConfigValueEvent>, Refusal> {
            self.when(Change::Delete, Precondition::None)
        }
    }

    #[test]
    fn a_first_value_is_an_event() {
        assert_eq!(given([]).set("1"), Ok(Some(was_set("1"))));
    }

    #[test]
    fn another_value_is_an_event() {
        assert_eq!(given([was_set("1")]).set("2"), Ok(Some(was_set("2"))));
    }

    #[test]
    fn the_same_value_is_no_event() {
        assert_eq!(given([was_set("1")]).set("1"), Ok(None));
    }

    #[test]
    fn the_same_number_spelled_otherwise_is_another_value() {
        assert_eq!(given([was_set("1.0")]).set("1.00"), Ok(Some(was_set("1.00"))));
    }

    #[test]
    fn a_value_can_be_deleted() {
        assert_eq!(given([was_set("1")]).delete(), Ok(Some(WAS_DELETED)));
    }

    #[test]
    fn what_was_never_set_cannot_be_deleted() {
        assert_eq!(given([]).delete(), Err(Refusal::NeverSet));
    }

    #[test]
    fn what_is_deleted_cannot_be_deleted_again() {
        assert_eq!(given([was_set("1"), WAS_DELETED]).delete(), Err(Refusal::AlreadyDeleted));
    }

    #[test]
    fn what_is_deleted_can_be_set_again_to_the_same_value() {
        assert_eq!(given([was_set("1"), WAS_DELETED]).set("1"), Ok(Some(was_set("1"))));
    }

    #[test]
    fn clearing_deletes_a_value_and_is_no_event_without_one() {
        let clear = |given: Given| given.when(Change::Clear, Precondition::None);
        assert_eq!(clear(given([was_set("1")])), Ok(Some(WAS_DELETED)));
        assert_eq!(clear(given([])), Ok(None));
        assert_eq!(clear(given([was_set("1"), WAS_DELETED])), Ok(None));
    }

    #[test]
    fn keeping_asks_the_precondition_and_is_no_event() {
        let keep = |precondition| given([was_set("1")]).when(Change::Keep, precondition);
        assert_eq!(keep(Precondition::VersionIn(vec![1])), Ok(None));
        assert_eq!(keep(Precondition::Absent), Err(Refusal::PreconditionFailed { current_version: 1 }));
    }

    #[test]
    fn a_version_must_be_the_current_one() {
        let when = |versions: &[u64]| {
            given([was_set("1"), was_set("2")]).when(Change::Set(json("3")), Precondition::VersionIn(versions.into()))
        };
        assert_eq!(when(&[2]), Ok(Some(was_set("3"))));
        assert_eq!(when(&[1, 2]), Ok(Some(was_set("3"))));
        assert_eq!(when(&[1]), Err(Refusal::PreconditionFailed { current_version: 2 }));
        assert_eq!(when(&[]), Err(Refusal::PreconditionFailed { current_version: 2 }));
    }

    #[test]
    fn a_deleted_configuration_has_no_version_to_match() {
        let refused = Err(Refusal::PreconditionFailed { current_version: 0 });
        assert_eq!(
            given([was_set("1"), WAS_DELETED]).when(Change::Set(json("3")), Precondition::VersionIn(vec![2])),
            refused
        );
    }

    #[test]
    fn it_must_exist_when_that_is_the_condition() {
        let set = |given: Given| given.when(Change::Set(json("3")), Precondition::Exists);
        assert_eq!(set(given([was_set("1")])), Ok(Some(was_set("3"))));
        assert_eq!(set(given([])), Err(Refusal::PreconditionFailed { current_version: 0 }));
        assert_eq!(set(given([was_set("1"), WAS_DELETED])), Err(Refusal::PreconditionFailed { current_version: 0 }));
    }

    #[test]
    fn it_must_not_exist_when_that_is_the_condition() {
        let set = |given: Given| given.when(Change::Set(json("3")), Precondition::Absent);
        assert_eq!(set(given([])), Ok(Some(was_set("3"))));
        assert_eq!(set(given([was_set("1"), WAS_DELETED])), Ok(Some(was_set("3"))));
        assert_eq!(set(given([was_set("1")])), Err(Refusal::PreconditionFailed { current_version: 1 }));
    }

    #[test]
    fn a_precondition_is_checked_before_the_value_is_compared() {
        let refused = Err(Refusal::PreconditionFailed { current_version: 1 });
        assert_eq!(given([was_set("1")]).when(Change::Set(json("1")), Precondition::Absent), refused);
    }

    #[test]
    fn deleting_what_is_not_there_is_told_before_any_precondition() {
        assert_eq!(given([]).when(Change::Delete, Precondition::Exists), Err(Refusal::NeverSet));
    }

    /// A store of the framework's own, in memory and with snapshots: whatever it does with the aggregate must be right.
    #[derive(Clone, Default)]
    struct Repository(Arc<Mutex<Stored>>);

    #[derive(Default)]
    struct Stored {
        events: HashMap<String, Vec<SerializedEvent>>,
        snapshots: HashMap<String, SerializedSnapshot>,
    }

    impl PersistedEventRepository for Repository {
        async fn get_events<A: Aggregate>(&self, id: &str) -> Result<Vec<SerializedEvent>, PersistenceError> {
            Ok(self.0.lock().await.events.get(id).cloned().unwrap_or_default())
        }
        async fn get_last_events<A: Aggregate>(
            &self,
            id: &str,
            last: usize,
        ) -> Result<Vec<SerializedEvent>, PersistenceError> {
            Ok(self.get_events::<A>(id).await?.into_iter().filter(|event| event.sequence > last).collect())
        }
        async fn get_snapshot<A: Aggregate>(&self, id: &str) -> Result<Option<SerializedSnapshot>, PersistenceError> {
            let stored = self.0.lock().await;
            Ok(stored.snapshots.get(id).map(|snapshot| SerializedSnapshot {
                aggregate_id: snapshot.aggregate_id.clone(),
                aggregate: snapshot.aggregate.clone(),
                current_sequence: snapshot.current_sequence,
                current_snapshot: snapshot.current_snapshot,
            }))
        }
        async fn persist<A: Aggregate>(
            &self,
            events: &[SerializedEvent],
            snapshot: Option<(String, Value, usize)>,
        ) -> Result<(), PersistenceError> {
            let mut stored = self.0.lock().await;
            for event in events {
                stored.events.entry(event.aggregate_id.clone()).or_default().push(event.clone());
            }
            if let (Some((id, state, number)), Some(last)) = (snapshot, events.last()) {
                stored.snapshots.insert(
                    id.clone(),
                    SerializedSnapshot {
                        aggregate_id: id,
                        aggregate: state,
                        current_sequence: last.sequence,
                        current_snapshot: number,
                    },
                );
            }
            Ok(())
        }
        async fn stream_events<A: Aggregate>(&self, _: &str) -> Result<ReplayStream, PersistenceError> {
            Err(PersistenceError::OptimisticLockError)
        }
        async fn stream_all_events<A: Aggregate>(&self) -> Result<ReplayStream, PersistenceError> {
            Err(PersistenceError::OptimisticLockError)
        }
    }

    type Store = PersistedEventStore<Repository, ConfigValue>;

    /// Runs the commands against a store that makes snapshots, and compares what a store loads with a plain map.
    async fn run(changes: &[(u8, Option<u8>)], snapshot_every: usize) {
        let repository = Repository::default();
        let snapshots = || Store::new_snapshot_store(repository.clone(), snapshot_every);
        let cqrs = CqrsFramework::new(snapshots(), vec![], ());
        let mut map = HashMap::new();
        for (name, value) in changes {
            let name = format!("n{name}");
            let (change, fits) = match value {
                Some(value) => (Change::Set(json(&value.to_string())), true),
                None => (Change::Delete, map.contains_key(&name)),
            };
            let command = ConfigValueCommand { change, precondition: Precondition::None };
            assert_eq!(cqrs.execute(&name, command).await.is_ok(), fits);
            match value {
                Some(value) => drop(map.insert(name, value.to_string())),
                None => drop(map.remove(&name)),
            }
        }
        for store in [snapshots(), Store::new_event_store(repository.clone())] {
            for name in (0..3).map(|name| format!("n{name}")) {
                let loaded = store.load_aggregate(&name).await.unwrap().aggregate;
                assert_eq!(loaded.value().map(ConfigJson::json), map.get(&name).map(String::as_str));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn any_history_is_that_of_a_plain_map_also_across_snapshots(
            changes in prop::collection::vec((0..3u8, prop::option::weighted(0.7, 0..3u8)), 0..60),
            snapshot_every in 1..5usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(run(&changes, snapshot_every));
        }
    }
}
