//! `GET /v1/config`: every configuration, by name; one consistent state, whatever is written while it is sent.

use std::{iter, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use shared::{
    http::{parameters::Parameters, problem::Problem},
    name::ConfigName,
    value::Json,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{Reads, error::ReadError, list_at, reads::MIN_POSITION, value::REVALIDATE};
use crate::projection::Snapshot;

const PREFIX: &str = "prefix";

/// What is put together before it is sent, in bytes; a list that fits is sent whole. One value may exceed it.
const CHUNK_BYTES: usize = 64 * 1024;

/// Longest that a long list may take to be sent; it is cut off then, and its snapshot let go.
const LIST_LIMIT: Duration = Duration::from_secs(300);

/// A client reads so slowly that its list is cut off.
#[derive(Debug, thiserror::Error)]
#[error("a list was not read to its end within {} s", LIST_LIMIT.as_secs())]
struct TooSlow;

#[derive(Serialize)]
struct Item<'a> {
    name: &'a str,
    value: Json<'a>,
}

pub(super) async fn handle(State(reads): State<Arc<Reads>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let parameters = Parameters::of(&uri, &list_at::PARAMETERS)?;
    if parameters.get(list_at::AT).is_some() {
        return list_at::handle(&reads, &uri, &headers, &parameters).await;
    }
    let parameters = Parameters::of(&uri, &[PREFIX, MIN_POSITION])?;
    let view = reads.view(&headers, &parameters).await?;
    let prefix = parameters.get(PREFIX).unwrap_or_default();
    view.stamp(answer(&reads, Arc::clone(&view.snapshot), prefix))
}

fn answer(reads: &Reads, snapshot: Arc<Snapshot>, prefix: &str) -> Result<Response, ReadError> {
    let mut writer = Writer { snapshot, prefix: prefix.to_owned(), after: None, done: false, place: None };
    let first = writer.chunk();
    let body = if writer.done {
        Body::from(first)
    } else {
        let place = Arc::clone(&reads.long_lists).try_acquire_owned().map_err(|_| ReadError::TooManyLists)?;
        writer.place = Some(place);
        let until = Instant::now() + LIST_LIMIT;
        let rest = iter::from_fn(move || {
            if writer.done {
                return None;
            }
            writer.done = Instant::now() > until;
            Some(if writer.done { Err(TooSlow) } else { Ok(writer.chunk()) })
        });
        Body::from_stream(stream::iter(iter::once(Ok(first)).chain(rest)))
    };
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json), (header::CACHE_CONTROL, REVALIDATE)], body).into_response())
}

/// Writes a list piece by piece. It keeps its snapshot alive until it is dropped.
struct Writer {
    snapshot: Arc<Snapshot>,
    prefix: String,
    /// The last name written.
    after: Option<ConfigName>,
    done: bool,
    /// Its place among the long lists under way.
    place: Option<OwnedSemaphorePermit>,
}

impl Writer {
    /// The next piece; `done` is set with the last one.
    fn chunk(&mut self) -> Bytes {
        let mut chunk = Vec::with_capacity(1024);
        let mut last: Option<&str> = None;
        let mut full = false;
        for (name, entry) in self.snapshot.list(&self.prefix, self.after.as_deref()) {
            full = chunk.len() >= CHUNK_BYTES;
            if full {
                break;
            }
            chunk.push(if last.is_none() && self.after.is_none() { b'[' } else { b',' });
            let item = Item { name, value: entry.value() };
            serde_json::to_writer(&mut chunk, &item).expect("texts and values are JSON");
            last = Some(name);
        }
        if full {
            self.after = last.map(ConfigName::stored);
            return chunk.into();
        }
        if last.is_none() && self.after.is_none() {
            chunk.push(b'[');
        }
        chunk.push(b']');
        self.done = true;
        chunk.into()
    }
}

#[cfg(test)]
mod tests {
    use shared::{event::AGGREGATE_TYPE, position::Position};
    use uuid::Uuid;

    use super::*;
    use crate::projection::{Fold, Recorded};

    fn listed(values: &[(&str, &str)], prefix: &str) -> (String, usize) {
        let mut fold = Fold::default();
        for (position, (name, json)) in (1..).zip(values) {
            let event = Recorded {
                position: Position(position),
                aggregate_type: AGGREGATE_TYPE,
                aggregate_id: name,
                sequence: 1,
                event_type: "ConfigValueSet",
                event_version: "1.0",
                payload: &format!("{{\"value\":{json}}}"),
                metadata: "{}",
                recorded_at: "2024-01-15T10:30:00Z".parse().unwrap(),
                command_id: Uuid::from_u128(1),
            };
            fold.apply(&event).unwrap();
        }
        let snapshot = Arc::new(fold.snapshot());
        let mut writer = Writer { snapshot, prefix: prefix.to_owned(), after: None, done: false, place: None };
        let (mut text, mut chunks) = (String::new(), 0);
        while !writer.done {
            text.push_str(std::str::from_utf8(&writer.chunk()).unwrap());
            chunks += 1;
        }
        (text, chunks)
    }

    #[test]
    fn is_ordered_by_the_names_bytes_and_keeps_values_as_they_are() {
        let values =
            [("é", "1.10"), ("a\"\\", r#""x\ny""#), ("b", "12345678901234567890123"), ("B", r#"{"b": 1,"a":[ ]}"#)];
        let expected = concat!(
            r#"[{"name":"B","value":{"b": 1,"a":[ ]}},"#,
            r#"{"name":"a\"\\","value":"x\ny"},"#,
            r#"{"name":"b","value":12345678901234567890123},"#,
            r#"{"name":"é","value":1.10}]"#
        );
        assert_eq!(listed(&values, "").0, expected);
    }

    #[test]
    fn a_prefix_selects_names_that_begin_with_it() {
        let values = [("a", "1"), ("a/b", "2"), ("a/b/c", "3"), ("a0", "4"), ("b", "5")];
        assert_eq!(listed(&values, "a/b").0, r#"[{"name":"a/b","value":2},{"name":"a/b/c","value":3}]"#);
        assert_eq!(listed(&values, "x").0, "[]");
        assert_eq!(listed(&[], "").0, "[]");
    }

    #[test]
    fn a_long_list_is_written_in_pieces_that_fit_together() {
        let (names, value) =
            ((0..100).map(|n| format!("name{n:03}")).collect::<Vec<_>>(), format!("\"{}\"", "x".repeat(5_000)));
        let values: Vec<_> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
        let (text, chunks) = listed(&values, "");
        assert!(chunks > 5, "{chunks}");
        let items: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let told: Vec<_> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
        assert_eq!(told, names);
    }
}
