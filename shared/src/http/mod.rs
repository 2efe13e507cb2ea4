//! HTTP as both services speak it: the outer layers, problems, health, and the server itself.
//!
//! ```text
//! server ─► complete: request context ─► routes ─► problem ─► negotiated body
//! ```

pub mod body;
pub mod conditional;
pub mod context;
mod head_limit;
pub mod health;
pub mod healthcheck;
mod log_filter;
mod metrics_page;
pub mod negotiation;
pub mod parameters;
pub mod path;
pub mod port_owner;
pub mod prefer;
pub mod problem;
mod self_wake;
pub mod server;

use axum::{Router, http::HeaderName};
use context::Context;
use health::Health;
use problem::Problem;

use crate::{ids::Ids, metrics::Metrics};

/// Header of every answer: the place in the log that it speaks of.
pub const CONFIG_POSITION: HeaderName = HeaderName::from_static("config-position");

/// Adds to an app's routes what is there once per process: health, metrics, fallbacks, the outer layers.
pub fn complete(routes: Router, health: Health, metrics: &Metrics) -> Router {
    let unknown_route = async |uri: axum::http::Uri| Problem::unknown_route(uri.path());
    routes
        .merge(metrics_page::routes(metrics.clone(), health.clone()))
        .merge(health::routes(health))
        .merge(log_filter::routes())
        .fallback(unknown_route)
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(Context { ids: Ids::time_ordered(), metrics: metrics.http().clone() })
}
