//! What surrounds every request: its id, its span, its time limit, and the rendering of its problems.

use std::{any::Any, time::Duration};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Response},
    middleware::Next,
    response::IntoResponse,
};
use tracing::Instrument;

use super::{prefer::Wait, problem::Problem};
use crate::{clock::Clock, ids::Ids};

/// Longest that an answer may take to begin; a stream's body may go on.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(30);

const REQUEST_ID: &str = "x-request-id";
/// Longest request id that is taken over from a client, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The request's id: the client's own when it sent a sane one.
#[derive(Clone, Debug)]
pub struct RequestId(pub HeaderValue);

impl RequestId {
    /// As text: visible ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    fn of(headers: &HeaderMap, ids: Ids) -> Self {
        let sane = |value: &&HeaderValue| {
            (1..=MAX_REQUEST_ID_BYTES).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        let made_up = || HeaderValue::from_str(&ids.next().to_string()).expect("a UUID is visible ASCII");
        Self(headers.get(REQUEST_ID).filter(sane).cloned().unwrap_or_else(made_up))
    }
}

/// Outermost: gives the request its id and span, and renders its problem.
pub async fn identify(State((ids, clock)): State<(Ids, Clock)>, mut request: Request, next: Next) -> Response<Body> {
    let id = RequestId::of(request.headers(), ids);
    let accepts = request.headers().clone();
    let method = request.method().clone();
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| "-".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("request", request_id = id.as_str());
    request.extensions_mut().insert(id.clone());

    let began = clock.now();
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        if response.status().is_server_error() {
            // What a client quotes, its request id, is in the log, with what it was told. The cause has a line of its own.
            let status = response.status().as_u16();
            span.in_scope(|| tracing::warn!(status, "{method} {route} - Answered {}", problem.code()));
        }
        let allow = response.headers().get("allow").cloned();
        response = problem.render(&accepts, id.as_str());
        response.headers_mut().extend(allow.map(|allow| (axum::http::header::ALLOW, allow)));
    }
    response.headers_mut().insert(REQUEST_ID, id.0);
    span.in_scope(|| {
        let (status, millis) = (response.status().as_u16(), clock.now().millis_since(began));
        tracing::debug!(status, millis, "{method} {route}");
    });
    response
}

/// Bounds the time until an answer begins. Who reads and prefers to wait has that time too.
pub async fn bound(request: Request, next: Next) -> Response<Body> {
    let preferred = if request.method().is_safe() { Wait::of(request.headers()).ok().flatten() } else { None };
    let limit = REQUEST_LIMIT + preferred.map_or(Duration::ZERO, Wait::duration);
    let Ok(response) = tokio::time::timeout(limit, next.run(request)).await else {
        tracing::warn!(limit_s = limit.as_secs(), "The request took too long and was given up");
        let detail = format!(
            "No answer within {} s. A write may still be carried out: read the value before you repeat it.",
            limit.as_secs()
        );
        return Problem::unavailable("request-timeout", detail).into_response();
    };
    response
}

/// A bug in a handler: the client gets a 500, the log the message.
#[expect(clippy::needless_pass_by_value, reason = "the layer's signature")]
pub fn panicked(panic: Box<dyn Any + Send>) -> Response<Body> {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!("A request handler panicked: {}", message.unwrap_or("(no message)"));
    Problem::internal().into_response()
}
