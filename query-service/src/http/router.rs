//! Every route of the service. Health, fallbacks and the outer layers are added by whoever serves.

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};
use shared::http::path::empty_name;

use super::{
    Reads, at, compression::compressed, diff, events, get as get_one, history, list, projection, rebuild, versions,
    watch,
};

/// The routes, and the old system's unversioned ones.
pub(crate) fn routes(reads: Reads) -> Router {
    Router::new()
        .route("/v1/config", compressed(get(list::handle)))
        .route("/v1/config/", get(empty_name))
        .route("/v1/config/{name}", get(get_one::handle))
        .route("/v1/config/{name}/history", compressed(get(history::handle)))
        .route("/v1/config/{name}/at/{timestamp}", get(at::handle))
        .route("/v1/config/{name}/versions/{version}", get(versions::handle))
        .route("/v1/diff", compressed(get(diff::handle)))
        .route("/v1/events", get(events::handle))
        .route("/v1/watch", get(watch::handle))
        .route("/v1/projection", get(projection::handle))
        .route("/v1/projection/rebuild", post(rebuild::handle))
        .route("/config", compressed(get(list::handle)))
        .route("/config/", get(empty_name))
        .route("/config/{name}", get(get_one::handle))
        .route("/config/{name}/history", compressed(get(history::handle)))
        .route("/config/{name}/at/{timestamp}", get(at::handle))
        .with_state(Arc::new(reads))
}
