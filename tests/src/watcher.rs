//! A client of `GET /v1/watch`, which reads server-sent events as a browser does.

use reqwest::{Response, StatusCode, header::HeaderMap};
use serde_json::Value;

use crate::wait::PATIENCE;

/// A stream that is being read.
#[derive(Debug)]
pub struct Watcher {
    /// Of the answer.
    pub status: StatusCode,
    /// Of the answer.
    pub headers: HeaderMap,
    /// The last `id`: what a browser sends as `Last-Event-ID` when it comes back.
    pub last_id: Option<String>,
    /// The last `retry`, in milliseconds.
    pub retry: Option<u64>,
    response: Response,
    buffer: Vec<u8>,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its `id`, where it has one.
    pub id: Option<String>,
    /// Its type.
    pub event: String,
    /// Its data.
    pub data: Value,
}

impl Event {
    /// Where in the log it is.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.data["position"].as_u64().unwrap_or_default()
    }

    /// The changes as `name@version`.
    #[must_use]
    pub fn changes(&self) -> Vec<String> {
        let told = |change: &Value| format!("{}@{}", change["name"].as_str().unwrap_or("?"), change["version"]);
        self.data["changes"].as_array().map(|changes| changes.iter().map(told).collect()).unwrap_or_default()
    }
}

impl Watcher {
    pub(crate) fn new(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, last_id: None, retry: None, response, buffer: vec![] }
    }

    /// The next event; `None` when the stream has ended or broke.
    ///
    /// # Panics
    /// When there is none in time, or what comes is no event.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let Some(end) = self.buffer.windows(2).position(|bytes| bytes == b"\n\n") else {
                let piece = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
                self.buffer.extend_from_slice(&piece.expect("an event in time").ok()??);
                continue;
            };
            let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
            if let Some(event) = self.read(std::str::from_utf8(&block).expect("events are UTF-8")) {
                return Some(event);
            }
        }
    }

    /// The next event of this type, past bookmarks.
    ///
    /// # Panics
    /// When another comes, or none.
    pub async fn expect(&mut self, event: &str) -> Event {
        loop {
            let next = self.next().await.unwrap_or_else(|| panic!("the stream ended before an event {event}"));
            if next.event == event {
                return next;
            }
            assert_eq!(next.event, "bookmark", "before an event {event}: {next:?}");
        }
    }

    fn read(&mut self, block: &str) -> Option<Event> {
        let (mut id, mut event, mut data) = (None, "message".to_owned(), None);
        for line in block.lines().filter(|line| !line.is_empty()) {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => id = Some(value.to_owned()),
                "event" => value.clone_into(&mut event),
                "data" => assert!(data.replace(value.to_owned()).is_none(), "one line of data: {block}"),
                "retry" => self.retry = value.parse().ok(),
                other => panic!("no field {other:?}: {block}"),
            }
        }
        if let Some(id) = &id {
            self.last_id = Some(id.clone()).filter(|id| !id.is_empty());
        }
        let data = serde_json::from_str(&data?).expect("data is JSON");
        Some(Event { id, event, data })
    }
}
