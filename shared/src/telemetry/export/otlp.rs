//! What a collector is sent and what it answers, as OTLP has it: `ExportTraceServiceRequest` around spans whose bytes are there
//! already, attributes, and what of the answer says that some were not taken.
//! Source: opentelemetry-proto 1.10, `collector/trace/v1`, `trace/v1` and `common/v1`.

use opentelemetry_sdk::Resource;

use super::protobuf::{Field, Message, bytes_length, fields, number_length};

/// Who sends, and by what: the same in each export.
#[derive(Clone, Debug, Default)]
pub(in crate::telemetry) struct Origin {
    resource: Vec<u8>,
    scope: Vec<u8>,
    /// Where the meaning of names stands.
    schema: &'static str,
}

impl Origin {
    pub(in crate::telemetry) fn new(process: &Resource, (name, version): (&str, &str), schema: &'static str) -> Self {
        let mut origin = Self { schema, ..Self::default() };
        let mut resource = Message::new(&mut origin.resource);
        for (key, value) in process {
            // All that the variables and we say of a process is text.
            write_attribute(&mut resource, 1, key.as_str(), Attribute::Text(&value.as_str()));
        }
        let mut scope = Message::new(&mut origin.scope);
        scope.bytes(1, name.as_bytes());
        scope.bytes(2, version.as_bytes());
        origin
    }

    /// The body of an export.
    pub(super) fn request(&self, spans: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024 + spans.iter().map(|span| span.len() + 8).sum::<usize>());
        Message::new(&mut bytes).message(1, |of_resource| {
            of_resource.one_of_bytes(1, &self.resource);
            of_resource.message(2, |of_scope| {
                of_scope.one_of_bytes(1, &self.scope);
                for span in spans {
                    of_scope.one_of_bytes(2, span);
                }
                of_scope.bytes(3, self.schema.as_bytes());
            });
        });
        bytes
    }
}

/// A value that is said of a span or of an event of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute<'a> {
    /// A text.
    Text(&'a str),
    /// A whole number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl<'a> From<&'a str> for Attribute<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Attribute<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Attribute<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// A `KeyValue` in that field, which is below 16.
pub(super) fn write_attribute(message: &mut Message<'_>, field: u8, key: &str, value: Attribute<'_>) {
    let key = key.as_bytes();
    let length = match value {
        Attribute::Text(text) if message.short_pair(field, key, text.as_bytes()) => return,
        Attribute::Text(text) => bytes_length(text.len()),
        Attribute::Number(number) => number_length(number.cast_unsigned()),
        Attribute::Flag(flag) => number_length(flag.into()),
    };
    message.sized(field.into(), bytes_length(key.len()) + bytes_length(length), |message| {
        message.one_of_bytes(1, key);
        message.sized(2, length, |message| match value {
            Attribute::Text(text) => message.one_of_bytes(1, text.as_bytes()),
            Attribute::Flag(flag) => message.one_of_number(2, flag.into()),
            Attribute::Number(number) => message.one_of_number(3, number.cast_unsigned()),
        });
    });
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
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use opentelemetry::{
        InstrumentationScope, KeyValue, Value,
        trace::{Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
    };
    use opentelemetry_proto::{
        tonic::collector::trace::v1::{
            ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        },
        transform::trace::tonic::group_spans_by_resource_and_scope,
    };
    use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
    use proptest::{collection::vec, prelude::*};
    use prost::Message as _;

    use super::{
        super::record::{SpanLimits, SpanRecord},
        *,
    };

    const SCHEMA: &str = "https://schema";

    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![".{0,8}", ".{120,140}"]
    }

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            texts().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            prop_oneof![any::<i64>(), 0..200_i64].prop_map(Value::from),
        ]
    }

    fn of_value(value: &Value) -> Attribute<'_> {
        match value {
            Value::String(text) => text.as_str().into(),
            Value::Bool(flag) => (*flag).into(),
            Value::I64(number) => (*number).into(),
            other => panic!("{other} is not made"),
        }
    }

    fn key_values() -> impl Strategy<Value = Vec<KeyValue>> {
        vec((texts(), values()).prop_map(|(key, value)| KeyValue::new(key, value)), 0..4)
    }

    fn contexts() -> impl Strategy<Value = SpanContext> {
        let states = prop_oneof![Just(TraceState::NONE), Just("a=1,b=2".parse().unwrap())];
        (1..u128::MAX, 1..u64::MAX, any::<u8>(), any::<bool>(), states).prop_map(
            |(trace, span, flags, remote, state)| {
                SpanContext::new(TraceId::from(trace), SpanId::from(span), TraceFlags::new(flags), remote, state)
            },
        )
    }

    fn moments() -> impl Strategy<Value = SystemTime> {
        (0..4_000_000_000_000_000_000_u64).prop_map(|nanos| UNIX_EPOCH + Duration::from_nanos(nanos))
    }

    /// What is said of a span.
    #[derive(Clone, Debug)]
    struct Said {
        context: SpanContext,
        parent: Option<SpanContext>,
        kind: SpanKind,
        name: String,
        start: SystemTime,
        end: SystemTime,
        attributes: Vec<KeyValue>,
        events: Vec<(String, SystemTime, Vec<KeyValue>)>,
        links: Vec<SpanContext>,
        failed: bool,
    }

    fn said() -> impl Strategy<Value = Said> {
        let kinds = prop_oneof![
            Just(SpanKind::Internal),
            Just(SpanKind::Server),
            Just(SpanKind::Client),
            Just(SpanKind::Producer),
            Just(SpanKind::Consumer)
        ];
        let events = vec((texts(), moments(), key_values()), 0..4);
        let rest = (key_values(), events, vec(contexts(), 0..4), any::<bool>());
        (contexts(), prop::option::of(contexts()), kinds, texts(), moments(), moments(), rest).prop_map(
            |(context, parent, kind, name, start, end, (attributes, events, links, failed))| Said {
                context,
                parent,
                kind,
                name,
                start,
                end,
                attributes,
                events,
                links,
                failed,
            },
        )
    }

    const LIMITS: SpanLimits = SpanLimits { attributes: 2, events: 2, links: 2 };

    /// As it is recorded here.
    fn recorded(said: &Said) -> Vec<u8> {
        let named = (&said.kind, said.name.as_str());
        let mut record = SpanRecord::begin(&said.context, said.parent.as_ref(), named, said.start, LIMITS);
        let mut linked = said.links.iter();
        for KeyValue { key, value, .. } in &said.attributes {
            record.attribute(key.as_str(), of_value(value));
            linked.next().map(|other| record.link(other));
        }
        for (name, at, attributes) in &said.events {
            let said: Vec<_> = attributes.iter().map(|said| (said.key.as_str(), of_value(&said.value))).collect();
            record.event(name, *at, &said);
        }
        if said.failed {
            record.fail();
        }
        for other in linked {
            record.link(other);
        }
        record.end(said.end)
    }

    /// As the library would have it.
    fn of_library(said: Said, scope: &InstrumentationScope) -> SpanData {
        let dropped = |number: usize| u32::try_from(number.saturating_sub(2)).unwrap();
        let (mut events, mut links) = (SpanEvents::default(), SpanLinks::default());
        (events.dropped_count, links.dropped_count) = (dropped(said.events.len()), dropped(said.links.len()));
        let event = |(name, at, attributes)| Event::new(name, at, attributes, 0);
        events.events = said.events.into_iter().take(2).map(event).collect();
        links.links = said.links.into_iter().take(2).map(Link::with_context).collect();
        SpanData {
            span_context: said.context,
            parent_span_id: said.parent.as_ref().map_or(SpanId::INVALID, SpanContext::span_id),
            parent_span_is_remote: said.parent.is_some_and(|parent| parent.is_remote()),
            span_kind: said.kind,
            name: said.name.into(),
            start_time: said.start,
            end_time: said.end,
            dropped_attributes_count: dropped(said.attributes.len()),
            attributes: said.attributes.into_iter().take(2).collect(),
            events,
            links,
            status: if said.failed { Status::error("") } else { Status::Unset },
            instrumentation_scope: scope.clone(),
        }
    }

    proptest! {
        #[test]
        fn a_collector_reads_what_the_librarys_exporter_would_have_sent(
            said in vec(said(), 1..4),
            of_process in vec((texts(), texts()).prop_map(|(key, value)| KeyValue::new(key, value)), 0..4),
        ) {
            let process = Resource::builder_empty().with_attributes(of_process).build();
            let spans: Vec<_> = said.iter().map(recorded).collect();
            let body = Origin::new(&process, ("scope", "1.2"), SCHEMA).request(&spans);
            let mut sent = ExportTraceServiceRequest::decode(&*body).unwrap();
            for span in sent.resource_spans.iter_mut().flat_map(|sent| &mut sent.scope_spans).flat_map(|sent| &mut sent.spans) {
                // The library says by an empty one that there is none.
                span.status.get_or_insert_default();
            }
            let scope = InstrumentationScope::builder("scope").with_version("1.2").with_schema_url(SCHEMA).build();
            let spans = said.into_iter().map(|said| of_library(said, &scope)).collect();
            let resource_spans = group_spans_by_resource_and_scope(spans, &(&process).into());
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
