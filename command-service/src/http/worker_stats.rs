//! `GET /v1/worker/stats`: what the update worker has done.

use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use shared::http::{parameters::Parameters, problem::Problem};

use super::router::WriteState;
use crate::update_worker::Stats;

/// Answers with the counters.
pub(super) async fn worker_stats(State(state): State<Arc<WriteState>>, uri: Uri) -> Result<Json<Stats>, Problem> {
    Parameters::none(&uri)?;
    Ok(Json(state.worker.stats()))
}
