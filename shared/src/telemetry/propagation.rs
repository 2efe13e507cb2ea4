//! W3C trace context: as it comes in headers, goes out in them, and travels in an event's metadata.

use axum::http::{HeaderMap, HeaderName};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use crate::{
    digits::Digits,
    event::{Metadata, metadata as keys},
};

/// Longest trace state that is taken over, in bytes; W3C asks for 512 at least.
pub const MAX_TRACESTATE_BYTES: usize = 512;

const TRACEPARENT: HeaderName = HeaderName::from_static(keys::TRACEPARENT);
const TRACESTATE: HeaderName = HeaderName::from_static(keys::TRACESTATE);

/// Flags that are passed on: sampled, and random of level 2. Others shall be zero.
const KNOWN_FLAGS: u8 = 0b11;

/// Length of a `traceparent` of version 00, in bytes.
const TRACEPARENT_BYTES: usize = 55;

/// The span that a request's headers name; `None` without them, and when they are malformed, which is ignored, as the
/// specification asks.
#[must_use]
pub fn of_headers(headers: &HeaderMap) -> Option<SpanContext> {
    let parent = headers.get(TRACEPARENT)?.to_str().ok()?;
    // A list may come in several headers.
    let mut states = headers.get_all(TRACESTATE).iter().filter_map(|state| state.to_str().ok());
    match (states.next(), states.next()) {
        (Some(first), Some(second)) => {
            let all: Vec<_> = [first, second].into_iter().chain(states).collect();
            parse(parent, Some(&all.join(",")))
        }
        (only, _) => parse(parent, only),
    }
}

/// The span that a `traceparent`, and a `tracestate` if there is one, name. A malformed trace state is left out.
#[must_use]
pub(super) fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let (head, more) = traceparent.as_bytes().split_first_chunk::<TRACEPARENT_BYTES>()?;
    let ([version], [flags]) = (of_hex(&head[..2])?, of_hex(&head[53..])?);
    let (trace, span) = (of_hex(&head[3..35])?, of_hex(&head[36..52])?);
    let is_separated = [head[2], head[35], head[52]] == [b'-'; 3];
    // A later version may have more behind it.
    if !is_separated
        || version == 0xFF
        || (version == 0 && !more.is_empty())
        || more.first().is_some_and(|next| *next != b'-')
    {
        return None;
    }
    let (trace, span, flags) =
        (TraceId::from_bytes(trace), SpanId::from_bytes(span), TraceFlags::new(flags & KNOWN_FLAGS));
    let state = tracestate.filter(|state| state.len() <= MAX_TRACESTATE_BYTES).and_then(|state| state.parse().ok());
    let context = SpanContext::new(trace, span, flags, true, state.unwrap_or(TraceState::NONE));
    context.is_valid().then_some(context)
}

/// Of lower-case digits, two for each byte.
fn of_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

/// `00-<trace>-<span>-<flags>`: what `traceparent` says to whoever is called, and `traceresponse` to whoever called.
pub(super) fn text(context: &SpanContext) -> Digits<TRACEPARENT_BYTES> {
    let text = Digits::new().hexadecimal(&[context.trace_flags().to_u8()]).before(b'-');
    let text = text.hexadecimal(&context.span_id().to_bytes()).before(b'-');
    text.hexadecimal(&context.trace_id().to_bytes()).before(b'-').hexadecimal(&[0])
}

/// A trace's id, as lines and problems tell it.
pub(super) fn trace_id(of: &SpanContext) -> Digits<32> {
    Digits::new().hexadecimal(&of.trace_id().to_bytes())
}

/// Puts the span's context into an event's metadata, in place of what is there.
pub fn carry(context: &SpanContext, metadata: &mut Metadata) {
    metadata.insert(keys::TRACEPARENT.to_owned(), text(context).as_str().to_owned());
    let state = context.trace_state().header();
    // An empty one says nothing, and would be passed on for ever.
    if state.is_empty() {
        metadata.remove(keys::TRACESTATE);
    } else {
        metadata.insert(keys::TRACESTATE.to_owned(), state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_well_formed_parent_reads_back_as_it_was_sent() {
        for parent in [PARENT, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"] {
            let context = parse(parent, None).unwrap();
            assert_eq!((text(&context).as_str(), context.is_remote()), (parent, true));
        }
        let flags = |flags: &str| parse(&format!("{}{flags}", &PARENT[..53]), None).unwrap().trace_flags().to_u8();
        assert_eq!((flags("03"), flags("ff"), flags("fc")), (3, 3, 0), "what is not known is left out");
        let later = parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", None).unwrap();
        assert_eq!(text(&later).as_str(), PARENT, "what is not known of a later version is left out");
    }

    #[test]
    fn a_malformed_parent_is_ignored() {
        for malformed in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47361-0f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert!(parse(malformed, None).is_none(), "{malformed:?}");
        }
    }

    #[test]
    fn a_trace_state_may_come_in_several_headers() {
        let mut headers = HeaderMap::from_iter([(TRACEPARENT, PARENT.parse().unwrap())]);
        for (state, all) in [("a=1", "a=1"), ("b=2", "a=1,b=2"), ("c=3", "a=1,b=2,c=3")] {
            headers.append(TRACESTATE, state.parse().unwrap());
            assert_eq!(of_headers(&headers).unwrap().trace_state().header(), all);
        }
    }

    #[test]
    fn a_trace_state_travels_with_its_parent_and_an_empty_or_wrong_one_does_not() {
        let carried = |state: Option<&str>| {
            let mut metadata = Metadata::from([(keys::TRACESTATE.to_owned(), "old=1".to_owned())]);
            carry(&parse(PARENT, state).unwrap(), &mut metadata);
            (metadata.remove(keys::TRACEPARENT), metadata.remove(keys::TRACESTATE))
        };
        let long = format!("a={}", "x".repeat(MAX_TRACESTATE_BYTES));
        for (state, kept) in [(None, None), (Some(""), None), (Some("no pair"), None), (Some(long.as_str()), None)] {
            assert_eq!(carried(state), (Some(PARENT.to_owned()), kept), "{state:?}");
        }
        assert_eq!(carried(Some("a=1,b=2")).1.as_deref(), Some("a=1,b=2"));
    }
}
