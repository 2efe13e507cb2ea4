//! A list as it is sent: piece by piece, so that a million names never stand in one buffer.

use std::{iter, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use shared::{name::ConfigName, value::Json};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::selection::Selection;

/// What is put together before it is sent, in bytes; a list that fits is sent whole. One value may exceed it.
const CHUNK_BYTES: usize = 64 * 1024;

/// Longest that a long list may take to be sent; it is cut off then, and its snapshot let go.
const LIST_LIMIT: Duration = Duration::from_secs(300);

/// A client reads so slowly that its list is cut off.
#[derive(Debug, thiserror::Error)]
#[error("a list was not read to its end within {} s", LIST_LIMIT.as_secs())]
struct TooSlow;

/// What is told of each entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    NameAndValue,
    Name,
}

#[derive(Serialize)]
struct Item<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Json<'a>>,
}

/// Writes a list piece by piece. It keeps its snapshot alive until it is dropped.
pub(super) struct Writer {
    of: Selection,
    fields: Fields,
    /// The last name written, or the one to begin behind.
    after: Option<ConfigName>,
    written: usize,
    done: bool,
    /// Its place among the long lists under way.
    place: Option<OwnedSemaphorePermit>,
}

impl Writer {
    pub(super) fn new(of: Selection, fields: Fields) -> Self {
        let after = of.after.clone();
        Self { of, fields, after, written: 0, done: false, place: None }
    }

    /// The body. What does not fit into one piece is written as the client reads; for that it takes a place.
    ///
    /// # Errors
    /// When there is no place.
    pub(super) fn body<E>(mut self, place: impl FnOnce() -> Result<OwnedSemaphorePermit, E>) -> Result<Body, E> {
        let first = self.chunk();
        if self.done {
            return Ok(Body::from(first));
        }
        self.place = Some(place()?);
        let until = Instant::now() + LIST_LIMIT;
        let rest = iter::from_fn(move || {
            if self.done {
                return None;
            }
            self.done = Instant::now() > until;
            Some(if self.done { Err(TooSlow) } else { Ok(self.chunk()) })
        });
        Ok(Body::from_stream(stream::iter(iter::once(Ok(first)).chain(rest))))
    }

    /// The next piece; `done` is set with the last one.
    fn chunk(&mut self) -> Bytes {
        let mut chunk = Vec::with_capacity(1024);
        let left = self.of.limit.map_or(usize::MAX, |limit| limit - self.written);
        let (mut last, mut full) = (None, false);
        for (name, entry) in self.of.behind(self.after.as_deref()).take(left) {
            full = chunk.len() >= CHUNK_BYTES;
            if full {
                break;
            }
            chunk.push(if self.written == 0 { b'[' } else { b',' });
            let value = (self.fields == Fields::NameAndValue).then(|| entry.value());
            serde_json::to_writer(&mut chunk, &Item { name, value }).expect("texts and values are JSON");
            self.written += 1;
            last = Some(name);
        }
        if full {
            self.after = last.map(ConfigName::stored);
            return chunk.into();
        }
        if self.written == 0 {
            chunk.push(b'[');
        }
        chunk.push(b']');
        self.done = true;
        chunk.into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::StreamExt;
    use tokio::sync::Semaphore;

    use super::{super::super::states::state_of, *};
    use crate::projection::Snapshot;

    fn written(of: Selection, fields: Fields) -> (String, usize) {
        let mut writer = Writer::new(of, fields);
        let (mut text, mut chunks) = (String::new(), 0);
        while !writer.done {
            text.push_str(std::str::from_utf8(&writer.chunk()).unwrap());
            chunks += 1;
        }
        (text, chunks)
    }

    fn all(snapshot: Snapshot, prefix: &str) -> Selection {
        Selection { snapshot: Arc::new(snapshot), prefix: prefix.to_owned(), after: None, limit: None }
    }

    fn listed(values: &[(&str, &str)], prefix: &str) -> (String, usize) {
        written(all(state_of(values), prefix), Fields::NameAndValue)
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
        let names = written(all(state_of(&values), ""), Fields::Name).0;
        assert_eq!(names, r#"[{"name":"B"},{"name":"a\"\\"},{"name":"b"},{"name":"é"}]"#);
    }

    #[test]
    fn a_prefix_selects_names_that_begin_with_it() {
        let values = [("a", "1"), ("a/b", "2"), ("a/b/c", "3"), ("a0", "4"), ("b", "5")];
        assert_eq!(listed(&values, "a/b").0, r#"[{"name":"a/b","value":2},{"name":"a/b/c","value":3}]"#);
        assert_eq!(listed(&values, "x").0, "[]");
        assert_eq!(listed(&[], "").0, "[]");
    }

    #[test]
    fn a_page_begins_and_ends_where_it_is_told() {
        let state = state_of(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
        let page = |after: Option<&str>, limit| {
            let after = after.map(ConfigName::stored);
            written(Selection { after, limit, ..all(state.clone(), "") }, Fields::Name).0
        };
        assert_eq!(page(None, Some(2)), r#"[{"name":"a"},{"name":"b"}]"#);
        assert_eq!(page(Some("b"), Some(2)), r#"[{"name":"c"},{"name":"d"}]"#);
        assert_eq!(page(Some("bb"), None), r#"[{"name":"c"},{"name":"d"}]"#);
        assert_eq!(page(Some("d"), Some(2)), "[]");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_not_read_in_time_is_cut_off_and_its_state_let_go() {
        let value = format!("\"{}\"", "x".repeat(CHUNK_BYTES));
        let state = Arc::new(state_of(&["a", "b", "c", "d"].map(|name| (name, value.as_str()))));
        let of = Selection { snapshot: Arc::clone(&state), prefix: String::new(), after: None, limit: None };
        let places = Arc::new(Semaphore::new(1));
        let place = || Arc::clone(&places).try_acquire_owned();
        let mut body = Writer::new(of, Fields::NameAndValue).body(place).unwrap().into_data_stream();
        assert!(body.next().await.unwrap().is_ok());
        tokio::time::advance(LIST_LIMIT).await;
        assert!(body.next().await.unwrap().is_ok(), "it is still in time");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(body.next().await.unwrap().unwrap_err().to_string().contains("not read to its end within 300 s"));
        assert!(body.next().await.is_none());
        drop(body);
        assert_eq!((Arc::strong_count(&state), places.available_permits()), (1, 1));
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
        let page =
            Selection { after: Some(ConfigName::stored("name009")), limit: Some(50), ..all(state_of(&values), "") };
        let (text, chunks) = written(page, Fields::NameAndValue);
        assert!(chunks > 2, "{chunks}");
        let items: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert_eq!((items.len(), &items[0]["name"], &items[49]["name"]), (50, &"name010".into(), &"name059".into()));
    }
}
