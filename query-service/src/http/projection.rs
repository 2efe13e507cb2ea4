//! `GET /v1/projection`: how far the projection is, and how it is doing.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::{
    http::{CONFIG_POSITION, parameters::Parameters, problem::Problem},
    moment::Moment,
    position::Position,
};

use super::{Reads, reads::CONFIG_LAST_CONTACT, value::DO_NOT_KEEP};
use crate::tail::{Progress, ReplayFigures};

/// What is told.
#[derive(Debug, Serialize)]
struct Projection {
    position: Position,
    /// When the event at `position` was recorded.
    recorded_at: Option<Moment>,
    /// The last known end of the log.
    head: Position,
    lag_events: u64,
    /// Since readers last saw all that is known of the log; 0 while they do.
    lag_ms: u64,
    configurations: usize,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    halted: Option<String>,
    /// How far a replay is, while one runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaying: Option<Position>,
    /// The same in figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
    last_contact_ms: u64,
    /// The last replay that was completed.
    replay: Option<ReplayFigures>,
    rebuilds: u64,
    divergences: u64,
    /// Watchers and long polls.
    watchers: usize,
}

pub(super) async fn handle(State(reads): State<Arc<Reads>>, uri: Uri) -> Result<Response, Problem> {
    Parameters::none(&uri)?;
    let report = reads.status.report();
    let snapshot = reads.current().unwrap_or_default();
    let position = snapshot.position();
    let projection = Projection {
        position,
        recorded_at: snapshot.recorded_at(),
        head: report.head,
        lag_events: report.head.0.saturating_sub(position.0),
        lag_ms: reads.status.lag_ms(&report, position),
        configurations: snapshot.len(),
        status: report.word(),
        halted: report.halted,
        replaying: report.replaying,
        progress: report.progress,
        last_contact_ms: reads.status.last_contact_ms(),
        replay: report.last_replay,
        rebuilds: report.rebuilds,
        divergences: report.divergences,
        watchers: reads.watches.hub.watchers(),
    };
    let position = (CONFIG_POSITION, snapshot.token().to_string());
    let last_contact = (CONFIG_LAST_CONTACT, projection.last_contact_ms.to_string());
    Ok(([(header::CACHE_CONTROL, DO_NOT_KEEP)], [position, last_contact], Json(projection)).into_response())
}

#[cfg(test)]
mod tests {
    use super::{super::states::reads, *};
    use crate::projection::Published;

    #[tokio::test]
    async fn nobody_keeps_how_it_was_a_moment_ago() {
        let reads = Arc::new(reads(&Arc::new(Published::nothing_yet())));
        let response = handle(State(reads), Uri::from_static("/v1/projection")).await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
    }
}
