//! The request that a task works for: its log lines, its spans and its handler find it here, so that nobody hands it on.
//!
//! It is no span of `tracing`: one is made and formatted for each request, and entered and left each time that its task is
//! polled, also where nothing is logged or traced. This costs one allocation (ADR 17).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header},
};
use opentelemetry::trace::{SpanContext, SpanKind};

use super::{
    export::{Attribute, SpanRecord},
    propagation,
    spans::now,
    traces::{LiveSpan, Traces, traces},
};
use crate::digits::Digits;

/// Longest of a client's own words in a span, in bytes.
const MAX_CLIENT_TEXT_BYTES: usize = 256;

/// Header of answers: the trace that the request belongs to, as the W3C's draft has it.
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

tokio::task_local! {
    static CURRENT: Option<RequestScope>;
}

/// A request from its head to its answer, and what was begun for it; cheap to clone. Its span ends with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct RequestScope(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: HeaderValue,
    /// Of the request's span, or of the client's where there is none of its own.
    trace: Option<SpanContext>,
    /// The span itself, where it is recorded.
    span: Option<Mutex<LiveSpan>>,
}

impl RequestScope {
    /// Of a request with this id, of visible ASCII, and route.
    pub(crate) fn begin(request: &Request, id: HeaderValue, route: Option<&MatchedPath>) -> Self {
        let parent = propagation::of_headers(request.headers());
        let wanted = traces().filter(|traces| {
            let sampled = parent.as_ref().is_some_and(SpanContext::is_sampled);
            sampled || (!is_probe(route) && (!is_read(request.method()) || traces.wants_read()))
        });
        let inner = match wanted {
            Some(traces) => Inner::traced(traces, request, id, route, parent.as_ref()),
            None => Inner { id, trace: parent, span: None },
        };
        Self(Arc::new(inner))
    }

    /// Whose task this is.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok().flatten()
    }

    /// The span, or the client's, that work for the current request belongs under.
    pub(super) fn trace_of_current() -> Option<SpanContext> {
        CURRENT.try_with(|current| current.as_ref()?.0.trace.clone()).ok().flatten()
    }

    /// Something happened just now to the current request.
    pub(super) fn event_of_current(name: &'static str, attributes: &[(&str, Attribute<'_>)]) {
        let _no_request = CURRENT.try_with(|current| {
            if let Some(mut span) = current.as_ref().and_then(|current| current.0.span()) {
                span.0.event(name, now(), attributes);
            }
        });
    }

    /// Works for this request.
    pub(crate) fn run<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(Some(self), work)
    }

    pub(crate) fn id(&self) -> &HeaderValue {
        &self.0.id
    }

    /// As clients are told it.
    pub(crate) fn trace_id(&self) -> Option<String> {
        self.0.trace.as_ref().map(|trace| propagation::trace_id(trace).as_str().to_owned())
    }

    /// What the request was answered; the answer says to which trace it belongs.
    pub(crate) fn answered<B>(&self, response: &mut Response<B>, problem: Option<&'static str>) {
        let Some(trace) = &self.0.trace else { return };
        if let Ok(value) = HeaderValue::from_bytes(propagation::text(trace).as_bytes()) {
            response.headers_mut().insert(TRACERESPONSE, value);
        }
        let Some(mut span) = self.0.span() else { return };
        let (span, status) = (&mut span.0, response.status());
        span.attribute("http.response.status_code", i64::from(status.as_u16()).into());
        if let Some(problem) = problem {
            span.attribute("config.problem", problem.into());
        }
        if status.is_server_error() {
            span.attribute("error.type", status.as_str().into());
            span.fail();
        }
    }
}

/// The work goes on for the caller's request, in whatever task.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(RequestScope::current(), work)
}

/// What a line of the log says of the request that it is told in: its id and its trace.
pub(super) fn of_line<T>(tell: impl FnOnce(&str, Option<&str>) -> T) -> Option<T> {
    let of = |Inner { id, trace, .. }: &Inner| {
        let trace_id = trace.as_ref().map(propagation::trace_id);
        tell(id.to_str().unwrap_or_default(), trace_id.as_ref().map(Digits::as_str))
    };
    CURRENT.try_with(|current| current.as_ref().map(|current| of(&current.0))).ok().flatten()
}

impl Inner {
    fn traced(
        traces: &Traces,
        request: &Request,
        id: HeaderValue,
        route: Option<&MatchedPath>,
        parent: Option<&SpanContext>,
    ) -> Self {
        let method = known(request.method());
        let name = || match route {
            Some(route) => [method.unwrap_or("HTTP"), " ", route.as_str()].concat().into(),
            None => method.unwrap_or("HTTP").into(),
        };
        let (context, mut span) = traces.start(parent, &SpanKind::Server, name, None);
        if let Some(LiveSpan(span)) = &mut span {
            describe(span, request, &id, method, route);
        }
        Self { id, trace: Some(context), span: span.map(Mutex::new) }
    }

    fn span(&self) -> Option<MutexGuard<'_, LiveSpan>> {
        self.span.as_ref().map(|span| span.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Asked every few seconds, by whoever watches over the process: no trace by itself.
fn is_probe(route: Option<&MatchedPath>) -> bool {
    const PROBES: [&str; 5] = ["/v1/health", "/v1/ready", "/v1/live", "/health", "/metrics"];
    route.is_some_and(|route| PROBES.contains(&route.as_str()))
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// Methods are few; what a client makes up is not.
fn known(method: &Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str())
}

/// The query is left out, and the path of what is no route: a client may by mistake have put a value there.
fn describe(
    span: &mut SpanRecord,
    request: &Request,
    id: &HeaderValue,
    method: Option<&'static str>,
    route: Option<&MatchedPath>,
) {
    let headers = request.headers();
    span.attribute("http.request.method", method.unwrap_or("_OTHER").into());
    span.attribute("url.scheme", "http".into());
    span.attribute("request_id", id.to_str().unwrap_or_default().into());
    if let Some(route) = route {
        span.attribute("http.route", route.as_str().into());
        span.attribute("url.path", request.uri().path().into());
    }
    if let Some((address, port)) = client_text(headers, &header::HOST).map(split_port) {
        span.attribute("server.address", address.into());
        if let Some(port) = port {
            span.attribute("server.port", i64::from(port).into());
        }
    }
    if let Some(agent) = client_text(headers, &header::USER_AGENT) {
        span.attribute("user_agent.original", agent.into());
    }
}

fn client_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let text = headers.get(name)?.to_str().ok()?;
    Some(&text[..text.floor_char_boundary(MAX_CLIENT_TEXT_BYTES)])
}

fn split_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':').map(|(address, port)| (address, port.parse())) {
        Some((address, Ok(port))) => (address, Some(port)),
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tokio_util::task::TaskTracker;

    use super::*;

    fn told() -> Option<(String, Option<String>)> {
        of_line(|id, trace| (id.to_owned(), trace.map(str::to_owned)))
    }

    fn request(id: &'static str, parent: Option<&str>) -> RequestScope {
        let mut request = Request::new(Body::empty());
        if let Some(parent) = parent {
            request.headers_mut().insert("traceparent", parent.parse().unwrap());
        }
        RequestScope::begin(&request, HeaderValue::from_static(id), None)
    }

    #[tokio::test]
    async fn a_task_knows_its_request_and_hands_it_to_those_that_it_asks_for() {
        assert_eq!(told(), None);
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let both = request("r1", Some(parent)).run(async {
            let tasks = TaskTracker::new();
            let (carried, other) = (tasks.spawn(carried(async { told() })), tasks.spawn(async { told() }));
            (carried.await.unwrap(), other.await.unwrap(), told())
        });
        let of_request = Some(("r1".to_owned(), Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned())));
        assert_eq!(both.await, (of_request.clone(), None, of_request));
        assert_eq!(told(), None);
    }

    #[tokio::test]
    async fn requests_whose_turns_alternate_are_not_mixed_up() {
        let work = |id| {
            request(id, None).run(async move {
                for _ in 0..3 {
                    assert_eq!(told(), Some((id.to_owned(), None)));
                    tokio::task::yield_now().await;
                }
            })
        };
        tokio::join!(work("r1"), work("r2"));
    }
}
