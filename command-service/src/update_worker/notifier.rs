//! The end of the queue that the framework writes to.

use async_trait::async_trait;
use cqrs_es::{EventEnvelope, Query};
use shared::{event::ConfigValueEvent, name::ConfigName};

use super::{Handle, Update};
use crate::{
    domain::ConfigValue,
    store::{CommandScope, Receipt},
};

/// Hands each committed event to the worker, or counts it as dropped. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UpdateNotifier {
    worker: Handle,
}

impl UpdateNotifier {
    /// For this worker.
    #[must_use]
    pub fn new(worker: Handle) -> Self {
        Self { worker }
    }

    /// Tells of one event, and of what was there before it.
    pub fn tell(&self, name: ConfigName, event: &ConfigValueEvent, receipt: &Receipt) {
        let (old_value, new_value) = (receipt.previous.clone(), event.value().cloned());
        self.worker.notify(Update { name, old_value, new_value, recorded_at: receipt.recorded_at });
    }
}

#[async_trait]
impl Query<ConfigValue> for UpdateNotifier {
    async fn dispatch(&self, name: &str, events: &[EventEnvelope<ConfigValue>]) {
        // The framework does not say what was there before and when it changed; the command's scope does.
        let Some(receipt) = CommandScope::current().and_then(|scope| scope.receipt()) else { return };
        for event in events {
            self.tell(ConfigName::stored(name), &event.payload, &receipt);
        }
    }
}
