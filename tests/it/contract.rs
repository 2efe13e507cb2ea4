//! What the old system's clients rely on, under both prefixes, in one process on one port.

use end_to_end::{Client, Database, LogLines, Standalone};
use reqwest::Method;
use serde_json::json;

const JSON: (&str, &str) = ("content-type", "application/json");

async fn put(client: &Client, path: &str, body: &str) -> (u16, String) {
    let answer = client.send(Method::PUT, path, &[JSON], Some(body.to_owned())).await;
    (answer.status.as_u16(), answer.body)
}

#[tokio::test]
async fn a_write_is_visible_to_the_next_read_under_both_prefixes() {
    let standalone = Standalone::start(&Database::new().await).await;
    let client = &standalone.client;
    for (write, read) in [("/config", "/config"), ("/v1/config", "/v1/config"), ("/config", "/v1/config")] {
        for round in 0..20 {
            let body = json!({ "value": format!("{write} {round}") }).to_string();
            assert_eq!(put(client, &format!("{write}/test_recovery"), &body).await, (200, "OK".to_owned()));
            let answer = client.get(&format!("{read}/test_recovery")).await;
            assert_eq!(answer.short(), (200, format!("{write} {round}").as_str()));
            assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        }
    }
}

#[tokio::test]
async fn what_never_was_is_not_found_and_what_was_deleted_is_gone() {
    let standalone = Standalone::start(&Database::new().await).await;
    let client = &standalone.client;
    for prefix in ["", "/v1"] {
        let path = format!("{prefix}/config/a{}", prefix.len());
        let delete = async || client.send(Method::DELETE, &path, &[], None).await;
        assert_eq!(client.get(&path).await.short(), (404, "Not Found"));
        assert_eq!(delete().await.short(), (404, "Not Found"));
        put(client, &path, r#"{"value":1}"#).await;
        assert_eq!(delete().await.short(), (200, "OK"));
        assert_eq!(client.get(&path).await.short(), (404, "Not Found"));
        assert_eq!(delete().await.short(), (410, "Gone"));
        assert_eq!(put(client, &path, r#"{"value":2}"#).await, (200, "OK".to_owned()));
        assert_eq!(client.get(&path).await.short(), (200, "2"));
    }
}

#[tokio::test]
async fn lists_and_history_have_the_old_systems_shapes() {
    let standalone = Standalone::start(&Database::new().await).await;
    let client = &standalone.client;
    client.put("b", "1").await;
    client.put("a/x", json!({"k": [1, null]})).await;
    client.put("b", "2").await;
    client.delete("b").await;
    client.put("b", "3").await;
    for prefix in ["", "/v1"] {
        let list = client.get(&format!("{prefix}/config")).await;
        assert_eq!(list.body, r#"[{"name":"a/x","value":{"k":[1,null]}},{"name":"b","value":"3"}]"#);
        assert_eq!(list.header("content-type"), "application/json");
        assert_eq!(
            client.get(&format!("{prefix}/config?prefix=a%2F")).await.json(),
            json!([{"name": "a/x", "value": {"k": [1, null]}}])
        );

        let history = client.get(&format!("{prefix}/config/b/history")).await.json();
        let events = history.as_array().unwrap();
        let types: Vec<_> = events.iter().map(|event| event["event_type"].as_str().unwrap()).collect();
        assert_eq!(types, ["ConfigValueSet", "ConfigValueSet", "ConfigValueDeleted", "ConfigValueSet"]);
        let versions: Vec<_> = events.iter().map(|event| event["stream_version"].as_u64().unwrap()).collect();
        assert_eq!(versions, [1, 2, 3, 4]);
        assert_eq!(events[0]["data"]["old_value"], json!(null));
        assert_eq!((&events[1]["data"]["value"], &events[1]["data"]["old_value"]), (&json!("2"), &json!("1")));
        assert_eq!(events[2]["data"]["deleted_value"], json!("2"));
        assert_eq!(events[3]["data"]["old_value"], json!(null));
        assert_eq!(events[1]["data"]["timestamp"], events[1]["created_at"]);
        assert_eq!(events[1]["data"]["config_name"], json!("b"));
        assert_eq!(client.get(&format!("{prefix}/config/unknown/history")).await.body, "[]");

        // Each version is found at its own moment, and the one before it a microsecond earlier.
        let moment = |index: usize| events[index]["created_at"].as_str().unwrap().to_owned();
        let at = async |moment: String| client.get(&format!("{prefix}/config/b/at/{moment}")).await;
        assert_eq!(at(moment(0)).await.short(), (200, "1"));
        assert_eq!(at(moment(1)).await.short(), (200, "2"));
        assert_eq!(at(moment(2)).await.short(), (404, "Not Found"));
        assert_eq!(at(moment(3)).await.short(), (200, "3"));
        assert_eq!(at("2000-01-01T00:00:00Z".to_owned()).await.short(), (404, "Not Found"));
        let wrong = at("yesterday".to_owned()).await;
        assert_eq!(wrong.short(), (400, "Invalid timestamp format. Use ISO8601 (e.g., 2024-01-15T10:30:00Z)"));
    }
}

#[tokio::test]
async fn the_log_has_the_runbooks_lines() {
    let log = LogLines::collect();
    let standalone = Standalone::start(&Database::new().await).await;
    let client = &standalone.client;
    client.put("my_config", "my_value").await;
    client.put("my_config", "other").await;
    client.put("db_password", "hunter2").await;
    client.delete("my_config").await;
    let stats = end_to_end::until("the worker told all", async || {
        let stats = client.get("/v1/worker/stats").await.json();
        (stats["message_count"] == 4).then_some(stats)
    })
    .await;
    assert!(stats["uptime_seconds"].is_u64() && stats["started_at"].is_string() && stats["restarts"] == 0, "{stats}");
    for line in [
        "[info] ConfigStateProjection starting...",
        "[info] Rebuilding ConfigStateProjection state from existing events...",
        "[info] Found 0 events to replay",
        "[info] State rebuild complete: 0 configurations restored",
        "[info] ConfigStateProjection subscribed to EventStore events",
        "[info] ConfigStateProjection started",
        "[info] ConfigUpdateWorker starting...",
        "[info] ConfigUpdateWorker registered as :config_update_worker and ready to receive messages",
        r#"[info] PUT /config/my_config - Setting value: "my_value""#,
        r#"[info] PUT /config/my_config - Successfully stored value: "my_value""#,
    ] {
        assert!(log.has(line), "{line:?} is not in {:#?}", log.lines());
    }
    let updates: Vec<_> = log.lines().into_iter().filter(|line| line.starts_with("[info] Config ")).collect();
    let without_time = |line: &String| line.split_once("Z: ").unwrap().1.to_owned();
    let told: Vec<_> = updates.iter().map(without_time).collect();
    assert_eq!(
        told,
        [
            "name=my_config, old_value=nil, new_value=my_value [msg #1]",
            "name=my_config, old_value=my_value, new_value=other [msg #2]",
            "name=db_password, old_value=nil, new_value=[redacted] [msg #3]",
            "name=my_config, old_value=other [msg #4]",
        ]
    );
    assert!(!log.lines().iter().any(|line| line.contains("hunter2")));
}

#[tokio::test]
async fn health_is_told_per_check() {
    let standalone = Standalone::start(&Database::new().await).await;
    let client = &standalone.client;
    for path in ["/health", "/v1/health"] {
        let health = end_to_end::until("all is well", async || {
            let answer = client.get(path).await;
            answer.status.is_success().then(|| answer.json())
        })
        .await;
        assert_eq!(health["status"], "ok");
        assert!(health["timestamp"].is_string());
        let checks = json!({"database": "ok", "eventstore": "ok", "projection": "ok", "worker": "ok"});
        assert_eq!(health["checks"], checks);
    }
    assert_eq!(client.get("/v1/live").await.status, 200);
}
