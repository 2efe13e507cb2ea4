//! What can go wrong with a read, and the only place that gives it a status.

use std::sync::Arc;

use axum::http::StatusCode;
use shared::{
    event::UnknownEvent,
    http::problem::Problem,
    moment::InvalidMoment,
    position::{InvalidToken, Position, PositionToken},
    telemetry::Chain,
};

use super::head;
use crate::{past::PastError, watch::Refused};

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("not found")]
    NotFound,
    #[error(transparent)]
    InvalidTimestamp(#[from] InvalidMoment),
    #[error("{origin} {source}")]
    InvalidToken { origin: &'static str, source: InvalidToken },
    #[error("the header and the query parameter ask for different positions")]
    TwoPositions,
    #[error("the projection has not read the log to its end yet")]
    NotReady,
    #[error("the projection is behind position {wanted}")]
    Behind { wanted: PositionToken, here: PositionToken },
    #[error("another event stands at position {wanted}")]
    Diverged { wanted: PositionToken, here: PositionToken },
    #[error("the event log is out of reach")]
    LogOutOfReach(#[source] Option<Arc<sqlx::Error>>),
    #[error("the event log that is read is a standby")]
    Standby,
    #[error("an event in the log cannot be read")]
    Unreadable(#[from] UnknownEvent),
    #[error("a difference from {from} back to {to}")]
    FromBehindTo { from: Position, to: Position },
    #[error("no such version")]
    NoSuchVersion,
    #[error("too many consumers follow the log")]
    TooManyFollowers,
    #[error("no watcher can be registered: {0:?}")]
    NotWatched(Refused),
    #[error("too many lists are being sent")]
    TooManyLists,
    #[error("a rebuild is under way")]
    RebuildRunning,
}

impl From<sqlx::Error> for ReadError {
    fn from(error: sqlx::Error) -> Self {
        Self::LogOutOfReach(Some(Arc::new(error)))
    }
}

impl From<head::Unknown> for ReadError {
    fn from(unknown: head::Unknown) -> Self {
        match unknown {
            head::Unknown::Late => Self::LogOutOfReach(None),
            head::Unknown::Database(error) => Self::LogOutOfReach(Some(error)),
            head::Unknown::Standby => Self::Standby,
        }
    }
}

impl From<PastError> for ReadError {
    fn from(error: PastError) -> Self {
        match error {
            PastError::Log(error) => error.into(),
            PastError::Unreadable(unknown) => unknown.into(),
        }
    }
}

impl From<Refused> for ReadError {
    fn from(refused: Refused) -> Self {
        Self::NotWatched(refused)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotFound => {
                let detail = "There is no such configuration: it was never set, or it is deleted.";
                Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail).plain("Not Found")
            }
            ReadError::NoSuchVersion => {
                let detail = "There is no such version of this configuration, or it is its deletion; its history has all versions.";
                Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail).plain("Not Found")
            }
            // The old system's sentence, alone: its clients match on it.
            ReadError::InvalidTimestamp(invalid) => Self::bad_request("invalid-timestamp", invalid.to_string()),
            ReadError::InvalidToken { origin, source } => {
                Self::bad_request("invalid-position", format!("{origin} {source}."))
            }
            ReadError::TwoPositions => {
                let detail = "The header Config-Min-Position and the query parameter `min_position` ask for different \
                              positions; send one of them.";
                Self::bad_request("two-positions", detail)
            }
            ReadError::NotReady => {
                let detail = "This replica is still reading the event log and has nothing to answer from; try again.";
                Self::unavailable("replaying", detail)
            }
            ReadError::Behind { wanted, here } => {
                let detail = format!("This replica has not applied position {wanted} yet; it is at {here}. Try again.");
                Self::unavailable("replica-behind", detail).with("position", here.position)
            }
            ReadError::Diverged { wanted, here } => {
                let detail = format!(
                    "The event log was rewritten by a failover or a restore: another event stands at position {wanted} now, \
                     and what was read there may be lost. Read again without the position."
                );
                Self::new(StatusCode::CONFLICT, "position-diverged", "Position diverged", detail)
                    .with("position", here.position)
            }
            ReadError::LogOutOfReach(source) => {
                match &source {
                    Some(error) => tracing::warn!("The event log could not be read: {}", Chain(error)),
                    None => tracing::warn!("The event log did not answer in time"),
                }
                let detail = "The event log is out of reach, and this answer needs it; try again.";
                Self::unavailable("log-out-of-reach", detail)
            }
            ReadError::Standby => {
                let detail = "This replica reads a standby of the event log, which may be behind its primary, so it cannot \
                              answer with `consistency=strong`. Ask a replica on the primary, or send the \
                              Config-Position that you have seen as Config-Min-Position.";
                Self::unavailable("log-is-standby", detail)
            }
            ReadError::Unreadable(unknown) => {
                tracing::error!("An event in the log cannot be read by this release: {}", Chain(&unknown));
                Self::internal()
            }
            ReadError::FromBehindTo { from, to } => {
                let detail = format!(
                    "`from` (here position {from}) is later than `to` (here position {to}); exchange them: a difference \
                     goes forwards."
                );
                Self::bad_request("from-behind-to", detail)
            }
            ReadError::NotWatched(Refused::NotReady) => ReadError::NotReady.into(),
            ReadError::NotWatched(Refused::TooMany) => {
                let detail = "As many clients watch or wait here as this process takes; try again, or another replica.";
                Self::unavailable("too-many-watchers", detail)
            }
            ReadError::NotWatched(Refused::Stopping) => {
                Self::unavailable("stopping", "This process is stopping; try again: another one answers.")
            }
            ReadError::TooManyLists => {
                let detail = "Too many long lists are being sent at the moment; try again, or ask for a `prefix`.";
                Self::unavailable("too-many-lists", detail)
            }
            ReadError::TooManyFollowers => {
                let detail =
                    "Too many consumers follow the log of this replica; try again, ask another replica, or read pages.";
                Self::unavailable("too-many-followers", detail)
            }
            ReadError::RebuildRunning => {
                let detail = "A rebuild is under way already; GET /v1/projection shows how far it is.";
                Self::new(StatusCode::CONFLICT, "rebuild-running", "Rebuild running", detail)
            }
        }
    }
}
