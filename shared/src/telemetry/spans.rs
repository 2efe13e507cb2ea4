//! All spans but the request's own, with their names and attributes: docs/TRACING.md has the picture. Names follow the semantic
//! conventions of OpenTelemetry 1.44; what those do not know begins with `config.`. A configuration's name may stand in a span,
//! its value never.
//!
//! Each belongs to one place. Those of a request's work are children of its span, which [`super::request`] has.

use std::{borrow::Cow, time::SystemTime};

use opentelemetry::{
    Context, KeyValue, StringValue, Value, time,
    trace::{Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _},
};
use opentelemetry_sdk::trace::Span as SdkSpan;

use super::{
    propagation,
    request::RequestScope,
    traces::{Traces, traces},
};

/// Most links that a span has; the library leaves out what is more.
pub const MAX_LINKS: usize = 128;

/// The log of events, as a destination of messages.
const DESTINATION: &str = "config.events";

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
        RequestScope::trace_of_current().map_or_else(Self::default, |parent| Self::child(traces, parent, builder))
    }

    /// A child of a span of this process or of another.
    fn under(parent: &SpanContext, builder: impl FnOnce() -> SpanBuilder) -> Self {
        let Some(traces) = traces() else { return Self::default() };
        Self::child(traces, parent.clone(), builder)
    }

    fn child(traces: &Traces, parent: SpanContext, builder: impl FnOnce() -> SpanBuilder) -> Self {
        if !parent.is_sampled() {
            return Self { context: Some(parent), ..Self::default() };
        }
        Self::started(traces, &Context::new().with_remote_span_context(parent), builder())
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
    RequestScope::event_of_current("decided anew", || {
        vec![KeyValue::new("config.attempt", i64::from(attempt)), KeyValue::new("config.cause", why)]
    });
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
