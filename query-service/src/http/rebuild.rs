//! `POST /v1/projection/rebuild`: fold the log from zero, and swap the result in when it has caught up.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::json;
use shared::http::{negotiation, parameters::Parameters, problem::Problem};

use super::{Reads, error::ReadError};

pub(super) async fn handle(State(reads): State<Arc<Reads>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    Parameters::none(&uri)?;
    reads.status.ask_for_rebuild().map_err(|_| ReadError::RebuildRunning)?;
    tracing::info!("A rebuild of ConfigStateProjection was asked for");
    Ok(if negotiation::prefers_json(&headers) {
        (StatusCode::ACCEPTED, Json(json!({ "status": "accepted", "progress": "/v1/projection" }))).into_response()
    } else {
        (StatusCode::ACCEPTED, "OK").into_response()
    })
}

#[cfg(test)]
mod tests {
    use super::{super::states::reads, *};
    use crate::projection::Published;

    #[tokio::test]
    async fn a_rebuild_while_one_is_under_way_is_refused() {
        let reads = Arc::new(reads(&Arc::new(Published::nothing_yet())));
        let uri = Uri::from_static("/v1/projection/rebuild");
        let refused = handle(State(reads), uri, HeaderMap::new()).await.unwrap_err();
        assert_eq!(refused.code(), "rebuild-running", "the first replay");
    }
}
