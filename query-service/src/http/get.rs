//! `GET /v1/config/{name}`: the value that a configuration has now.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};
use shared::{
    http::{parameters::Parameters, path::NameInPath, problem::Problem},
    name::ConfigName,
};

use super::{
    Reads,
    error::ReadError,
    reads::MIN_POSITION,
    value::{self, REVALIDATE, Told},
};
use crate::projection::Entry;

pub(super) async fn handle(
    State(reads): State<Arc<Reads>>,
    NameInPath(name): NameInPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(&uri, &[MIN_POSITION])?;
    let known = value::known_versions(&headers)?;
    let view = reads.view(&headers, &parameters).await?;
    let Some(entry) = view.snapshot.get(&name) else {
        tracing::debug!("GET /config/{name} - Not found");
        return view.stamp(Err(ReadError::NotFound));
    };
    tracing::debug!("GET /config/{name} - Value: {}", reads.redaction.quoted(&name, entry.value()));
    view.stamp(Ok(value::tell(&told(&name, entry), &headers, known.as_ref(), REVALIDATE)))
}

fn told<'a>(name: &'a ConfigName, entry: &'a Entry) -> Told<'a> {
    Told {
        name,
        value: entry.value(),
        version: entry.version,
        position: entry.position,
        recorded_at: entry.recorded_at,
        actor: &entry.actor,
        reason: entry.reason(),
    }
}
