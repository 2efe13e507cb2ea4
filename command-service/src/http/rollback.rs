//! `POST /v1/config/{name}/rollback`: a configuration becomes what it was.

use std::sync::Arc;

use axum::{
    extract::{self, State},
    http::request::Parts,
    response::Response,
};
use serde::Deserialize;
use shared::{
    http::{
        body::{parse_json, read_body},
        context::RequestId,
        parameters::Parameters,
        path::NameInPath,
        problem::Problem,
    },
    moment::{InvalidMoment, Moment},
};

use super::{error, idempotency, router::WriteState, write};
use crate::{
    command::{Request, Work},
    store::Past,
};

/// What is sent: `{"version": 3}` or `{"at": "2024-01-15T10:30:00Z"}`, and `"reason": "why"`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct RollbackBody {
    /// To the state that this version had; from 1 on.
    #[serde(default)]
    version: Option<u64>,
    /// To the state that it had at this moment.
    #[serde(default)]
    at: Option<String>,
    /// Kept with the change, behind what it is: `rollback to version 3: why`.
    #[serde(default)]
    reason: Option<String>,
}

const EXAMPLE: &str = r#"{"version": 3} or {"at": "2024-01-15T10:30:00Z"}"#;

impl RollbackBody {
    fn to(&self) -> Result<Past, Problem> {
        let invalid = |what: &str| Problem::bad_request("invalid-body", format!("{what}; send {EXAMPLE}."));
        match (self.version, &self.at) {
            (Some(version @ 1..), None) => Ok(Past::Version(version)),
            (Some(_), None) => Err(invalid("There is no version 0: versions count from 1 on")),
            (None, Some(at)) => {
                let at: Result<Moment, InvalidMoment> = at.parse();
                at.map(Past::At).map_err(|error| Problem::bad_request("invalid-timestamp", error.to_string()))
            }
            (None, None) => Err(invalid("Neither `version` nor `at` says where to go back to")),
            (Some(_), Some(_)) => Err(invalid("`version` and `at` exclude each other")),
        }
    }
}

/// Sets the old value again, or deletes, when it was deleted then. What it is already changes nothing.
pub(super) async fn rollback(
    State(state): State<Arc<WriteState>>,
    NameInPath(name): NameInPath,
    request_id: RequestId,
    request: extract::Request,
) -> Result<Response, Problem> {
    let (Parts { uri, headers, .. }, body) = request.into_parts();
    Parameters::none(&uri)?;
    let places = state.place_of_write()?;
    let precondition = write::precondition(&headers)?;
    let body = read_body(&headers, body, write::BODY_ROOM_BYTES, EXAMPLE).await?;
    let key = idempotency::key(&headers, &["ROLLBACK", &name], &body)?;
    let body: RollbackBody = parse_json(&body, EXAMPLE)?;
    let to = body.to()?;
    let metadata = write::metadata(&headers, &request_id, body.reason)?;
    let shown = match to {
        Past::Version(version) => format!("version {version}"),
        Past::At(moment) => moment.to_string(),
    };
    tracing::info!("POST /config/{name}/rollback - Rolling back to {shown}");

    let path = format!("/config/{name}/rollback");
    let told = move |result: &Result<_, _>| match result {
        Ok(done) => tracing::info!("POST {path} - Successfully rolled back to {shown}{}", write::again(done)),
        Err(error) => error::tell(error, "POST", &path, "roll back"),
    };
    let work = Work::Rollback { name: name.clone(), to, precondition };
    let done = write::execute(&state, Request { work, metadata, key }, places, told).await;
    Ok(write::answer(&headers, &name, &done.map_err(error::problem)?))
}
