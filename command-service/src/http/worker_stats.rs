//! `GET /v1/worker/stats`: what the update worker has done.

use axum::{Json, extract::State};

use super::router::WriteState;
use crate::update_worker::Stats;

/// Answers with the counters.
pub(super) async fn worker_stats(State(state): State<WriteState>) -> Json<Stats> {
    Json(state.worker.stats())
}
