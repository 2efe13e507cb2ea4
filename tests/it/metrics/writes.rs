//! What the command service tells of writes.

use end_to_end::{Answer, Client, CommandService, Database, LogLines, Page, until};
use reqwest::Method;
use serde_json::{Value, json};

async fn post(client: &Client, path: &str, body: Value) -> Answer {
    client.send(Method::POST, path, &[("content-type", "application/json")], Some(body.to_string())).await
}

fn commands(page: &Page, command: &str, outcome: &str) -> f64 {
    page.value("config_commands_total", &[("command", command), ("outcome", outcome)])
}

#[tokio::test]
async fn commands_are_counted_by_what_came_of_them() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let client = &service.client;
    client.put("a", 1).await;
    client.put("a", 1).await;
    let refused = client.put_with("a", r#"{"value":2}"#, &[("if-match", "\"7\"")]).await;
    assert_eq!(refused.status, 412);
    assert_eq!(client.delete("never").await.status, 404);
    client.put("a", 2).await;
    client.delete("a").await;
    let back = post(client, "/v1/config/a/rollback", json!({ "version": 1 })).await;
    assert_eq!(back.status, 200);
    let operations = json!([{"op":"set","name":"b","value":1},{"op":"set","name":"c","value":1}]);
    assert_eq!(post(client, "/v1/batch", json!({ "operations": operations })).await.status, 200);
    let keyed = async |key, value: &str| client.put_with("k", value, &[("idempotency-key", key)]).await.status;
    assert_eq!(keyed("once", r#"{"value":1}"#).await, 200);
    assert_eq!(keyed("once", r#"{"value":1}"#).await, 200);
    assert_eq!(keyed("once", r#"{"value":2}"#).await, 422);
    // No command.
    assert_eq!(client.put_with("a", "{}", &[]).await.status, 400);

    let page = Page::of(client).await;
    for (command, outcome, expected) in [
        ("set", "changed", 3.0),
        ("set", "unchanged", 1.0),
        ("set", "refused", 2.0),
        ("set", "replayed", 1.0),
        ("delete", "changed", 1.0),
        ("delete", "refused", 1.0),
        ("rollback", "changed", 1.0),
        ("batch", "changed", 1.0),
    ] {
        assert_eq!(commands(&page, command, outcome), expected, "{command} {outcome}");
    }
    assert_eq!(page.value("config_commands_total", &[]), 11.0);
    assert_eq!(page.value("config_idempotent_replays_total", &[]), 1.0);
    let units = |outcome| page.value("config_append_units_total", &[("outcome", outcome)]);
    assert_eq!([units("appended"), units("answered")], [6.0, 2.0]);
    assert_eq!(page.value("config_append_units_total", &[]), 8.0);
    assert_eq!(page.value("config_append_duration_seconds_count", &[]), 8.0, "one after the other");
    assert!(page.value("config_append_duration_seconds_sum", &[]) > 0.0);
    assert_eq!(page.value("config_append_group_units_sum", &[]), 8.0);
    assert!(page.value("config_append_group_bytes_sum", &[]) > 8.0);
    assert_eq!(page.value("config_append_queue_wait_seconds_count", &[]), 8.0);
    let cache = |result| page.value("config_aggregate_cache_requests_total", &[("result", result)]);
    assert!(cache("miss") >= 4.0 && cache("hit") >= 4.0, "{}", page.text);
    assert!(page.value("config_aggregate_loads_total", &[]) >= 5.0, "two of them by the batch");
    assert!(page.value("config_aggregate_load_duration_seconds_count", &[]) >= 4.0);
    for (name, expected) in [
        ("config_writes_in_progress", 0.0),
        ("config_writes_limit", 2048.0),
        ("config_batches_in_progress", 0.0),
        ("config_batches_limit", 64.0),
        ("config_append_queue_units", 0.0),
        ("config_append_queue_limit_units", 4096.0),
        ("config_append_queue_bytes", 0.0),
        ("config_append_queue_limit_bytes", 67_108_864.0),
        ("config_worker_up", 1.0),
        ("config_worker_restarts_total", 0.0),
        ("config_worker_messages_lost_total", 0.0),
    ] {
        assert_eq!(page.value(name, &[]), expected, "{name}");
    }
    until("the worker has told all", async || {
        let page = Page::of(client).await;
        (page.value("config_worker_messages_total", &[]) == 7.0
            && page.value("config_worker_queue_messages", &[]) == 0.0)
            .then_some(())
    })
    .await;
}

/// What one process remembers is out of date when another wrote: its append finds out, and it decides again.
#[tokio::test]
async fn a_conflict_is_counted_where_it_was_met() {
    let database = Database::new().await;
    let (one, other) = (CommandService::start(&database).await, CommandService::start(&database).await);
    one.client.put("a", 1).await;
    other.client.put("a", 2).await;
    one.client.put("a", 3).await;
    let page = Page::of(&one.client).await;
    assert_eq!(page.value("config_command_conflicts_total", &[]), 1.0);
    assert_eq!(page.value("config_append_units_total", &[("outcome", "conflict")]), 1.0);
    assert_eq!(commands(&page, "set", "changed"), 2.0);
    assert_eq!(Page::of(&other.client).await.value("config_command_conflicts_total", &[]), 0.0);
}

#[tokio::test]
async fn what_the_database_refuses_has_failed() {
    let database = Database::new().await;
    database.execute("alter table events add constraint poison check (aggregate_id <> 'poison')").await;
    let service = CommandService::start(&database).await;
    assert_eq!(service.client.put_with("poison", r#"{"value":1}"#, &[]).await.status, 500);
    let page = Page::of(&service.client).await;
    assert_eq!(commands(&page, "set", "failed"), 1.0);
    assert_eq!(page.value("config_append_units_total", &[("outcome", "refused")]), 1.0);
    let query = [("connection", "committer"), ("kind", "query")];
    assert_eq!(page.value("config_eventstore_errors_total", &query), 1.0);
    assert_eq!(page.value("config_eventstore_up", &[("connection", "committer")]), 1.0, "it is there");
    let labels = [("http_route", "/v1/config/{name}"), ("http_response_status_code", "500")];
    assert_eq!(page.value("http_server_request_duration_seconds_count", &labels), 1.0);
}

#[tokio::test]
async fn a_full_house_turns_writes_away_and_counts_them() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let mut log = end_to_end::HeldLog::take(&database).await;
    let operations = |n: u32| json!({ "operations": [{ "op": "set", "name": format!("b{n}"), "value": n }] });
    let batches =
        futures_util::future::join_all((0..65).map(async |n| post(&service.client, "/v1/batch", operations(n)).await));
    let release = async {
        log.until_waiting(1).await;
        let values = async |name: &'static str| Page::of(&service.client).await.value(name, &[]);
        until("one is turned away", async || (values("config_writes_turned_away_total").await == 1.0).then_some(()))
            .await;
        let page = Page::of(&service.client).await;
        assert_eq!(page.value("config_batches_in_progress", &[]), 64.0);
        assert_eq!(page.value("config_writes_in_progress", &[]), 64.0);
        assert!(page.value("config_append_queue_bytes", &[]) > 0.0);
        log.release().await;
    };
    let (answers, ()) = tokio::join!(batches, release);
    assert_eq!(answers.iter().filter(|answer| answer.status == 503).count(), 1);
}

#[tokio::test]
async fn a_worker_that_crashes_is_seen() {
    let database = Database::new().await;
    let log = LogLines::collect();
    let service = CommandService::start(&database).await;
    service.client.put("a", 1).await;
    log.make_untellable("Config updated at");
    // Each of them crashes it; it waits longer before each further start.
    for version in 2..=9 {
        service.client.put("a", version).await;
    }
    let seen = until("a crash is seen", async || {
        let page = Page::of(&service.client).await;
        (page.value("config_worker_up", &[]) == 0.0).then_some(page)
    })
    .await;
    assert!(seen.value("config_worker_restarts_total", &[]) >= 1.0);
    let health = until("health says so", async || {
        let health = service.client.get("/v1/health").await;
        (health.json()["checks"]["worker"] != "ok").then_some(health)
    })
    .await;
    assert_eq!(health.status, 503, "{health:?}");
    assert_eq!(service.client.get("/v1/ready").await.status, 200, "writes go on");
    let after = until("all of them were tried", async || {
        let page = Page::of(&service.client).await;
        (page.value("config_worker_restarts_total", &[]) == 8.0 && page.value("config_worker_up", &[]) == 1.0)
            .then_some(page)
    })
    .await;
    assert_eq!(after.value("config_worker_messages_lost_total", &[]), 8.0);
    assert_eq!(after.value("config_worker_messages_total", &[]), 1.0);
    assert_eq!(service.client.get("/v1/worker/stats").await.json()["restarts"], 8);
}
