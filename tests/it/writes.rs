//! Writes: of one value, of several at once, back to what was; repeated, in a race, behind the cache's back, and cut off.

use end_to_end::{Answer, Client};
use reqwest::Method;
use serde_json::{Value, json};

mod bad_batches;
mod batch;
mod batch_conflicts;
mod cache;
mod keys;
mod kills;
mod linearizable;
mod loads;
mod races;
mod repeated;
mod rollback;
mod visibility;

/// A request that changes something. Sent again, it is the same to the last header, so that answers can be compared whole.
#[derive(Clone, Debug)]
struct Write {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<String>,
}

fn put(name: &str, value: impl Into<Value>) -> Write {
    let body = json!({ "value": value.into() });
    Write::new(Method::PUT, format!("/v1/config/{name}"), Some(&body))
}

fn delete(name: &str) -> Write {
    Write::new(Method::DELETE, format!("/v1/config/{name}"), None)
}

/// `to`: `{"version": 3}` or `{"at": …}`.
#[expect(clippy::needless_pass_by_value, reason = "it is written at the call")]
fn rollback(name: &str, to: Value) -> Write {
    Write::new(Method::POST, format!("/v1/config/{name}/rollback"), Some(&to))
}

/// `operations`: an array.
#[expect(clippy::needless_pass_by_value, reason = "it is written at the call")]
fn batch(operations: Value) -> Write {
    Write::new(Method::POST, "/v1/batch".to_owned(), Some(&json!({ "operations": operations })))
}

impl Write {
    fn new(method: Method, path: String, body: Option<&Value>) -> Self {
        let headers = [("accept", "application/json"), ("content-type", "application/json"), ("x-request-id", "fixed")];
        let headers = headers.map(|(name, value)| (name, value.to_owned())).to_vec();
        Self { method, path, headers, body: body.map(Value::to_string) }
    }

    fn with(mut self, header: &'static str, value: &str) -> Self {
        self.headers.push((header, value.to_owned()));
        self
    }

    fn keyed(self, key: &str) -> Self {
        self.with("idempotency-key", key)
    }

    async fn send(&self, client: &Client) -> Answer {
        self.try_send(client).await.unwrap_or_else(|| panic!("no answer to {self:?}"))
    }

    async fn try_send(&self, client: &Client) -> Option<Answer> {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        client.try_send(self.method.clone(), &self.path, &headers, self.body.clone()).await
    }

    /// For a task of its own.
    async fn sent_to(self, client: Client) -> Answer {
        self.send(&client).await
    }
}

/// Everything that an answer tells, but whether it is told again.
fn told(answer: &Answer) -> (u16, &str, &str, &str) {
    (answer.status.as_u16(), &answer.body, answer.header("config-position"), answer.header("etag"))
}

/// Whether it is the answer of an earlier request.
fn is_replayed(answer: &Answer) -> bool {
    match answer.header("idempotency-replayed") {
        "true" => true,
        "" => false,
        other => panic!("neither true nor absent: {other:?}"),
    }
}

/// Status, version, and whether it wrote an event.
fn written(answer: &Answer) -> (u16, u64, bool) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    (200, told["version"].as_u64().expect("a version"), told["changed"].as_bool().expect("whether it changed"))
}

/// Status and current version.
fn refused(answer: &Answer) -> (u16, Option<u64>) {
    (answer.status.as_u16(), answer.json()["current_version"].as_u64())
}

/// The statement with which `postgres-es` gives a name another value, or deletes it.
fn stock_write(name: &str, value: Option<&str>) -> String {
    let (event_type, payload) = match value {
        Some(value) => ("ConfigValueSet", json!({ "value": value }).to_string()),
        None => ("ConfigValueDeleted", "{}".to_owned()),
    };
    format!(
        "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         select 'ConfigValue', '{name}', coalesce(max(sequence), 0) + 1, '{event_type}', '1.0', '{payload}', '{{}}'
           from events where aggregate_type = 'ConfigValue' and aggregate_id = '{name}'"
    )
}
