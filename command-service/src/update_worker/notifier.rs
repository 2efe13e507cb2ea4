//! The end of the queue that the framework writes to.

use async_trait::async_trait;
use cqrs_es::{EventEnvelope, Query};
use shared::name::ConfigName;

use super::{Handle, Update};
use crate::{domain::ConfigValue, store::CommandScope};

/// Hands each committed event to the worker, or counts it as dropped.
#[derive(Debug)]
pub struct UpdateNotifier {
    worker: Handle,
}

impl UpdateNotifier {
    /// For this worker.
    #[must_use]
    pub fn new(worker: Handle) -> Self {
        Self { worker }
    }
}

#[async_trait]
impl Query<ConfigValue> for UpdateNotifier {
    async fn dispatch(&self, name: &str, events: &[EventEnvelope<ConfigValue>]) {
        // The framework does not say what was there before and when it changed; the command's scope does.
        let Some(receipt) = CommandScope::current().and_then(|scope| scope.receipt()) else { return };
        let mut old_value = receipt.previous;
        for event in events {
            let new_value = event.payload.value().cloned();
            let name = ConfigName::stored(name);
            self.worker.notify(Update {
                name,
                old_value,
                new_value: new_value.clone(),
                recorded_at: receipt.recorded_at,
            });
            old_value = new_value;
        }
    }
}
