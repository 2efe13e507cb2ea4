//! The only place that chooses status codes.

use axum::http::StatusCode;
use shared::{
    http::{CONFIG_POSITION, problem::Problem},
    name::ConfigName,
    position::PositionToken,
    telemetry::Chain,
    value::InvalidValue,
};

use crate::{
    command::CommandError,
    domain::Refusal,
    store::{AppendError, StoreError},
};

/// The line in the log: a refusal is the client's affair, everything else is ours.
pub(super) fn tell(error: &CommandError, method: &'static str, name: &ConfigName, what: &'static str) {
    match error {
        CommandError::Refused { refusal, .. } => tracing::info!("{method} /config/{name} - Refused: {refusal}"),
        error => {
            let word = word(error);
            tracing::error!(error = %Chain(error), "{method} /config/{name} - Failed to {what}: {word}");
        }
    }
}

/// The old system's word for it.
fn word(error: &CommandError) -> &'static str {
    match error {
        CommandError::Contention => "contention",
        CommandError::Store(StoreError::Append(AppendError::Overloaded)) => "overloaded",
        CommandError::Store(StoreError::Append(AppendError::Unknown)) => "outcome_unknown",
        CommandError::Store(error) if error.is_away() => "event_store_unavailable",
        _ => "internal_error",
    }
}

/// What the client is told.
pub(super) fn problem(error: CommandError) -> Problem {
    match error {
        CommandError::Refused { refusal, decided_at } => refused(&refusal, decided_at),
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
            "The connection to the event store was lost: the change may have been written or not. Read the value, then \
             write again if it is not there.",
        ),
        CommandError::Store(_) | CommandError::Task(_) | CommandError::Framework(_) => Problem::internal(),
    }
}

fn refused(refusal: &Refusal, decided_at: PositionToken) -> Problem {
    let problem = match refusal {
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
    };
    problem.with("position", decided_at.position).header(CONFIG_POSITION, &decided_at.to_string())
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
    use axum::{
        body::to_bytes,
        http::{HeaderMap, header},
    };
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
            let accepts = HeaderMap::from_iter([(header::ACCEPT, "application/json".parse().unwrap())]);
            let response = problem(error).render(&accepts, "r1");
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{code}");
            assert!(response.headers().contains_key(header::RETRY_AFTER), "{code}");
            let body: Value = serde_json::from_slice(&to_bytes(response.into_body(), 4096).await.unwrap()).unwrap();
            assert_eq!(body["type"], format!("urn:config-api:problem:{code}"));
            assert_eq!(body["detail"].as_str().unwrap().contains("nothing was written"), promises, "{body}");
        }
    }
}
