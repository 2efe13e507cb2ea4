//! `GET /v1/config/{name}`: the value that a configuration has now, or, with `Prefer: wait=N`, as soon as it is another.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Request, State},
    response::{IntoResponse, Response},
};
use shared::{
    http::{
        conditional::Tags,
        parameters::Parameters,
        path::NameInPath,
        prefer::{PREFERENCE_APPLIED, Wait},
        problem::Problem,
    },
    name::ConfigName,
};
use tokio::time::{Instant, timeout_at};

use super::{
    Reads,
    error::ReadError,
    reads::{CONSISTENCY, MIN_POSITION, View},
    value::{self, REVALIDATE, Told},
};
use crate::{projection::Entry, watch::Filter};

pub(super) async fn handle(State(reads): State<Arc<Reads>>, request: Request) -> Result<Response, Problem> {
    // Read where they are: an extractor would copy all headers.
    let (mut parts, _) = request.into_parts();
    let NameInPath(name) = NameInPath::from_request_parts(&mut parts, &()).await?;
    let headers = &parts.headers;
    let parameters = Parameters::of(&parts.uri, &[MIN_POSITION, CONSISTENCY])?;
    let (known, wait) = (value::known_versions(headers)?, Wait::of(headers)?);
    let mut view = reads.view(headers, &parameters).await?;
    // Only who says what he has can be told that it changed.
    let wait = known.as_ref().zip(wait);
    if let Some((known, wait)) = wait {
        // Boxed, so that the others do not carry room for it.
        view = Box::pin(until_changed(&reads, &name, known, wait, view)).await?;
    }
    let answer = match view.snapshot.get(&name) {
        Some(entry) => {
            tracing::debug!("GET /config/{name} - Value: {}", reads.redaction.of(&name).quoted(entry.value()));
            Ok(value::tell(&told(&name, entry), headers, known.as_ref(), REVALIDATE))
        }
        None => {
            tracing::debug!("GET /config/{name} - Not found");
            Err(ReadError::NotFound)
        }
    };
    let answer = view.stamp(answer);
    Ok(match wait {
        Some((_, wait)) => heeded(answer, wait),
        None => answer?,
    })
}

/// Waits until the name no longer is what the client has. The newest state after that, or after the time that it prefers.
async fn until_changed(
    reads: &Reads,
    name: &ConfigName,
    known: &Tags,
    wait: Wait,
    mut view: View,
) -> Result<View, Problem> {
    let deadline = Instant::now() + wait.duration();
    if !is_known(known, view.snapshot.get(name)) {
        return Ok(view);
    }
    let waiting = reads.watches.hub.wait_for(Filter::of_name(name));
    let mut waiting = waiting.map_err(|refused| reads.stamped(refused.into()))?;
    loop {
        // Registered first, then looked at: what comes in between is not missed.
        view = reads.newer(view);
        if !is_known(known, view.snapshot.get(name)) {
            return Ok(view);
        }
        if !matches!(timeout_at(deadline, waiting.changed()).await, Ok(Ok(()))) {
            return Ok(reads.newer(view));
        }
    }
}

/// Whether the client has it. No value is version 0.
fn is_known(known: &Tags, entry: Option<&Entry>) -> bool {
    match known {
        Tags::Any => entry.is_some(),
        Tags::Versions(versions) => versions.contains(&entry.map_or(0, |entry| entry.version)),
    }
}

/// Says that the client's preference was heeded.
pub(super) fn heeded(answer: Result<Response, Problem>, wait: Wait) -> Response {
    let applied = [(PREFERENCE_APPLIED, wait.applied())];
    match answer {
        Ok(answer) => (applied, answer).into_response(),
        Err(problem) => problem.header(PREFERENCE_APPLIED, wait.applied().to_str().unwrap_or_default()).into_response(),
    }
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
