//! What a command hands in to be appended: a unit, all of it or nothing.

use shared::name::ConfigName;
use uuid::Uuid;

use super::anchor::Lineage;

/// One command's events: all are written, or none.
#[derive(Clone, Debug)]
pub struct Unit {
    /// What makes its append safe to repeat.
    pub command_id: Uuid,
    /// In order. Each of another name.
    pub events: Vec<NewEvent>,
    /// Of its events, all the same; JSON.
    pub metadata: String,
    /// What must still be true of names that it does not write.
    pub checks: Vec<Check>,
    /// The key that it came with, and what a repetition is answered. Kept together with the events, also when there are none.
    pub keyed: Option<Keyed>,
}

/// A name that a unit depends on without writing it.
#[derive(Clone, Debug)]
pub struct Check {
    /// Of the configuration.
    pub name: ConfigName,
    /// The version that it must have; 0 before its first event.
    pub version: u64,
    /// The command that must have written that version; `None`: whichever.
    pub seen: Option<Uuid>,
}

/// An idempotency key, and the answer that is kept under it.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// The key.
    pub key: IdempotencyKey,
    /// JSON.
    pub answer: String,
}

/// A client's idempotency key, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// SHA-256 of account, route and key.
    pub hash: [u8; 32],
    /// SHA-256 of what was asked.
    pub request: [u8; 32],
}

/// An event on its way into the log.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Of which configuration.
    pub name: ConfigName,
    /// The version that its writer saw; the event gets the next.
    pub expected_version: u64,
    /// The command that had written that version; `None`: whichever. Behind a failover that lost the log's end, the same
    /// version may be another's.
    pub seen: Option<Uuid>,
    /// The lineage that this version belongs to; `None`: it was loaded, so anybody may have written it.
    pub lineage: Option<Lineage>,
    /// Its type's name.
    pub event_type: &'static str,
    /// JSON.
    pub payload: String,
}

impl Unit {
    /// What it weighs in queue and group, in bytes.
    pub(super) fn bytes(&self) -> usize {
        // In the log, each event has the metadata.
        let event = |event: &NewEvent| event.name.len() + event.payload.len() + self.metadata.len();
        let events = self.events.iter().map(event);
        let checks = self.checks.iter().map(|check| check.name.len());
        events.chain(checks).sum::<usize>() + self.keyed.as_ref().map_or(0, |keyed| keyed.answer.len())
    }
}
