//! What a client asks for, and what comes of it.

use std::collections::HashMap;

use shared::{
    event::{Metadata, metadata as keys},
    name::ConfigName,
    position::PositionToken,
};

use crate::{
    domain::{Change, ConfigValueCommand, Precondition, Refusal},
    store::{AppendError, Former, IdempotencyKey, Past, Receipt, StoreError},
};

/// A command as it came in.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub work: Work,
    /// Who, why, in which request and trace.
    pub metadata: Metadata,
    /// By which it may be repeated.
    pub key: Option<IdempotencyKey>,
}

/// What to do.
#[derive(Debug)]
pub enum Work {
    /// A command on one configuration.
    One(Operation),
    /// One configuration becomes what it was.
    Rollback {
        /// Which.
        name: ConfigName,
        /// When it was that.
        to: Past,
        /// What must be true before.
        precondition: Precondition,
    },
    /// Commands on several configurations, each on another: all are carried out or none.
    Batch(Vec<Operation>),
}

/// A command on one configuration.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Which.
    pub name: ConfigName,
    /// What to do with it.
    pub command: ConfigValueCommand,
}

impl Work {
    pub(super) fn names(&self) -> impl Iterator<Item = &ConfigName> {
        let (one, operations) = match self {
            Self::One(operation) => (None, std::slice::from_ref(operation)),
            Self::Rollback { name, .. } => (Some(name), &[][..]),
            Self::Batch(operations) => (None, operations.as_slice()),
        };
        one.into_iter().chain(operations.iter().map(|operation| &operation.name))
    }
}

/// The command that a rollback is, once it is known what was there.
pub(super) fn rollback(former: Former, precondition: Precondition) -> ConfigValueCommand {
    ConfigValueCommand { change: former.value.map_or(Change::Clear, Change::Set), precondition }
}

/// Why: what the client says comes behind what it is.
pub(super) fn say_rollback(metadata: &mut HashMap<String, String>, version: u64) {
    let reason = match metadata.get(keys::REASON) {
        Some(reason) => format!("rollback to version {version}: {reason}"),
        None => format!("rollback to version {version}"),
    };
    metadata.insert(keys::REASON.to_owned(), reason);
}

/// What was done.
#[derive(Debug)]
pub struct Done {
    /// For each operation, in order.
    pub receipts: Vec<Receipt>,
    /// It was done before, by a command with the same idempotency key; this one did nothing.
    pub replayed: bool,
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The aggregate said no.
    #[error("the command was refused")]
    Refused {
        /// Why.
        #[source]
        refusal: Refusal,
        /// Which operation of a batch.
        operation: usize,
        /// The place in the log that the decision rests on.
        decided_at: PositionToken,
        /// It was refused before, under the same idempotency key.
        replayed: bool,
    },
    /// The idempotency key was used with another request.
    #[error("the idempotency key was used with another request")]
    KeyReused,
    /// The name is written so often that this command never came through, or never had its turn. Nothing was written.
    #[error("other commands on the same name came first again and again")]
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

impl CommandError {
    /// Somebody else wrote one of the names first.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(StoreError::Append(AppendError::Conflict)))
    }
}
