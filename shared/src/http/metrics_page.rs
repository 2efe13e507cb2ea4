//! `GET /metrics`: what the process tells Prometheus.

use axum::{
    Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::TextEncoder;

use super::health::Health;
use crate::metrics::{HEALTH_CHECK, Metrics};

/// The route; under the name that Prometheus asks for when nothing else is said.
pub(super) fn routes(metrics: Metrics, health: Health) -> Router {
    let checks = metrics.gauge_vec(&HEALTH_CHECK);
    let page = async move |State((metrics, health)): State<(Metrics, Health)>| {
        for (check, result) in health.all().await {
            checks.with_label_values(&[check]).set(i64::from(result.is_ok()));
        }
        answer(&metrics)
    };
    Router::new().route("/metrics", get(page)).with_state((metrics, health))
}

fn answer(metrics: &Metrics) -> Response {
    let format = TextEncoder::new();
    let headers =
        [(header::CONTENT_TYPE, prometheus::Encoder::format_type(&format)), (header::CACHE_CONTROL, "no-store")];
    (headers, metrics.page()).into_response()
}
