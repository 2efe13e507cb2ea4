//! What a failed attempt to append says: written or not, and whether to try again.

use shared::database::{Meaning, meaning};

use super::queue::Waiting;

/// SQLSTATEs of an append that may succeed at another time, and has not been carried out: the lock was not granted in time;
/// somebody cancelled the statement.
const NOT_NOW: [&str; 2] = ["55P03", "57014"];

/// SQLSTATE of a server that takes no writes: a standby, or a primary that was demoted. Another may have its address by now.
const READ_ONLY: &str = "25006";

/// Units that one attempt was to append, and how it failed.
pub(super) type Failed = (Vec<Waiting>, Failure);

/// A failed attempt.
pub(super) struct Failure {
    pub(super) error: sqlx::Error,
    pub(super) kind: Kind,
}

/// What a failed attempt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The connection ended under way: the outcome is unknown.
    Lost,
    /// There is no server that takes writes; nothing was written.
    Away,
    /// Nothing was written, this time.
    NotNow,
    /// The server refused these units; nothing was written.
    Refused,
}

impl Failure {
    /// As the server has it; `connection_lost` where it has said nothing.
    pub(super) fn code(&self) -> String {
        let code = self.error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        code.map_or_else(|| "connection_lost".to_owned(), String::from)
    }

    pub(super) fn before(error: sqlx::Error) -> Self {
        // Whatever keeps us from connecting (also a refused password) may pass.
        Self { error, kind: Kind::Away }
    }

    pub(super) fn during(error: sqlx::Error) -> Self {
        // Only the server's own word is definite: an answer that cannot be understood may be that of a commit.
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        let kind = match code.as_deref() {
            None => Kind::Lost,
            Some(READ_ONLY) => Kind::Away,
            Some(code) if NOT_NOW.contains(&code) => Kind::NotNow,
            Some(_) if meaning(&error) == Meaning::ConnectionLost => Kind::Lost,
            Some(_) => Kind::Refused,
        };
        Self { error, kind }
    }
}
