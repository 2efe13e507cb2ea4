//! All spans that there are, with their names and attributes: docs/TRACING.md has the picture. Names follow the semantic
//! conventions of OpenTelemetry 1.44; what those do not know begins with `config.`. A configuration's name may stand in a span,
//! its value never.
//!
//! The span of a request is one of `tracing`: it is also what its log lines are told in, and every task finds it as the current
//! one. The others belong to one place each, are never entered, and so cost nothing more than themselves.

use std::{borrow::Cow, time::SystemTime};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header},
};
use opentelemetry::{
    Context, KeyValue, StringValue, Value, time,
    trace::{Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _},
};
use opentelemetry_sdk::trace::Span as SdkSpan;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{
    propagation,
    traces::{Traces, traces},
};

/// Target of the spans of `tracing` that are traced, whatever the log's filter says.
pub(super) const TRACED: &str = "traced";

/// Most links that a span has; the library leaves out what is more.
pub const MAX_LINKS: usize = 128;

/// Longest of a client's own words in a span, in bytes.
const MAX_CLIENT_TEXT_BYTES: usize = 256;

/// Header of answers: the trace that the request belongs to, as the W3C's draft has it.
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// The log of events, as a destination of messages.
const DESTINATION: &str = "config.events";

/// Begins to trace a request.
#[derive(Debug)]
pub(crate) struct RequestTrace {
    span: tracing::Span,
    /// Of the request's span, or of the client's where there is none of its own.
    context: Option<SpanContext>,
    /// The span itself, where it is recorded.
    recorded: Option<Context>,
}

impl RequestTrace {
    /// Of a request with this id and route.
    pub(crate) fn begin(request: &Request, id: &str, route: Option<&MatchedPath>) -> Self {
        let parent = propagation::of_headers(request.headers());
        let wanted = traces().filter(|traces| {
            let sampled = parent.as_ref().is_some_and(SpanContext::is_sampled);
            sampled || (!is_probe(route) && (!is_read(request.method()) || traces.wants_read()))
        });
        match wanted {
            Some(_) => Self::traced(request, id, route, parent),
            None => Self::untraced(id, parent),
        }
    }

    fn untraced(id: &str, context: Option<SpanContext>) -> Self {
        // At the level of errors, so that no line is without it.
        let span = match &context {
            None => tracing::error_span!("request", request_id = id),
            Some(context) => tracing::error_span!("request", request_id = id, trace_id = %context.trace_id()),
        };
        Self { span, context, recorded: None }
    }

    fn traced(request: &Request, id: &str, route: Option<&MatchedPath>, parent: Option<SpanContext>) -> Self {
        let method = known(request.method());
        let name = match route {
            Some(route) => format!("{} {}", method.unwrap_or("HTTP"), route.as_str()),
            None => method.unwrap_or("HTTP").to_owned(),
        };
        let span = tracing::error_span!(
            target: TRACED, parent: None, "request",
            otel.name = name, otel.kind = "server", request_id = id, trace_id = Empty
        );
        if let Some(parent) = parent {
            // Never fails: the span was not entered yet.
            let _started = span.set_parent(Context::new().with_remote_span_context(parent));
        }
        // Starts it: from here on its ids are known.
        let started = span.context();
        let context = started.span().span_context().clone();
        span.record("trace_id", tracing::field::display(context.trace_id()));
        let recorded = Some(started).filter(|_| context.is_sampled());
        if let Some(started) = &recorded {
            // All at once: each by itself would look the span up again.
            started.span().set_attributes(described(request, method, route));
        }
        Self { span, context: Some(context), recorded }
    }

    /// What the request's lines are told in.
    pub(crate) fn span(&self) -> tracing::Span {
        self.span.clone()
    }

    /// As clients are told it.
    pub(crate) fn trace_id(&self) -> Option<String> {
        self.context.as_ref().map(|context| context.trace_id().to_string())
    }

    /// What the request was answered; the answer says to which trace it belongs.
    pub(crate) fn answered<B>(&self, response: &mut Response<B>, problem: Option<&'static str>) {
        let Some(context) = &self.context else { return };
        if let Ok(value) = HeaderValue::from_str(&propagation::text(context)) {
            response.headers_mut().insert(TRACERESPONSE, value);
        }
        let Some(recorded) = &self.recorded else { return };
        let (span, status) = (recorded.span(), response.status());
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if let Some(problem) = problem {
            span.set_attribute(KeyValue::new("config.problem", problem));
        }
        if status.is_server_error() {
            span.set_attribute(KeyValue::new("error.type", status.as_str().to_owned()));
            span.set_status(Status::error(""));
        }
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
fn described(request: &Request, method: Option<&'static str>, route: Option<&MatchedPath>) -> Vec<KeyValue> {
    let headers = request.headers();
    let mut attributes = Vec::with_capacity(10);
    attributes.push(KeyValue::new("http.request.method", method.unwrap_or("_OTHER")));
    attributes.push(KeyValue::new("url.scheme", "http"));
    if let Some(route) = route {
        attributes.push(KeyValue::new("http.route", route.as_str().to_owned()));
        attributes.push(KeyValue::new("url.path", request.uri().path().to_owned()));
    }
    if let Some((address, port)) = client_text(headers, &header::HOST).map(split_port) {
        attributes.push(KeyValue::new("server.address", address.to_owned()));
        attributes.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
    }
    if let Some(agent) = client_text(headers, &header::USER_AGENT) {
        attributes.push(KeyValue::new("user_agent.original", agent.to_owned()));
    }
    attributes
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

/// A span under way; ends when it is dropped. Nothing where there are no traces or this is not sampled.
#[derive(Debug, Default)]
pub struct TraceSpan {
    span: Option<Box<SdkSpan>>,
    /// What it hands on: its own, or its parent's when it is not sampled.
    context: Option<SpanContext>,
    links: usize,
}

impl TraceSpan {
    /// A child of the request that the caller works for.
    fn of_request(builder: impl FnOnce() -> SpanBuilder) -> Self {
        let Some(traces) = traces() else { return Self::default() };
        let parent = tracing::Span::current().context();
        let context = parent.span().span_context().clone();
        Self::child(traces, &parent, context, builder)
    }

    /// A child of a span of this process or of another.
    fn under(parent: &SpanContext, builder: impl FnOnce() -> SpanBuilder) -> Self {
        let Some(traces) = traces() else { return Self::default() };
        Self::child(traces, &Context::new().with_remote_span_context(parent.clone()), parent.clone(), builder)
    }

    fn child(traces: &Traces, parent: &Context, context: SpanContext, builder: impl FnOnce() -> SpanBuilder) -> Self {
        if !context.is_sampled() {
            return Self { context: context.is_valid().then_some(context), ..Self::default() };
        }
        Self::started(traces, parent, builder())
    }

    /// The first of a trace of its own.
    fn root(builder: impl FnOnce() -> SpanBuilder) -> Self {
        traces().map_or_else(Self::default, |traces| Self::started(traces, &Context::new(), builder()))
    }

    fn started(traces: &Traces, parent: &Context, builder: SpanBuilder) -> Self {
        let links = builder.links.as_ref().map_or(0, Vec::len);
        let span = builder.start_with_context(&traces.tracer, parent);
        let context = Some(span.span_context().clone());
        Self { span: span.is_recording().then(|| Box::new(span)), context, links }
    }

    /// Whether anybody will see it.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.span.is_some()
    }

    /// What children and events name as their parent.
    #[must_use]
    pub fn context(&self) -> Option<&SpanContext> {
        self.context.as_ref()
    }

    /// The same, when it is sampled: what others link to.
    #[must_use]
    pub fn sampled_context(&self) -> Option<&SpanContext> {
        self.context.as_ref().filter(|context| context.is_sampled())
    }

    /// Says something about it.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// Something happened just now.
    pub fn event(&mut self, name: &'static str, attributes: Vec<KeyValue>) {
        if let Some(span) = &mut self.span {
            span.add_event(name, attributes);
        }
    }

    /// Links it to another, up to [`MAX_LINKS`]; whether it did.
    pub fn link(&mut self, other: &SpanContext) -> bool {
        let Some(span) = self.span.as_mut().filter(|_| self.links < MAX_LINKS) else { return false };
        span.add_link(other.clone(), vec![]);
        self.links += 1;
        true
    }

    /// It failed, for a reason that is one of a few words.
    pub fn fail(&mut self, why: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new("error.type", StringValue::from(why.into())));
            span.set_status(Status::error(""));
        }
    }
}

/// The command that the caller works for is decided anew, because another one came first.
pub fn decided_anew(attempt: u32, why: &'static str) {
    if traces().is_some() {
        let attributes = vec![KeyValue::new("config.attempt", i64::from(attempt)), KeyValue::new("config.cause", why)];
        tracing::Span::current().add_event("decided anew", attributes);
    }
}

/// A configuration's name in a span.
pub fn config_name(name: &str) -> KeyValue {
    KeyValue::new("config.name", name.to_owned())
}

/// The aggregate decides: from the first look at its state to its decision.
#[must_use]
pub fn decide(attempt: u32) -> TraceSpan {
    TraceSpan::of_request(|| {
        let attributes = [KeyValue::new("config.attempt", i64::from(attempt))];
        SpanBuilder::from_name("decide ConfigValue").with_kind(SpanKind::Internal).with_attributes(attributes)
    })
}

/// A command's events are put into the log; what they carry names this as their parent.
#[must_use]
pub fn append(events: usize) -> TraceSpan {
    TraceSpan::of_request(|| message("append config.events", SpanKind::Producer, ("append", "send"), events))
}

/// One statement, for a whole group of commands: in the trace of the first that is sampled, and linked to all.
#[must_use]
pub fn insert<'a>(commands: impl Iterator<Item = &'a SpanContext>, units: usize, events: usize) -> TraceSpan {
    let mut commands = commands.peekable();
    let Some(first) = commands.peek().map(|first| SpanContext::clone(first)) else { return TraceSpan::default() };
    TraceSpan::under(&first, || {
        let links: Vec<_> = commands.take(MAX_LINKS).map(|command| Link::with_context(command.clone())).collect();
        let mut attributes = database("INSERT", "append_events");
        attributes.push(KeyValue::new("config.units", count(units)));
        attributes.push(KeyValue::new("config.units.linked", count(links.len())));
        if events > 1 {
            attributes.push(KeyValue::new("db.operation.batch.size", count(events)));
        }
        SpanBuilder::from_name("INSERT events")
            .with_kind(SpanKind::Client)
            .with_attributes(attributes)
            .with_links(links)
    })
}

/// A rollback reads what was.
#[must_use]
pub fn read_past() -> TraceSpan {
    TraceSpan::of_request(|| {
        let attributes = database("SELECT", "version_at");
        SpanBuilder::from_name("SELECT events").with_kind(SpanKind::Client).with_attributes(attributes)
    })
}

fn database(operation: &'static str, function: &'static str) -> Vec<KeyValue> {
    vec![
        KeyValue::new("db.system.name", "postgresql"),
        KeyValue::new("db.operation.name", operation),
        KeyValue::new("db.collection.name", "events"),
        KeyValue::new("db.stored_procedure.name", function),
    ]
}

/// A command's events are applied by a replica that is at the log's end: in the trace of the write, and linked to it.
#[must_use]
pub fn process(carried: &str) -> TraceSpan {
    let Some(parent) = sampled_parent(carried) else { return TraceSpan::default() };
    TraceSpan::under(&parent, || {
        message("process config.events", SpanKind::Consumer, ("process", "process"), 1)
            .with_links(vec![Link::with_context(parent.clone())])
    })
}

/// The same, of a replica that is behind: many commands at once, in a trace of its own, with links to them.
#[must_use]
pub fn catch_up() -> TraceSpan {
    TraceSpan::root(|| message("process config.events", SpanKind::Consumer, ("process", "process"), 1))
}

/// The span that an event's metadata names, when it is sampled. Nothing is looked for where there are no traces.
#[must_use]
pub fn sampled_parent(metadata: &str) -> Option<SpanContext> {
    #[derive(serde::Deserialize)]
    struct Keys<'a> {
        #[serde(borrow)]
        traceparent: Option<Cow<'a, str>>,
        #[serde(borrow)]
        tracestate: Option<Cow<'a, str>>,
    }
    traces()?;
    let Keys { traceparent, tracestate } = serde_json::from_str(metadata).ok()?;
    propagation::parse(&traceparent?, tracestate.as_deref()).filter(SpanContext::is_sampled)
}

/// The whole log is folded: one span, however long it is.
#[must_use]
pub fn replay(head: u64) -> TraceSpan {
    TraceSpan::root(|| {
        let head = i64::try_from(head).unwrap_or(i64::MAX);
        let builder = message("replay config.events", SpanKind::Consumer, ("replay", "process"), 1);
        let attributes = builder.attributes.unwrap_or_default().into_iter();
        SpanBuilder { attributes: Some(attributes.chain([KeyValue::new("config.head", head)]).collect()), ..builder }
    })
}

/// A command's message was handed to those who watch, since then: once, however many they are, and not where nobody does.
pub fn delivered(processing: &TraceSpan, since: SystemTime, watchers: usize) {
    let Some(parent) = processing.sampled_context().filter(|_| watchers > 0) else { return };
    let _ends_now = TraceSpan::under(parent, || {
        let attributes = [
            KeyValue::new("messaging.system", "config_api"),
            KeyValue::new("messaging.operation.name", "deliver"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", "config.watch"),
            KeyValue::new("config.watchers", count(watchers)),
        ];
        SpanBuilder::from_name("deliver config.watch")
            .with_kind(SpanKind::Producer)
            .with_start_time(since)
            .with_attributes(attributes)
    });
}

/// When something that is traced afterwards begins.
#[must_use]
pub fn now() -> SystemTime {
    time::now()
}

fn message(
    name: &'static str,
    kind: SpanKind,
    (operation, of_type): (&'static str, &'static str),
    events: usize,
) -> SpanBuilder {
    let mut attributes = Vec::with_capacity(12);
    attributes.extend([
        KeyValue::new("messaging.system", "config_api"),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.operation.type", of_type),
        KeyValue::new("messaging.destination.name", DESTINATION),
    ]);
    if events > 1 {
        attributes.push(KeyValue::new("messaging.batch.message_count", count(events)));
    }
    SpanBuilder::from_name(name).with_kind(kind).with_attributes(attributes)
}

/// As OpenTelemetry has numbers.
#[must_use]
pub fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
