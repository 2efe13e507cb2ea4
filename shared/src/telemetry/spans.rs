//! All spans but the request's own, with their names and attributes: docs/TRACING.md has the picture. Names follow the semantic
//! conventions of OpenTelemetry 1.44; what those do not know begins with `config.`. A configuration's name may stand in a span,
//! its value never.
//!
//! Each belongs to one place. Those of a request's work are children of its span, which [`super::request`] has.

use std::{borrow::Cow, time::SystemTime};

use opentelemetry::{
    time,
    trace::{SpanContext, SpanKind},
};

pub use super::export::Attribute;
use super::{
    propagation,
    request::RequestScope,
    traces::{LiveSpan, Traces, traces},
};

/// The log of events, as a destination of messages.
const DESTINATION: &str = "config.events";

/// A replica's work on it.
const PROCESS: &str = "process config.events";

/// A span under way; ends when it is dropped. Nothing where there are no traces or this is not sampled.
#[derive(Debug, Default)]
pub struct TraceSpan {
    span: Option<LiveSpan>,
    /// What it hands on: its own, or its parent's when it is not sampled.
    context: Option<SpanContext>,
}

impl TraceSpan {
    /// A child of the request that the caller works for.
    fn of_request(name: &'static str, kind: &SpanKind) -> Self {
        let Some(traces) = traces() else { return Self::default() };
        RequestScope::trace_of_current()
            .map_or_else(Self::default, |parent| Self::child(traces, &parent, name, kind, None))
    }

    /// A child of a span of this process or of another, which began then, or now.
    fn under(parent: &SpanContext, name: &'static str, kind: &SpanKind, since: Option<SystemTime>) -> Self {
        traces().map_or_else(Self::default, |traces| Self::child(traces, parent, name, kind, since))
    }

    fn child(
        traces: &Traces,
        parent: &SpanContext,
        name: &'static str,
        kind: &SpanKind,
        since: Option<SystemTime>,
    ) -> Self {
        if !parent.is_sampled() {
            return Self { context: Some(parent.clone()), span: None };
        }
        Self::started(traces, Some(parent), name, kind, since)
    }

    /// The first of a trace of its own.
    fn root(name: &'static str, kind: &SpanKind) -> Self {
        traces().map_or_else(Self::default, |traces| Self::started(traces, None, name, kind, None))
    }

    fn started(
        traces: &Traces,
        parent: Option<&SpanContext>,
        name: &'static str,
        kind: &SpanKind,
        since: Option<SystemTime>,
    ) -> Self {
        let (context, span) = traces.start(parent, kind, || name.into(), since);
        Self { span, context: Some(context) }
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
    pub fn set<'a>(&mut self, name: &'static str, value: impl Into<Attribute<'a>>) {
        if let Some(LiveSpan(span)) = &mut self.span {
            span.attribute(name, value.into());
        }
    }

    /// Something happened just now.
    pub fn event(&mut self, name: &'static str, attributes: &[(&str, Attribute<'_>)]) {
        if let Some(LiveSpan(span)) = &mut self.span {
            span.event(name, now(), attributes);
        }
    }

    /// Links it to another, when there is room; whether it did.
    pub fn link(&mut self, other: &SpanContext) -> bool {
        self.span.as_mut().is_some_and(|LiveSpan(span)| span.link(other))
    }

    /// It failed, for a reason that is one of a few words.
    pub fn fail(&mut self, why: &str) {
        self.set("error.type", why);
        if let Some(LiveSpan(span)) = &mut self.span {
            span.fail();
        }
    }
}

/// The command that the caller works for is decided anew, because another one came first.
pub fn decided_anew(attempt: u32, why: &'static str) {
    let attributes = [("config.attempt", i64::from(attempt).into()), ("config.cause", why.into())];
    RequestScope::event_of_current("decided anew", &attributes);
}

/// The aggregate decides: from the first look at its state to its decision.
#[must_use]
pub fn decide(attempt: u32) -> TraceSpan {
    let mut span = TraceSpan::of_request("decide ConfigValue", &SpanKind::Internal);
    span.set("config.attempt", i64::from(attempt));
    span
}

/// A command's events are put into the log; what they carry names this as their parent.
#[must_use]
pub fn append(events: usize) -> TraceSpan {
    let mut span = TraceSpan::of_request("append config.events", &SpanKind::Producer);
    describe_message(&mut span, "append", "send");
    if events > 1 {
        span.set("messaging.batch.message_count", count(events));
    }
    span
}

/// One statement, for a whole group of commands: in the trace of the first that is sampled, and linked to all.
#[must_use]
pub fn insert<'a>(commands: impl Iterator<Item = &'a SpanContext>, units: usize, events: usize) -> TraceSpan {
    let mut commands = commands.peekable();
    let Some(first) = commands.peek() else { return TraceSpan::default() };
    let mut span = TraceSpan::under(first, "INSERT events", &SpanKind::Client, None);
    if span.is_recorded() {
        describe_statement(&mut span, "INSERT", "append_events");
        span.set("config.units", count(units));
        let linked = commands.filter(|command| span.link(command)).count();
        span.set("config.units.linked", count(linked));
        if events > 1 {
            span.set("db.operation.batch.size", count(events));
        }
    }
    span
}

/// A rollback reads what was.
#[must_use]
pub fn read_past() -> TraceSpan {
    let mut span = TraceSpan::of_request("SELECT events", &SpanKind::Client);
    describe_statement(&mut span, "SELECT", "version_at");
    span
}

/// A command's events are applied by a replica that is at the log's end: in the trace of the write, and linked to it.
#[must_use]
pub fn process(carried: &str) -> TraceSpan {
    let Some(parent) = sampled_parent(carried) else { return TraceSpan::default() };
    let mut span = TraceSpan::under(&parent, PROCESS, &SpanKind::Consumer, None);
    describe_message(&mut span, "process", "process");
    span.link(&parent);
    span
}

/// The same, of a replica that is behind: many commands at once, in a trace of its own, with links to them.
#[must_use]
pub fn catch_up() -> TraceSpan {
    let mut span = TraceSpan::root(PROCESS, &SpanKind::Consumer);
    describe_message(&mut span, "process", "process");
    span
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
    let mut span = TraceSpan::root("replay config.events", &SpanKind::Consumer);
    describe_message(&mut span, "replay", "process");
    span.set("config.head", i64::try_from(head).unwrap_or(i64::MAX));
    span
}

/// A command's message was handed to those who watch, since then: once, however many they are, and not where nobody does.
pub fn delivered(processing: &TraceSpan, since: SystemTime, watchers: usize) {
    let Some(parent) = processing.sampled_context().filter(|_| watchers > 0) else { return };
    let mut ends_now = TraceSpan::under(parent, "deliver config.watch", &SpanKind::Producer, Some(since));
    ends_now.set("messaging.system", "config_api");
    ends_now.set("messaging.operation.name", "deliver");
    ends_now.set("messaging.operation.type", "send");
    ends_now.set("messaging.destination.name", "config.watch");
    ends_now.set("config.watchers", count(watchers));
}

/// When something that is traced afterwards begins.
#[must_use]
pub fn now() -> SystemTime {
    time::now()
}

fn describe_message(span: &mut TraceSpan, operation: &'static str, of_type: &'static str) {
    span.set("messaging.system", "config_api");
    span.set("messaging.operation.name", operation);
    span.set("messaging.operation.type", of_type);
    span.set("messaging.destination.name", DESTINATION);
}

fn describe_statement(span: &mut TraceSpan, operation: &'static str, function: &'static str) {
    span.set("db.system.name", "postgresql");
    span.set("db.operation.name", operation);
    span.set("db.collection.name", "events");
    span.set("db.stored_procedure.name", function);
}

/// As OpenTelemetry has numbers.
#[must_use]
pub fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
