//! What every write shares: preconditions, metadata, the wait for visibility, the answer.

use std::sync::Arc;

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::{
    event::{MAX_REASON_BYTES, Metadata, metadata as keys},
    http::{
        CONFIG_POSITION,
        conditional::{Comparison, Tags, entity_tag, tags},
        context::RequestId,
        negotiation::prefers_json,
        problem::Problem,
    },
    moment::Moment,
    name::ConfigName,
    position::{Applied, Position, PositionToken},
    telemetry::{self, trace_of_headers},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{idempotency::IDEMPOTENCY_REPLAYED, router::WriteState};
use crate::{
    command::{CommandError, Done, Request},
    config::VISIBILITY_WAIT,
    domain::Precondition,
    store::Receipt,
};

/// What a body may have beside its value: the reason, names of fields, blanks; in bytes.
pub const BODY_ROOM_BYTES: usize = 64 * 1024;

/// The answer to a change of one configuration, in JSON:
/// `{"name":"a","version":3,"position":42,"recorded_at":"2024-01-15T10:30:00.000000Z","changed":true}`.
#[derive(Debug, Serialize)]
pub(super) struct Written<'a> {
    name: &'a ConfigName,
    /// Of the configuration, now.
    version: u64,
    /// Of the event that gave it this version.
    position: Position,
    /// When that was; `None` of a name that was never written.
    recorded_at: Option<Moment>,
    /// Whether this request wrote that event.
    changed: bool,
}

impl<'a> Written<'a> {
    pub(super) fn new(name: &'a ConfigName, receipt: &Receipt) -> Self {
        let Receipt { version, token, recorded_at, changed, .. } = *receipt;
        let recorded_at = (version > 0).then_some(recorded_at);
        Self { name, version, position: token.position, recorded_at, changed }
    }
}

/// Places among the writes under way.
pub(super) type Places = [Option<OwnedSemaphorePermit>; 2];

/// Takes a place of each of these kinds.
pub(super) fn take_places(kinds: &[&Arc<Semaphore>]) -> Result<Places, Problem> {
    let mut places = Places::default();
    for (place, kind) in places.iter_mut().zip(kinds) {
        *place = Some(Arc::clone(kind).try_acquire_owned().map_err(|_| super::error::overloaded())?);
    }
    Ok(places)
}

/// `If-Match` and `If-None-Match`, as the aggregate understands them.
pub(super) fn precondition(headers: &HeaderMap) -> Result<Precondition, Problem> {
    let must_match = tags(headers, &header::IF_MATCH, Comparison::Strong)?;
    let must_not_match = tags(headers, &header::IF_NONE_MATCH, Comparison::Strong)?;
    match (must_match, must_not_match) {
        (None, None) => Ok(Precondition::None),
        (Some(Tags::Any), None) => Ok(Precondition::Exists),
        (Some(Tags::Versions(versions)), None) => Ok(Precondition::VersionIn(versions)),
        (None, Some(Tags::Any)) => Ok(Precondition::Absent),
        (None, Some(Tags::Versions(_))) => Err(Problem::bad_request(
            "malformed-entity-tag",
            "If-None-Match takes only `*` here: the configuration must not exist.",
        )),
        (Some(_), Some(_)) => Err(Problem::bad_request(
            "malformed-entity-tag",
            "If-Match and If-None-Match exclude each other; send one of them.",
        )),
    }
}

/// A batch has its preconditions in its operations.
pub(super) fn no_precondition(headers: &HeaderMap) -> Result<(), Problem> {
    match precondition(headers)? {
        Precondition::None => Ok(()),
        _ => Err(Problem::bad_request(
            "malformed-entity-tag",
            "If-Match and If-None-Match name no operation of a batch; give the operations an `if_version`.",
        )),
    }
}

/// What a line in the log says of a command that was carried out before.
pub(super) fn again(done: &Done) -> &'static str {
    if done.replayed { " (earlier, under the same Idempotency-Key)" } else { "" }
}

/// Who, why, in which request and trace: travels with the events.
pub(super) fn metadata(
    headers: &HeaderMap,
    request_id: &RequestId,
    reason: Option<String>,
) -> Result<Metadata, Problem> {
    let mut metadata = Metadata::from([
        (keys::ACTOR.to_owned(), keys::ANONYMOUS.to_owned()),
        (keys::REQUEST_ID.to_owned(), request_id.as_str().to_owned()),
    ]);
    if let Some(reason) = reason {
        if reason.len() > MAX_REASON_BYTES {
            let detail = format!("The reason has {} bytes; the limit is {MAX_REASON_BYTES} bytes.", reason.len());
            return Err(Problem::too_large(detail));
        }
        if reason.contains('\0') {
            return Err(super::error::nul_in_reason());
        }
        metadata.insert(keys::REASON.to_owned(), reason);
    }
    // The client's own; where this process has traces, the append's takes its place.
    if let Some(parent) = trace_of_headers(headers) {
        telemetry::carry(&parent, &mut metadata);
    }
    Ok(metadata)
}

/// Executes the command; returns when what it did, or rests on, is visible where this process serves reads. `told` hears of
/// the command's end even when the client is gone; the places are kept until then.
pub(super) async fn execute(
    state: &Arc<WriteState>,
    request: Request,
    places: Places,
    told: impl FnOnce(&Result<Done, CommandError>) + Send + 'static,
) -> Result<Done, CommandError> {
    let visible_in = state.visible_in.clone();
    // In the command's task, and not behind it: the connection's is woken once.
    let ended = move |result: &Result<Done, CommandError>| {
        told(result);
        let rests_on = match result {
            Ok(done) => last_place(done),
            Err(CommandError::Refused { decided_at, .. }) => Some(*decided_at),
            Err(_) => None,
        };
        async move {
            wait_until_visible(visible_in, rests_on).await;
            drop(places);
        }
    };
    state.bus.execute(request, ended).await
}

/// The place of the last event that an answer speaks of.
pub(super) fn last_place(done: &Done) -> Option<PositionToken> {
    done.receipts.iter().map(|receipt| receipt.token).max_by_key(|token| token.position)
}

/// The old system's promise: what a write has done, or was refused for, the next read shows. The projection may be stuck; the
/// write is done all the same, so the wait is bounded and its end is told.
async fn wait_until_visible(visible_in: Option<Applied>, at: Option<PositionToken>) {
    let (Some(mut applied), Some(at)) = (visible_in, at) else { return };
    if tokio::time::timeout(VISIBILITY_WAIT, applied.reaches(at.position)).await.is_err() {
        let (position, applied) = (at.position, applied.now());
        tracing::warn!(%position, %applied, limit_s = VISIBILITY_WAIT.as_secs(), "A write was answered before the projection applied it");
    }
}

/// The answer to a change of one configuration.
pub(super) fn answer(headers: &HeaderMap, name: &ConfigName, done: &Done) -> Response {
    let Some(receipt) = done.receipts.first() else { return Problem::internal().into_response() };
    let body = prefers_json(headers).then(|| Json(Written::new(name, receipt)).into_response());
    let mut response = stamp(body.unwrap_or_else(|| "OK".into_response()), done);
    if receipt.exists {
        response.headers_mut().insert(header::ETAG, entity_tag(receipt.version));
    }
    response
}

/// With the headers that all answers to changes have.
pub(super) fn stamp(mut response: Response, done: &Done) -> Response {
    if let Some(token) = last_place(done) {
        response.headers_mut().insert(CONFIG_POSITION, token.into());
    }
    if done.replayed {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
