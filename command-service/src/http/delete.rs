//! `DELETE /v1/config/{name}`: deletes a configuration; its history stays.

use axum::{
    extract::{Extension, State},
    http::{HeaderMap, Uri},
    response::Response,
};
use shared::http::{context::RequestId, parameters::Parameters, path::NameInPath, problem::Problem};

use super::{
    router::WriteState,
    write::{self, Write},
};
use crate::domain::Change;

/// Deletes the configuration. A body, should there be one, means nothing here and is not read.
pub(super) async fn delete(
    State(state): State<WriteState>,
    NameInPath(name): NameInPath,
    Extension(request_id): Extension<RequestId>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Parameters::none(&uri)?;
    let place = write::take_place(&state)?;
    let precondition = write::precondition(&headers)?;
    let metadata = write::metadata(&headers, &request_id, None)?;
    tracing::info!("DELETE /config/{name} - Deleting value");

    let shown_name = name.clone();
    let told = move |result: &Result<_, _>| match result {
        Ok(_) => tracing::info!("DELETE /config/{shown_name} - Successfully deleted value"),
        Err(error) => super::error::tell(error, "DELETE", &shown_name, "delete value"),
    };
    let write = Write { name, change: Change::Delete, precondition, metadata, place };
    write::execute(&state, &headers, write, told).await
}
