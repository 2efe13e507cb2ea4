//! `/v1/log-filter`: what the process logs, read and changed while it runs. A restart takes the setting again.

use axum::{Json, Router, body::Body, http::HeaderMap, routing::get};
use serde::{Deserialize, Serialize};

use super::{body::read_json, problem::Problem};
use crate::telemetry::{self, Filter};

/// Most bytes of a body.
const BODY_BYTES: usize = 4 * 1024;

const EXAMPLE: &str = r#"{"filter": "info,query_service=debug"}"#;

/// What is sent and answered.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct LogFilter {
    filter: String,
}

pub(super) fn routes() -> Router {
    Router::new().route("/v1/log-filter", get(read).put(change))
}

async fn read() -> Result<Json<LogFilter>, Problem> {
    let filter = telemetry::filter().map_err(|_| fixed())?;
    Ok(Json(LogFilter { filter: filter.to_string() }))
}

async fn change(headers: HeaderMap, body: Body) -> Result<Json<LogFilter>, Problem> {
    let LogFilter { filter } = read_json(&headers, body, BODY_BYTES, EXAMPLE).await?;
    let filter: Filter = filter.parse().map_err(|invalid: telemetry::InvalidFilter| {
        Problem::bad_request("invalid-log-filter", format!("The filter is wrong: {invalid}."))
    })?;
    let before = telemetry::filter().map_err(|_| fixed())?;
    // Told under the filter that tells it: the old one may be silent, the new one too.
    tracing::info!("The log's filter changes from {before} to {filter}");
    telemetry::set_filter(&filter).map_err(|_| fixed())?;
    tracing::info!("The log's filter is {filter} now");
    Ok(Json(LogFilter { filter: filter.to_string() }))
}

fn fixed() -> Problem {
    tracing::warn!("The log of this process was set up elsewhere and cannot be changed");
    Problem::unavailable("log-fixed", "The log of this process cannot be changed while it runs.")
}
