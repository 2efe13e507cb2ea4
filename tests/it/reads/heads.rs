//! `HEAD` of what would be sent for long, or without an end: the headers, and nobody is left behind.

use end_to_end::{CommandService, Database, QueryService, until};
use reqwest::Method;

use super::position;

#[tokio::test]
async fn a_head_of_a_list_a_watch_and_the_log_has_the_headers_and_ends() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let written = command.client.put("a", 1).await;
    query.client.value_after("a", &written).await;
    for (path, content_type) in [
        ("/v1/config", "application/json"),
        ("/v1/config?at=1", "application/json"),
        ("/v1/watch", "text/event-stream"),
        ("/v1/watch?initial=true", "text/event-stream"),
        ("/v1/events", "application/x-ndjson"),
        ("/v1/events?follow=true", "application/x-ndjson"),
    ] {
        let head = query.client.send(Method::HEAD, path, &[], None).await;
        assert_eq!((head.short(), head.header("content-type")), ((200, ""), content_type), "{path}");
        assert!(!head.header("config-last-contact").is_empty(), "{path}: {head:?}");
        if !path.contains("follow") {
            assert_eq!(position(&head), 1, "{path}: {head:?}");
        }
    }
    until("nobody watches", async || (query.client.get("/v1/projection").await.json()["watchers"] == 0).then_some(()))
        .await;
}
