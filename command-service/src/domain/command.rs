//! What can be asked of a configuration, and how it may refuse.

use serde::{Deserialize, Serialize};
use shared::value::ConfigJson;

/// A change, and what must be true for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigValueCommand {
    /// What to do.
    pub change: Change,
    /// What must be true before.
    pub precondition: Precondition,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Give it this value. The same value again is no event.
    Set(ConfigJson),
    /// Delete it. Its history stays. What is not there cannot be deleted.
    Delete,
    /// Make sure that it has no value: as [`Change::Delete`], but what is not there already is no event.
    Clear,
    /// Nothing: only the precondition is asked.
    Keep,
}

/// What must be true of a configuration before it is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// It has a value.
    Exists,
    /// It has none: it was never set, or it is deleted.
    Absent,
    /// It has a value, and its version is one of these.
    VersionIn(Vec<u64>),
}

/// Why a command was not carried out; nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "refusal", rename_all = "snake_case")]
pub enum Refusal {
    /// The precondition does not hold.
    #[error("the precondition does not hold; the current version is {current_version}")]
    PreconditionFailed {
        /// The version of the current value; 0 when there is none.
        current_version: u64,
    },
    /// There is nothing to delete, and never was.
    #[error("it was never set")]
    NeverSet,
    /// There is nothing to delete any more.
    #[error("it is already deleted")]
    AlreadyDeleted,
    /// It cannot go back to what it never was.
    #[error("there is no such version; the last one is {last_version}")]
    NoSuchVersion {
        /// Its last version; 0 when it was never set.
        last_version: u64,
    },
}
