//! Spans as OTLP has them: `ExportTraceServiceRequest`, written straight from the library's spans, and what of the answer says
//! that some were not taken.
//!
//! The library's own exporter takes eight times as long for it, most of what a trace cost a write (ADR 22); a property holds
//! that both mean the same.
//! Source: opentelemetry-proto 1.10, `collector/trace/v1`, `trace/v1` and `common/v1`.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::{
    Array, InstrumentationScope, KeyValue, Value,
    trace::{SpanContext, SpanId, SpanKind, Status},
};
use opentelemetry_sdk::{Resource, trace::SpanData};

use super::protobuf::{Field, Message, fields};

/// About what a span has, in bytes.
const SPAN_BYTES: usize = 512;

/// Flags of a span or link: that the next says something; that the context came from another process.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// The body of an export.
pub(super) fn request(resource: &Resource, spans: &[SpanData]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(spans.len() * SPAN_BYTES);
    Message::new(&mut bytes).message(1, |of_resource| {
        of_resource.message(1, |message| {
            for (key, value) in resource {
                write_attribute(message, 1, key.as_str(), value);
            }
        });
        for of_scope in spans.chunk_by(|one, next| one.instrumentation_scope == next.instrumentation_scope) {
            of_resource.message(2, |message| {
                let scope = &of_scope[0].instrumentation_scope;
                message.message(1, |message| write_scope(message, scope));
                for span in of_scope {
                    message.message(2, |message| write_span(message, span));
                }
                message.bytes(3, scope.schema_url().unwrap_or_default().as_bytes());
            });
        }
        of_resource.bytes(3, resource.schema_url().unwrap_or_default().as_bytes());
    });
    bytes
}

fn write_scope(message: &mut Message<'_>, scope: &InstrumentationScope) {
    message.bytes(1, scope.name().as_bytes());
    message.bytes(2, scope.version().unwrap_or_default().as_bytes());
    write_attributes(message, 3, scope.attributes());
}

fn write_span(message: &mut Message<'_>, span: &SpanData) {
    write_context(message, &span.span_context);
    if span.parent_span_id != SpanId::INVALID {
        message.bytes(4, &span.parent_span_id.to_bytes());
    }
    message.bytes(5, span.name.as_bytes());
    message.number(6, kind(&span.span_kind));
    message.fixed64(7, nanoseconds(span.start_time));
    message.fixed64(8, nanoseconds(span.end_time));
    write_attributes(message, 9, &span.attributes);
    message.number(10, span.dropped_attributes_count.into());
    for event in span.events.iter() {
        message.message(11, |message| {
            message.fixed64(1, nanoseconds(event.timestamp));
            message.bytes(2, event.name.as_bytes());
            write_attributes(message, 3, &event.attributes);
            message.number(4, event.dropped_attributes_count.into());
        });
    }
    message.number(12, span.events.dropped_count.into());
    for link in span.links.iter() {
        message.message(13, |message| {
            write_context(message, &link.span_context);
            write_attributes(message, 4, &link.attributes);
            message.number(5, link.dropped_attributes_count.into());
            message.fixed32(6, flags(&link.span_context, link.span_context.is_remote()));
        });
    }
    message.number(14, span.links.dropped_count.into());
    message.message(15, |message| match &span.status {
        Status::Unset => {}
        Status::Ok => message.number(3, 1),
        Status::Error { description } => {
            message.bytes(2, description.as_bytes());
            message.number(3, 2);
        }
    });
    message.fixed32(16, flags(&span.span_context, span.parent_span_is_remote));
}

/// The first three fields of a span and of a link.
fn write_context(message: &mut Message<'_>, of: &SpanContext) {
    message.bytes(1, &of.trace_id().to_bytes());
    message.bytes(2, &of.span_id().to_bytes());
    message.bytes(3, of.trace_state().header().as_bytes());
}

fn flags(of: &SpanContext, is_remote: bool) -> u32 {
    u32::from(of.trace_flags().to_u8()) | HAS_IS_REMOTE | if is_remote { IS_REMOTE } else { 0 }
}

fn kind(of: &SpanKind) -> u64 {
    match of {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

/// Since 1970; 0 before it.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn write_attributes<'a>(message: &mut Message<'_>, field: u64, all: impl IntoIterator<Item = &'a KeyValue>) {
    for KeyValue { key, value, .. } in all {
        write_attribute(message, field, key.as_str(), value);
    }
}

fn write_attribute(message: &mut Message<'_>, field: u64, key: &str, value: &Value) {
    message.message(field, |message| {
        message.bytes(1, key.as_bytes());
        message.message(2, |message| write_value(message, value));
    });
}

fn write_value(message: &mut Message<'_>, value: &Value) {
    match value {
        Value::String(text) => message.one_of_bytes(1, text.as_str().as_bytes()),
        Value::Bool(bool) => message.one_of_number(2, u64::from(*bool)),
        Value::I64(number) => message.one_of_number(3, number.cast_unsigned()),
        Value::F64(number) => message.one_of_fixed64(4, number.to_bits()),
        Value::Array(array) => message.message(5, |message| match array {
            Array::Bool(all) => write_elements(message, all),
            Array::I64(all) => write_elements(message, all),
            Array::F64(all) => write_elements(message, all),
            Array::String(all) => write_elements(message, all),
            // Nothing of ours makes what the library may have some day.
            _ => {}
        }),
        _ => {}
    }
}

fn write_elements<T: Clone + Into<Value>>(message: &mut Message<'_>, all: &[T]) {
    for element in all {
        message.message(1, |message| write_value(message, &element.clone().into()));
    }
}

/// How many spans the answer to an export says were not taken, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) spans: u64,
    pub(super) why: String,
}

/// Of the body of an answer, `ExportTraceServiceResponse`; none when it is something else.
pub(super) fn rejected(answer: &[u8]) -> Rejected {
    let mut rejected = Rejected::default();
    for partial in fields(answer) {
        let (1, Field::Bytes(partial)) = partial else { continue };
        for field in fields(partial) {
            match field {
                (1, Field::Number(spans)) => rejected.spans = spans,
                (2, Field::Bytes(why)) => rejected.why = String::from_utf8_lossy(why).into_owned(),
                _ => {}
            }
        }
    }
    rejected
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, time::Duration};

    use opentelemetry::{
        StringValue,
        trace::{Event, Link, TraceFlags, TraceId, TraceState},
    };
    use opentelemetry_proto::{
        tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
        transform::trace::tonic::group_spans_by_resource_and_scope,
    };
    use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};
    use proptest::{collection::vec, prelude::*};
    use prost::Message as _;

    use super::*;

    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![".{0,8}", ".{120,140}"]
    }

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            texts().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            vec(any::<bool>(), 0..3).prop_map(|all| Value::Array(all.into())),
            vec(any::<i64>(), 0..3).prop_map(|all| Value::Array(all.into())),
            vec(any::<f64>(), 0..3).prop_map(|all| Value::Array(all.into())),
            vec(texts().prop_map(StringValue::from), 0..3).prop_map(|all| Value::Array(all.into())),
        ]
    }

    fn key_values() -> impl Strategy<Value = Vec<KeyValue>> {
        vec((texts(), values()).prop_map(|(key, value)| KeyValue::new(key, value)), 0..4)
    }

    fn contexts() -> impl Strategy<Value = SpanContext> {
        let states = prop_oneof![Just(TraceState::NONE), Just("a=1,b=2".parse().unwrap())];
        (any::<u128>(), any::<u64>(), any::<u8>(), any::<bool>(), states).prop_map(|(trace, span, flags, remote, state)| {
            SpanContext::new(TraceId::from(trace), SpanId::from(span), TraceFlags::new(flags), remote, state)
        })
    }

    fn moments() -> impl Strategy<Value = SystemTime> {
        (0..4_000_000_000_000_000_000_u64).prop_map(|nanos| UNIX_EPOCH + Duration::from_nanos(nanos))
    }

    fn events() -> impl Strategy<Value = SpanEvents> {
        let event = (texts(), moments(), key_values(), any::<u32>())
            .prop_map(|(name, at, attributes, dropped)| Event::new(name, at, attributes, dropped));
        (vec(event, 0..3), any::<u32>()).prop_map(|(events, dropped_count)| {
            let mut of_span = SpanEvents::default();
            (of_span.events, of_span.dropped_count) = (events, dropped_count);
            of_span
        })
    }

    fn links() -> impl Strategy<Value = SpanLinks> {
        let link = (contexts(), key_values(), any::<u32>())
            .prop_map(|(context, attributes, dropped)| Link::new(context, attributes, dropped));
        (vec(link, 0..3), any::<u32>()).prop_map(|(links, dropped_count)| {
            let mut of_span = SpanLinks::default();
            (of_span.links, of_span.dropped_count) = (links, dropped_count);
            of_span
        })
    }

    fn spans() -> impl Strategy<Value = SpanData> {
        let kinds = prop_oneof![
            Just(SpanKind::Internal),
            Just(SpanKind::Server),
            Just(SpanKind::Client),
            Just(SpanKind::Producer),
            Just(SpanKind::Consumer)
        ];
        let statuses = prop_oneof![Just(Status::Unset), Just(Status::Ok), texts().prop_map(Status::error)];
        let parents = (any::<u64>().prop_map(SpanId::from), any::<bool>());
        let rest = (key_values(), any::<u32>(), events(), links(), statuses);
        (contexts(), parents, kinds, texts(), moments(), moments(), rest).prop_map(
            |(span_context, (parent_span_id, parent_span_is_remote), span_kind, name, start_time, end_time, rest)| {
                let (attributes, dropped_attributes_count, events, links, status) = rest;
                let instrumentation_scope = InstrumentationScope::builder("scope")
                    .with_version("1.2")
                    .with_schema_url("https://schema")
                    .with_attributes([KeyValue::new("a", 1)])
                    .build();
                SpanData {
                    span_context,
                    parent_span_id,
                    parent_span_is_remote,
                    span_kind,
                    name: Cow::Owned(name),
                    start_time,
                    end_time,
                    attributes,
                    dropped_attributes_count,
                    events,
                    links,
                    status,
                    instrumentation_scope,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_collector_reads_what_the_librarys_exporter_would_have_sent(
            spans in vec(spans(), 1..4),
            of_process in key_values(),
        ) {
            let resource = Resource::builder_empty().with_attributes(of_process).build();
            let sent = ExportTraceServiceRequest::decode(&*request(&resource, &spans)).unwrap();
            let resource_spans = group_spans_by_resource_and_scope(spans, &(&resource).into());
            prop_assert_eq!(sent, ExportTraceServiceRequest { resource_spans });
        }

        #[test]
        fn what_was_not_taken_is_read(spans in any::<u32>(), why in texts()) {
            let partial_success = ExportTracePartialSuccess { rejected_spans: spans.into(), error_message: why.clone() };
            let answer = ExportTraceServiceResponse { partial_success: Some(partial_success) }.encode_to_vec();
            prop_assert_eq!(rejected(&answer), Rejected { spans: spans.into(), why });
        }
    }

    #[test]
    fn an_answer_without_a_word_rejects_nothing() {
        for answer in [&b""[..], b"{}", b"<html>", &[0xFF; 20]] {
            assert_eq!(rejected(answer), Rejected::default(), "{answer:?}");
        }
    }
}
