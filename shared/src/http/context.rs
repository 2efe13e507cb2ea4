//! What surrounds every request: its id, its span and trace, its time limit, and the rendering of its problems.

use std::{
    any::Any,
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{self, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{FromRequestParts, MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Response, request::Parts},
    response::IntoResponse,
};
use futures_util::FutureExt;
use tower::{Layer, Service};
use uuid::fmt::Hyphenated;

use super::{negotiation, prefer::Wait, problem::Problem};
use crate::{
    ids::Ids,
    metrics::{HttpMetrics, RouteMetrics},
    panic_message,
    telemetry::request::RequestScope,
};

/// Longest that an answer may take to begin; a stream's body may go on.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(30);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
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
        let made_up = || {
            let mut text = [0; Hyphenated::LENGTH];
            let text = ids.next().hyphenated().encode_lower(&mut text);
            HeaderValue::from_str(text).expect("a UUID is visible ASCII")
        };
        Self(headers.get(REQUEST_ID).filter(sane).cloned().unwrap_or_else(made_up))
    }
}

/// Of the request whose handler asks for it.
impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Problem> {
        RequestScope::current().map(|scope| Self(scope.id().clone())).ok_or_else(Problem::internal)
    }
}

/// Outermost, around every route: gives the request its id and span, bounds the time until its answer begins, survives a
/// panic, and renders its problem. One layer, because each layer of a router costs every request a boxed copy of what is
/// inside.
#[derive(Clone, Debug)]
pub struct Context {
    /// Makes up ids.
    pub ids: Ids,
    /// Counts requests, and measures how long their answers took.
    pub metrics: HttpMetrics,
}

/// A route in its context.
#[derive(Clone, Debug)]
pub struct InContext<S> {
    inner: S,
    ids: Ids,
    /// Of this route: the layer is laid around each of them.
    metrics: RouteMetrics,
}

impl<S> Layer<S> for Context {
    type Service = InContext<S>;

    fn layer(&self, inner: S) -> InContext<S> {
        InContext { inner, ids: self.ids, metrics: self.metrics.route() }
    }
}

impl<S> Service<Request> for InContext<S>
where
    S: Service<Request, Error = Infallible>,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let RequestId(id) = RequestId::of(request.headers(), self.ids);
        let as_json = negotiation::prefers_json(request.headers());
        let method = request.method().clone();
        let path = request.extensions().get::<MatchedPath>().cloned();
        let scope = RequestScope::begin(&request, id, path.as_ref());
        let active = self.metrics.begin(&method);
        // Who reads and prefers to wait has that time too.
        let preferred = if method.is_safe() { Wait::of(request.headers()).ok().flatten() } else { None };
        let limit = REQUEST_LIMIT + preferred.map_or(Duration::ZERO, Wait::duration);
        // Only makes the future: what could panic, or tell something, is in it.
        let answering = self.inner.call(request);
        let of_request = scope.clone();
        let in_context = async move {
            let mut response = bounded(answering, limit).await;
            let route = path.as_ref().map_or("-", MatchedPath::as_str);
            let mut code = None;
            if let Some(problem) = response.extensions_mut().remove::<Problem>() {
                if response.status().is_server_error() {
                    // What a client quotes, its request id, is in the log, with what it was told. The cause has a line of its own.
                    let status = response.status().as_u16();
                    tracing::warn!(status, "{method} {route} - Answered {}", problem.code());
                }
                code = Some(problem.code());
                let allow = response.headers().get("allow").cloned();
                let id = of_request.id().to_str().unwrap_or_default();
                response = problem.render(as_json, id, of_request.trace_id().as_deref());
                response.headers_mut().extend(allow.map(|allow| (axum::http::header::ALLOW, allow)));
            }
            response.headers_mut().insert(REQUEST_ID, of_request.id().clone());
            let micros = active.answered(route, response.status());
            of_request.answered(&mut response, code);
            tracing::debug!(status = response.status().as_u16(), micros, "{method} {route}");
            Ok(response)
        };
        Box::pin(scope.run(in_context))
    }
}

/// Bounds the time until an answer begins; a handler that panics is answered for.
async fn bounded<R: IntoResponse>(
    answering: impl Future<Output = Result<R, Infallible>>,
    limit: Duration,
) -> Response<Body> {
    match tokio::time::timeout(limit, AssertUnwindSafe(answering).catch_unwind()).await {
        Ok(Ok(Ok(response))) => response.into_response(),
        Ok(Err(panic)) => panicked(panic.as_ref()),
        Err(_) => {
            tracing::warn!(limit_s = limit.as_secs(), "The request took too long and was given up");
            let detail = format!(
                "No answer within {} s. A write may still be carried out: read the value before you repeat it.",
                limit.as_secs()
            );
            Problem::unavailable("request-timeout", detail).into_response()
        }
    }
}

/// A bug in a handler: the client gets a 500, the log the message.
fn panicked(panic: &(dyn Any + Send)) -> Response<Body> {
    tracing::error!("A request handler panicked: {}", panic_message(panic));
    Problem::internal().into_response()
}
