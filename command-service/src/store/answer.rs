//! What a command with an idempotency key was answered, as it is kept under the key. It is written before the events have
//! their places, so the places are looked up by the command's identity when it is told again.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared::{
    moment::Moment,
    position::{Position, PositionToken},
};
use sqlx::PgPool;
use uuid::Uuid;

use super::{error::StoreError, past, receipt::Receipt};
use crate::domain::Refusal;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Done {
        /// Whose events tell the places of the changes.
        command_id: Uuid,
        /// For each operation, in order.
        operations: Vec<Operation>,
    },
    /// It was refused; nothing was written.
    Refused {
        /// Which command that was.
        command_id: Uuid,
        /// Which of its operations refused.
        operation: usize,
        /// Why.
        #[serde(flatten)]
        refusal: Refusal,
        /// A position token: the last event that the refusal rests on.
        decided_at: String,
    },
}

/// What one operation led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The configuration's version.
    pub version: u64,
    /// Whether there is a value.
    pub exists: bool,
    /// Of an operation that changed nothing: where the event stands that gave it this version, as a position token and a
    /// moment. The others' events are the command's own, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unchanged_since: Option<(String, String)>,
}

impl Answer {
    /// Of a command that did this.
    pub(super) fn done(command_id: Uuid, receipts: &[Receipt]) -> Self {
        let operation = |receipt: &Receipt| Operation {
            version: receipt.version,
            exists: receipt.exists,
            unchanged_since: (!receipt.changed).then(|| (receipt.token.to_string(), receipt.recorded_at.to_string())),
        };
        Self::Done { command_id, operations: receipts.iter().map(operation).collect() }
    }

    /// Of a command that refused.
    #[must_use]
    pub fn refused(command_id: Uuid, operation: usize, refusal: &Refusal, decided_at: PositionToken) -> Self {
        Self::Refused { command_id, operation, refusal: refusal.clone(), decided_at: decided_at.to_string() }
    }

    /// Whose answer it is.
    #[must_use]
    pub fn command_id(&self) -> Uuid {
        match self {
            Self::Done { command_id, .. } | Self::Refused { command_id, .. } => *command_id,
        }
    }

    /// What is kept.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// What was kept.
    ///
    /// # Errors
    /// When another release wrote it in a form that this one does not know.
    pub(super) fn from_json(json: &str) -> Result<Self, StoreError> {
        serde_json::from_str(json).map_err(StoreError::Answer)
    }
}

/// A command's first event; its others follow it, at the same moment.
const FIRST: &str = "select position, recorded_at from events where command_id = $1 and part = 0";

/// The receipts of a command that is in the log. Without the values before: nobody is told of the change again.
///
/// # Errors
/// When the log cannot be read, or does not hold what the answer says.
pub(super) async fn receipts(
    log: &PgPool,
    command_id: Uuid,
    operations: &[Operation],
) -> Result<Vec<Receipt>, StoreError> {
    let mut log = past::on_a_primary(log).await.map_err(StoreError::load)?;
    let first: Option<(i64, DateTime<Utc>)> =
        sqlx::query_as(FIRST).bind(command_id).fetch_optional(&mut *log).await.map_err(StoreError::load)?;
    let mut places =
        first.into_iter().flat_map(|(first, recorded_at)| (first..).map(move |place| (place, recorded_at)));
    let mut receipt = |operation: &Operation| {
        let Operation { version, exists, .. } = *operation;
        let Some((token, moment)) = &operation.unchanged_since else {
            let (position, recorded_at) = places.next()?;
            let token = PositionToken::new(Position::from_column(position), command_id);
            return Some(Receipt {
                version,
                token,
                recorded_at: Moment(recorded_at),
                changed: true,
                exists,
                previous: None,
            });
        };
        let (token, recorded_at) = (token.parse().ok()?, moment.parse().ok()?);
        Some(Receipt { version, token, recorded_at, changed: false, exists, previous: None })
    };
    operations.iter().map(|operation| receipt(operation).ok_or(StoreError::Rewritten)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_its_stored_form() {
        let command_id = Uuid::from_u128(7);
        let done = Answer::Done {
            command_id,
            operations: vec![
                Operation { version: 3, exists: false, unchanged_since: None },
                Operation {
                    version: 9,
                    exists: true,
                    unchanged_since: Some(("4.00000001".into(), "2024-01-15T10:30:00.000000Z".into())),
                },
            ],
        };
        let refusal = Refusal::PreconditionFailed { current_version: 4 };
        let refused = Answer::refused(command_id, 2, &refusal, PositionToken::ZERO);
        for answer in [done, refused] {
            assert_eq!(Answer::from_json(&answer.to_json()).unwrap(), answer);
        }
    }

    /// Kept for a day and read by the next release: this form is a contract.
    #[test]
    fn the_stored_form_is_this() {
        let refused = Answer::refused(Uuid::nil(), 0, &Refusal::AlreadyDeleted, "42.9f3a01bc".parse().unwrap());
        assert_eq!(
            refused.to_json(),
            r#"{"outcome":"refused","command_id":"00000000-0000-0000-0000-000000000000","operation":0,"refusal":"already_deleted","decided_at":"42.9f3a01bc"}"#
        );
    }
}
