//! The events of the stream as bytes. Text of users stands only inside JSON, on one line: a line break would end an event.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use shared::position::PositionToken;

use super::Reset;

/// A change, or an item of the state as it was at first: `{"name":…,"version":…,"value":…}`, without a value
/// `{"name":…,"version":…,"deleted":true}`.
pub(super) fn write_item(json: &mut Vec<u8>, name: &str, version: u64, value: Option<&str>) {
    json.extend_from_slice(b"{\"name\":");
    serde_json::to_writer(&mut *json, name).expect("a text is JSON");
    json.extend_from_slice(b",\"version\":");
    serde_json::to_writer(&mut *json, &version).expect("a number is JSON");
    match value {
        Some(value) => {
            json.extend_from_slice(b",\"value\":");
            // A line break can only stand between a value's tokens, where it is as good as a blank.
            json.extend(value.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        }
        None => json.extend_from_slice(b",\"deleted\":true"),
    }
    json.push(b'}');
}

/// Everything up to this position that the watcher takes was sent.
pub(super) fn bookmark(token: PositionToken) -> Bytes {
    format!("id: {token}\nevent: bookmark\ndata: {{\"position\":{}}}\n\n", token.position).into()
}

/// An item of the state at first. It has no `id`: whoever loses the stream before its end begins anew.
pub(super) fn write_initial(frames: &mut Vec<u8>, name: &str, version: u64, value: &str) {
    frames.extend_from_slice(b"event: initial\ndata: ");
    write_item(frames, name, version, Some(value));
    frames.extend_from_slice(b"\n\n");
}

/// The state was sent, as it was at this position.
pub(super) fn initial_end(token: PositionToken, configurations: u64) -> Bytes {
    let data = json!({ "position": token.position, "configurations": configurations });
    format!("id: {token}\nevent: initial-end\ndata: {data}\n\n").into()
}

/// How long a client waits before it comes back, should the connection break.
pub(super) fn hello(retry: Duration) -> Bytes {
    format!("retry: {}\n\n", retry.as_millis()).into()
}

/// The last event of a stream. After a rewrite what the client remembers is worth nothing: an empty `id` forgets it.
pub(super) fn reset(reset: Reset, retry: Duration) -> Bytes {
    let data = json!({ "reason": reset.word(), "detail": reset.detail() });
    let forget = if reset == Reset::Rewritten { "id:\n" } else { "" };
    format!("{forget}retry: {}\nevent: reset\ndata: {data}\n\n", retry.as_millis()).into()
}
