//! Commands on several configurations, as one: the framework's steps for each, over one state, and one append.

use cqrs_es::{Aggregate, event_sink::EventSink};
use shared::event::Metadata;

use super::{
    refused,
    request::{CommandError, Operation},
};
use crate::{
    domain::ConfigValue,
    store::{CommandScope, ConfigEventStore, Decided, Receipt},
    update_worker::UpdateNotifier,
};

/// Loads the configurations, lets each decide, and appends what they decided; tells the worker of the changes.
///
/// # Errors
/// The first refusal, with the index of its operation; or what became of the append.
pub(super) async fn execute(
    store: &ConfigEventStore,
    notifier: &UpdateNotifier,
    scope: &CommandScope,
    operations: &[Operation],
    metadata: &Metadata,
) -> Result<Vec<Receipt>, CommandError> {
    let names = operations.iter().map(|operation| operation.name.clone()).collect();
    let loaded = store.load(scope, names).await?;
    let mut decided = Vec::with_capacity(operations.len());
    for (index, (Operation { command, .. }, mut loaded)) in operations.iter().zip(loaded).enumerate() {
        let sink = EventSink::<ConfigValue>::default();
        let answer = loaded.state().handle(command.clone(), &(), &sink).await;
        answer.map_err(|refusal| refused(refusal, index))?;
        decided.push(Decided { loaded, event: sink.collect().await.pop() });
    }
    let events: Vec<_> = decided.iter().map(|decided| decided.event.clone()).collect();
    let receipts = store.append(scope, decided, metadata).await?;
    for ((Operation { name, .. }, event), receipt) in operations.iter().zip(events).zip(&receipts) {
        if let Some(event) = event {
            notifier.tell(name.clone(), &event, receipt);
        }
    }
    Ok(receipts)
}
