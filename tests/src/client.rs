//! A client that speaks to a service as its users do.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{Watcher, until};

/// Speaks to one service; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: reqwest::header::HeaderMap,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// Status and body, for short comparisons.
    #[must_use]
    pub fn short(&self) -> (u16, &str) {
        (self.status.as_u16(), &self.body)
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// A header's text; empty when it is absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Client {
    /// Of the service at `base`, such as `http://127.0.0.1:4000`.
    #[must_use]
    pub fn new(base: &str) -> Self {
        // The library wants to know with what it would encrypt, also where it does not.
        let _chosen_before = rustls::crypto::ring::default_provider().install_default();
        Self { http: reqwest::Client::new(), base: base.to_owned() }
    }

    /// Where it is, such as `http://127.0.0.1:4000`.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A name as it stands in a path.
    #[must_use]
    pub fn encode(name: &str) -> String {
        utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
    }

    /// Sends any request; `None` when the service is not there or goes away before it answers.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Option<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status(), response.headers().clone());
        Some(Answer { status, headers, body: response.text().await.ok()? })
    }

    /// Sends any request.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<String>) -> Answer {
        let sent = format!("{method} {path}");
        self.try_send(method, path, headers, body).await.unwrap_or_else(|| panic!("no answer to {sent}"))
    }

    /// Sends bytes as they are, for what HTTP libraries would mend, and returns the answer as it is.
    pub async fn raw(&self, request: &str) -> String {
        let address = self.base.strip_prefix("http://").expect("plain HTTP");
        let mut stream = TcpStream::connect(address).await.expect("the service listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers in UTF-8");
        answer
    }

    /// `GET` of any path.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], None).await
    }

    /// Begins to watch, with this query, behind this `Last-Event-ID`.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn watch(&self, query: &str, last_event_id: Option<&str>) -> Watcher {
        self.try_watch(query, last_event_id).await.expect("an answer to GET /v1/watch")
    }

    /// The same; `None` when the service is not there.
    pub async fn try_watch(&self, query: &str, last_event_id: Option<&str>) -> Option<Watcher> {
        let mut request = self.http.get(format!("{}/v1/watch?{query}", self.base));
        if let Some(last) = last_event_id {
            request = request.header("last-event-id", last);
        }
        Some(Watcher::new(request.send().await.ok()?))
    }

    /// `GET` of any path, in JSON.
    pub async fn get_json(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[("accept", "application/json")], None).await
    }

    /// Waits until `/v1/ready` says so.
    pub async fn until_ready(&self) {
        until("the service is ready", async || self.get("/v1/ready").await.status.is_success().then_some(())).await;
    }

    /// Sets a configuration and expects success.
    pub async fn put(&self, name: &str, value: impl Into<Value>) -> Answer {
        let answer = self.put_with(name, &json!({ "value": value.into() }).to_string(), &[]).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer
    }

    /// Sends a body to a configuration.
    pub async fn put_with(&self, name: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
        let headers = [headers, &[("content-type", "application/json")]].concat();
        self.send(Method::PUT, &format!("/v1/config/{}", Self::encode(name)), &headers, Some(body.to_owned())).await
    }

    /// Deletes a configuration.
    pub async fn delete(&self, name: &str) -> Answer {
        self.send(Method::DELETE, &format!("/v1/config/{}", Self::encode(name)), &[], None).await
    }

    /// The raw value, or the plain error.
    pub async fn value(&self, name: &str) -> Answer {
        self.get(&format!("/v1/config/{}", Self::encode(name))).await
    }

    /// The raw value once this service has applied the position that `write` answered with.
    pub async fn value_after(&self, name: &str, write: &Answer) -> Answer {
        let position = write.header("config-position");
        assert!(!position.is_empty(), "{write:?}");
        self.send(
            Method::GET,
            &format!("/v1/config/{}", Self::encode(name)),
            &[("config-min-position", position)],
            None,
        )
        .await
    }
}
