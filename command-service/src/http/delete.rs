//! `DELETE /v1/config/{name}`: deletes a configuration; its history stays.

use std::sync::Arc;

use axum::{
    extract::{self, State},
    http::request::Parts,
    response::Response,
};
use shared::http::{context::RequestId, parameters::Parameters, path::NameInPath, problem::Problem};

use super::{error, idempotency, router::WriteState, write};
use crate::{
    command::{Operation, Request, Work},
    domain::{Change, ConfigValueCommand},
};

/// Deletes the configuration. A body, should there be one, means nothing here and is not read.
pub(super) async fn delete(
    State(state): State<Arc<WriteState>>,
    NameInPath(name): NameInPath,
    request_id: RequestId,
    request: extract::Request,
) -> Result<Response, Problem> {
    let (Parts { uri, headers, .. }, _) = request.into_parts();
    Parameters::none(&uri)?;
    let places = state.place_of_write()?;
    let precondition = write::precondition(&headers)?;
    let key = idempotency::key(&headers, &["DELETE", &name], b"")?;
    let metadata = write::metadata(&headers, &request_id, None)?;
    tracing::info!("DELETE /config/{name} - Deleting value");

    let shown_name = name.clone();
    let told = move |result: &Result<_, _>| match result {
        Ok(done) => tracing::info!("DELETE /config/{shown_name} - Successfully deleted value{}", write::again(done)),
        Err(error) => error::tell(error, "DELETE", &format!("/config/{shown_name}"), "delete value"),
    };
    let command = ConfigValueCommand { change: Change::Delete, precondition };
    let work = Work::One(Operation { name: name.clone(), command });
    let done = write::execute(&state, Request { work, metadata, key }, places, told).await;
    Ok(write::answer(&headers, &name, &done.map_err(error::problem)?))
}
