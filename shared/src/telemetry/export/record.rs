//! A span under way: its bytes, as OTLP has a `Span`, grow with each thing that is said of it. A field may stand in any place of
//! a message, so nothing is kept to be written at the end but what is known only then.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanKind};

use super::{
    otlp::{Attribute, write_attribute},
    protobuf::Message,
};

/// About what a span has at its end, in bytes.
const SPAN_BYTES: usize = 512;

/// Flags of a span or link: that the next says something; that the context came from another process.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// `STATUS_CODE_ERROR`.
const ERROR: u64 = 2;

/// Most attributes, events and links of a span; what is more is counted in it and not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry) struct SpanLimits {
    pub(in crate::telemetry) attributes: u32,
    pub(in crate::telemetry) events: u32,
    pub(in crate::telemetry) links: u32,
}

#[derive(Debug)]
pub(in crate::telemetry) struct SpanRecord {
    bytes: Vec<u8>,
    /// The last field.
    flags: u32,
    attributes: Room,
    events: Room,
    links: Room,
}

/// For things of one kind.
#[derive(Debug)]
struct Room {
    left: u32,
    dropped: u32,
}

impl Room {
    fn of(most: u32) -> Self {
        Self { left: most, dropped: 0 }
    }

    fn take(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => {
                self.dropped = self.dropped.saturating_add(1);
                false
            }
        }
    }
}

impl SpanRecord {
    pub(in crate::telemetry) fn begin(
        context: &SpanContext,
        parent: Option<&SpanContext>,
        (kind, name): (&SpanKind, &str),
        at: SystemTime,
        limits: SpanLimits,
    ) -> Self {
        let mut bytes = Vec::with_capacity(SPAN_BYTES);
        let mut message = Message::new(&mut bytes);
        write_context(&mut message, context);
        if let Some(parent) = parent {
            message.bytes(4, &parent.span_id().to_bytes());
        }
        message.bytes(5, name.as_bytes());
        message.number(6, number(kind));
        message.fixed64(7, nanoseconds(at));
        Self {
            bytes,
            flags: flags(context, parent.is_some_and(SpanContext::is_remote)),
            attributes: Room::of(limits.attributes),
            events: Room::of(limits.events),
            links: Room::of(limits.links),
        }
    }

    pub(in crate::telemetry) fn attribute(&mut self, key: &str, value: Attribute<'_>) {
        if self.attributes.take() {
            write_attribute(&mut Message::new(&mut self.bytes), 9, key, value);
        }
    }

    pub(in crate::telemetry) fn event(&mut self, name: &str, at: SystemTime, attributes: &[(&str, Attribute<'_>)]) {
        if self.events.take() {
            Message::new(&mut self.bytes).message(11, |message| {
                message.fixed64(1, nanoseconds(at));
                message.bytes(2, name.as_bytes());
                for (key, value) in attributes {
                    write_attribute(message, 3, key, *value);
                }
            });
        }
    }

    /// Whether there was room for it.
    pub(in crate::telemetry) fn link(&mut self, other: &SpanContext) -> bool {
        let has_room = self.links.take();
        if has_room {
            Message::new(&mut self.bytes).message(13, |message| {
                write_context(message, other);
                message.fixed32(6, flags(other, other.is_remote()));
            });
        }
        has_room
    }

    pub(in crate::telemetry) fn fail(&mut self) {
        Message::new(&mut self.bytes).message(15, |message| message.number(3, ERROR));
    }

    /// The whole span. It is over: what is said of it afterwards is nobody's.
    pub(in crate::telemetry) fn end(&mut self, at: SystemTime) -> Vec<u8> {
        let mut message = Message::new(&mut self.bytes);
        message.fixed64(8, nanoseconds(at));
        message.number(10, self.attributes.dropped.into());
        message.number(12, self.events.dropped.into());
        message.number(14, self.links.dropped.into());
        message.fixed32(16, self.flags);
        std::mem::take(&mut self.bytes)
    }
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

fn number(kind: &SpanKind) -> u64 {
    match kind {
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
