//! What can go wrong between a command and the log.

use std::sync::Arc;

use shared::{
    database::{Meaning, meaning},
    event::UnknownEvent,
};

use super::{answer::Answer, queue::AppendError};

/// Why a command could not be carried out, though nobody refused it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state could not be read; nothing was written.
    #[error("the configuration could not be loaded")]
    Load(#[source] Arc<sqlx::Error>),
    /// The command's time was up before it was loaded; nothing was written.
    #[error("the configuration could not be loaded in time")]
    Late,
    /// A newer release wrote it.
    #[error("the configuration's history is not understood")]
    UnknownEvent(#[from] UnknownEvent),
    /// The append failed, or its outcome is unknown.
    #[error("the events could not be appended")]
    Append(#[from] AppendError),
    /// What was decided rests on what the process remembers, and may not be: it is to be decided again. Nothing was written.
    #[error("the decision rests on what is remembered")]
    Stale,
    /// The key was used before.
    #[error("the command's idempotency key was used before")]
    Answered {
        /// What was asked then, as in [`super::IdempotencyKey::request`].
        request: Vec<u8>,
        /// What was answered.
        answer: Box<Answer>,
    },
    /// The answer that is kept under an idempotency key cannot be read.
    #[error("the answer under the idempotency key is not understood")]
    Answer(#[source] serde_json::Error),
    /// The events that an answer speaks of are gone: the log was rewritten by a failover or a restore.
    #[error("the events of the first answer are no longer in the log")]
    Rewritten,
    /// A command was executed without a scope: a bug.
    #[error("a command was executed outside of a scope")]
    NoScope,
}

impl StoreError {
    pub(super) fn load(error: sqlx::Error) -> Self {
        Self::Load(Arc::new(error))
    }

    /// Whether the event store is out of reach, or did not read for a reason that passes, and nothing was written.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Load(error) => may_succeed_later(error),
            Self::Append(error) => matches!(error, AppendError::Unavailable),
            Self::Late => true,
            _ => false,
        }
    }
}

/// SQLSTATEs of a read that may succeed at another time: somebody cancelled it; the server is full; a deadlock.
const READ_NOT_NOW: [&str; 3] = ["57014", "53300", "40P01"];

/// Whether the same read may succeed at another time, or on another connection.
pub(super) fn may_succeed_later(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| READ_NOT_NOW.contains(&&*code)) || meaning(error) == Meaning::ConnectionLost
}
