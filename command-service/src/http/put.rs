//! `PUT /v1/config/{name}`: gives a configuration a value.

use std::sync::Arc;

use axum::{
    extract::{self, State},
    http::request::Parts,
    response::Response,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::{
    http::{
        body::{parse_json, read_body},
        context::RequestId,
        parameters::Parameters,
        path::NameInPath,
        problem::Problem,
    },
    value::ConfigJson,
};

use super::{error, idempotency, router::WriteState, write};
use crate::{
    command::{Operation, Request, Work},
    domain::{Change, ConfigValueCommand},
};

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
    State(state): State<Arc<WriteState>>,
    NameInPath(name): NameInPath,
    request_id: RequestId,
    request: extract::Request,
) -> Result<Response, Problem> {
    let (Parts { uri, headers, .. }, body) = request.into_parts();
    Parameters::none(&uri)?;
    let places = state.place_of_write()?;
    let precondition = write::precondition(&headers)?;
    let body = read_body(&headers, body, state.max_value_bytes + write::BODY_ROOM_BYTES, EXAMPLE).await?;
    let key = idempotency::key(&headers, &["PUT", &name], &body)?;
    let PutBody { value, reason } = parse_json(&body, EXAMPLE)?;
    drop(body);
    let value = ConfigJson::accept(value, state.max_value_bytes).map_err(error::invalid_value)?;
    let metadata = write::metadata(&headers, &request_id, reason)?;
    let shown = state.redaction.of(&name);
    tracing::info!("PUT /config/{name} - Setting value: {}", shown.quoted(&value));

    let (told_name, told_value) = (name.clone(), value.clone());
    let told = move |result: &Result<_, _>| match result {
        Ok(done) => {
            let (value, again) = (shown.quoted(&told_value), write::again(done));
            tracing::info!("PUT /config/{told_name} - Successfully stored value: {value}{again}");
        }
        Err(error) => error::tell(error, "PUT", &format!("/config/{told_name}"), "store value"),
    };
    let command = ConfigValueCommand { change: Change::Set(value), precondition };
    let work = Work::One(Operation { name: name.clone(), command });
    let done = write::execute(&state, Request { work, metadata, key }, places, told).await;
    Ok(write::answer(&headers, &name, &done.map_err(error::problem)?))
}
