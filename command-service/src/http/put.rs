//! `PUT /v1/config/{name}`: gives a configuration a value.

use axum::{
    body::Body,
    extract::{Extension, State},
    http::{HeaderMap, Uri},
    response::Response,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::{
    http::{body::read_json, context::RequestId, parameters::Parameters, path::NameInPath, problem::Problem},
    value::ConfigJson,
};

use super::{
    router::WriteState,
    write::{self, Write},
};
use crate::domain::Change;

/// What is sent: `{"value": <any JSON>, "reason": "why"}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct PutBody {
    /// Kept byte for byte.
    value: Box<RawValue>,
    /// Kept with the change.
    #[serde(default)]
    reason: Option<String>,
}

const EXAMPLE: &str = r#"{"value": "my_value"}"#;

/// Stores the value; the same value again changes nothing.
pub(super) async fn put(
    State(state): State<WriteState>,
    NameInPath(name): NameInPath,
    Extension(request_id): Extension<RequestId>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Parameters::none(&uri)?;
    let place = write::take_place(&state)?;
    let precondition = write::precondition(&headers)?;
    let limit = state.max_value_bytes + write::BODY_ROOM_BYTES;
    let PutBody { value, reason } = read_json(&headers, body, limit, EXAMPLE).await?;
    let value = ConfigJson::accept(value, state.max_value_bytes).map_err(super::error::invalid_value)?;
    let metadata = write::metadata(&headers, &request_id, reason)?;
    tracing::info!("PUT /config/{name} - Setting value: {}", state.redaction.quoted(&name, &value));

    let (shown_name, shown, redaction) = (name.clone(), value.clone(), state.redaction.clone());
    let told = move |result: &Result<_, _>| match result {
        Ok(_) => {
            let shown = redaction.quoted(&shown_name, &shown);
            tracing::info!("PUT /config/{shown_name} - Successfully stored value: {shown}");
        }
        Err(error) => super::error::tell(error, "PUT", &shown_name, "store value"),
    };
    let write = Write { name, change: Change::Set(value), precondition, metadata, place };
    write::execute(&state, &headers, write, told).await
}
