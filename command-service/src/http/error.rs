//! The only place that chooses status codes.

use axum::http::StatusCode;
use shared::{
    http::{CONFIG_POSITION, problem::Problem},
    name::ConfigName,
    position::PositionToken,
    telemetry::Chain,
    value::InvalidValue,
};

use super::idempotency::IDEMPOTENCY_REPLAYED;
use crate::{
    command::{CommandError, Operation},
    domain::Refusal,
    store::{AppendError, StoreError},
};

/// The line in the log: a refusal is the client's affair, everything else is ours.
pub(super) fn tell(error: &CommandError, method: &'static str, path: &str, what: &'static str) {
    match error {
        CommandError::Refused { refusal, .. } => tracing::info!("{method} {path} - Refused: {refusal}"),
        CommandError::KeyReused => tracing::info!("{method} {path} - Refused: {error}"),
        error => {
            let word = word(error);
            tracing::error!(error = %Chain(error), "{method} {path} - Failed to {what}: {word}");
        }
    }
}

/// The old system's word for it.
fn word(error: &CommandError) -> &'static str {
    match error {
        CommandError::Contention => "contention",
        CommandError::KeyReused => "idempotency_key_reused",
        CommandError::Store(StoreError::Append(AppendError::Overloaded)) => "overloaded",
        CommandError::Store(StoreError::Append(AppendError::Unknown)) => "outcome_unknown",
        CommandError::Store(error) if error.is_away() => "event_store_unavailable",
        _ => "internal_error",
    }
}

/// What the client is told.
pub(super) fn problem(error: CommandError) -> Problem {
    match error {
        CommandError::Refused { refusal, decided_at, replayed, .. } => marked(refused(&refusal), decided_at, replayed),
        error => failed(&error),
    }
}

/// What the client of a batch is told: which operation refused, and why. That it refused is a precondition of the others.
pub(super) fn batch_problem(error: CommandError, operations: &[Operation]) -> Problem {
    let CommandError::Refused { refusal, operation: index, decided_at, replayed } = error else {
        return failed(&error);
    };
    let name = operations.get(index).map_or("", |operation| operation.name.as_str());
    let (why, current_version) = match refusal {
        Refusal::PreconditionFailed { current_version: 0 } => ("there is no current value".to_owned(), 0),
        Refusal::PreconditionFailed { current_version } => {
            (format!("the current version is {current_version}"), current_version)
        }
        Refusal::NeverSet | Refusal::NoSuchVersion { .. } => ("it was never set".to_owned(), 0),
        Refusal::AlreadyDeleted => ("it is already deleted".to_owned(), 0),
    };
    let detail = format!(
        "operations[{index}] on `{name}` cannot be carried out: {why}. Nothing of the batch was written; read the values and \
         decide again."
    );
    let problem = Problem::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", "Precondition failed", detail)
        .with("operation", index)
        .with("name", name)
        .with("current_version", current_version);
    marked(problem, decided_at, replayed)
}

/// 400 or 422: one operation of a batch is wrong.
pub(super) fn invalid_operation(index: usize, what: impl std::fmt::Display) -> Problem {
    Problem::bad_request("invalid-operation", format!("operations[{index}]: {what}")).with("operation", index)
}

/// As [`invalid_value`], of one operation of a batch.
pub(super) fn invalid_value_of(index: usize, invalid: &InvalidValue) -> Problem {
    let detail = format!("operations[{index}]: {invalid}");
    let problem = match invalid {
        InvalidValue::TooLarge { .. } => Problem::too_large(detail),
        _ => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value", "Invalid value", detail),
    };
    problem.with("operation", index)
}

/// 422: two operations of a batch on one name.
pub(super) fn duplicate_name(first: usize, second: usize, name: &ConfigName) -> Problem {
    let detail =
        format!("operations[{first}] and operations[{second}] are both on `{name}`; a batch takes each name once.");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "duplicate-name", "Duplicate name", detail).with("operation", second)
}

/// Not the client's fault, or its key's.
fn failed(error: &CommandError) -> Problem {
    match error {
        CommandError::KeyReused => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "Idempotency key reused",
            "This Idempotency-Key was used on this route with another body or precondition; a new request takes a new key.",
        ),
        CommandError::Contention => Problem::unavailable(
            "contention",
            "Other writes of the same name came first again and again; nothing was written, try again.",
        ),
        CommandError::Store(StoreError::Append(AppendError::Overloaded)) => overloaded(),
        CommandError::Store(error) if error.is_away() => Problem::unavailable(
            "event-store-unavailable",
            "The event store is out of reach; nothing was written, try again.",
        ),
        CommandError::Store(StoreError::Append(AppendError::Unknown)) => Problem::unavailable(
            "outcome-unknown",
            "The connection to the event store was lost: the change may have been written or not. With an Idempotency-Key, \
             send the same request again: it is carried out once. Without one, read the value, then write again if it is \
             not there.",
        ),
        CommandError::Store(_) | CommandError::Task(_) | CommandError::Framework(_) | CommandError::Refused { .. } => {
            Problem::internal()
        }
    }
}

/// With the place that a refusal rests on, and whether it is told again.
fn marked(problem: Problem, decided_at: PositionToken, replayed: bool) -> Problem {
    let problem = problem.with("position", decided_at.position).header(CONFIG_POSITION, &decided_at.to_string());
    if replayed { problem.header(IDEMPOTENCY_REPLAYED, "true") } else { problem }
}

fn refused(refusal: &Refusal) -> Problem {
    match refusal {
        Refusal::PreconditionFailed { current_version } => {
            let now = match current_version {
                0 => "there is no current value".to_owned(),
                version => format!("the current version is {version}"),
            };
            let detail =
                format!("The precondition does not hold: {now}. Nothing was written; read the value and decide again.");
            Problem::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", "Precondition failed", detail)
                .with("current_version", current_version)
        }
        Refusal::NeverSet => {
            Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", "There is no configuration of this name.")
                .plain("Not Found")
        }
        Refusal::AlreadyDeleted => {
            Problem::new(StatusCode::GONE, "gone", "Gone", "The configuration is already deleted.").plain("Gone")
        }
        Refusal::NoSuchVersion { last_version } => {
            let detail = match last_version {
                0 => "There is no configuration of this name.".to_owned(),
                last => format!("It never was that: its first version is 1 and its last is {last}."),
            };
            Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail).with("last_version", last_version)
        }
    }
}

/// 503: more writes at once than this process takes.
pub(super) fn overloaded() -> Problem {
    Problem::unavailable("overloaded", "Too many writes are waiting; nothing was written, try again.")
}

/// 413 for size, 422 for what cannot be stored.
#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
pub(super) fn invalid_value(invalid: InvalidValue) -> Problem {
    match invalid {
        InvalidValue::TooLarge { .. } => Problem::too_large(invalid.to_string()),
        _ => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-value", "Invalid value", invalid.to_string()),
    }
}

/// 422: as in values.
pub(super) fn nul_in_reason() -> Problem {
    let detail = "The reason contains the NUL character (\\u0000), which cannot be stored; leave it out.";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-reason", "Invalid reason", detail)
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, http::header};
    use serde_json::Value;

    use super::*;

    /// Whether to write again, or to look first, depends on it: whoever was told that nothing was written may rely on that.
    #[tokio::test]
    async fn only_an_unknown_outcome_leaves_open_whether_something_was_written() {
        let append = |error| CommandError::Store(StoreError::Append(error));
        for (error, code, promises) in [
            (append(AppendError::Unknown), "outcome-unknown", false),
            (append(AppendError::Unavailable), "event-store-unavailable", true),
            (append(AppendError::Overloaded), "overloaded", true),
            (CommandError::Store(StoreError::Late), "event-store-unavailable", true),
            (CommandError::Contention, "contention", true),
        ] {
            let response = problem(error).render(true, "r1", None);
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{code}");
            assert!(response.headers().contains_key(header::RETRY_AFTER), "{code}");
            let body: Value = serde_json::from_slice(&to_bytes(response.into_body(), 4096).await.unwrap()).unwrap();
            assert_eq!(body["type"], format!("urn:config-api:problem:{code}"));
            assert_eq!(body["detail"].as_str().unwrap().contains("nothing was written"), promises, "{body}");
        }
    }
}
