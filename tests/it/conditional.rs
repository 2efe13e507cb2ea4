//! Conditional writes and reads, JSON answers, positions.

use end_to_end::{CommandService, Database, QueryService, Standalone};
use reqwest::Method;
use serde_json::json;

const AS_JSON: (&str, &str) = ("accept", "application/json");

#[tokio::test]
async fn a_write_happens_only_if_its_precondition_holds() {
    let service = CommandService::start(&Database::new().await).await;
    let put = async |value: u32, headers: &[(&str, &str)]| {
        let headers = [headers, &[AS_JSON]].concat();
        service.client.put_with("a", &json!({ "value": value }).to_string(), &headers).await
    };
    let refused = put(1, &[("if-match", "*")]).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["current_version"]), (412, &json!(0)));
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert_eq!(refused.json()["type"], "urn:config-api:problem:precondition-failed");

    let created = put(1, &[("if-none-match", "*")]).await;
    assert_eq!((created.status.as_u16(), created.header("etag")), (200, "\"1\""));
    assert_eq!(put(2, &[("if-none-match", "*")]).await.json()["current_version"], 1);
    assert_eq!(put(2, &[("if-match", "\"7\"")]).await.status, 412);
    let changed = put(2, &[("if-match", "\"1\"")]).await.json();
    assert_eq!((&changed["version"], &changed["changed"], &changed["name"]), (&json!(2), &json!(true), &json!("a")));
    let unchanged = put(2, &[("if-match", "\"1\", \"2\"")]).await.json();
    assert_eq!((&unchanged["version"], &unchanged["changed"]), (&json!(2), &json!(false)));
    assert_eq!(unchanged["position"], changed["position"]);
    assert_eq!(unchanged["recorded_at"], changed["recorded_at"]);

    let delete =
        async |tag: &str| service.client.send(Method::DELETE, "/v1/config/a", &[("if-match", tag)], None).await.status;
    assert_eq!(delete("\"1\"").await, 412);
    assert_eq!(delete("\"2\"").await, 200);
    assert_eq!(delete("\"2\"").await, 410);
    assert_eq!(put(9, &[("if-match", "\"3\"")]).await.status, 412, "a deleted configuration has no version to match");
    assert_eq!(put(9, &[("if-none-match", "*")]).await.json()["version"], 4);
}

#[tokio::test]
async fn of_many_writers_that_saw_one_version_exactly_one_wins() {
    let database = Database::new().await;
    let services = [CommandService::start(&database).await, CommandService::start(&database).await];
    services[0].client.put("a", 0).await;
    for round in 1..=10 {
        let tag = format!("\"{round}\"");
        let writes = (0..16).map(async |writer| {
            let body = json!({ "value": format!("{round} {writer}") }).to_string();
            services[writer % 2].client.put_with("a", &body, &[("if-match", &tag)]).await.status.as_u16()
        });
        let mut statuses = futures_util::future::join_all(writes).await;
        statuses.sort_unstable();
        let expected: Vec<u16> = std::iter::once(200).chain([412; 15]).collect();
        assert_eq!(statuses, expected);
    }
}

#[tokio::test]
async fn unconditional_writes_to_one_hot_name_all_succeed_over_two_processes() {
    let database = Database::new().await;
    let services = [CommandService::start(&database).await, CommandService::start(&database).await];
    let writes = (0..200).map(async |n| services[n % 2].client.put("hot", n).await);
    futures_util::future::join_all(writes).await;
    let count: i64 =
        sqlx::query_scalar("select count(*) from events").fetch_one(&mut database.connect().await).await.unwrap();
    assert_eq!(count, 200);
}

#[tokio::test]
async fn a_read_answers_304_as_long_as_the_client_has_the_current_version() {
    let standalone = Standalone::start(&Database::new().await).await;
    let client = &standalone.client;
    client.put("a", "1").await;
    let first = client.value("a").await;
    assert_eq!(first.header("etag"), "\"1\"");
    let again = async |tag: &str| client.send(Method::GET, "/v1/config/a", &[("if-none-match", tag)], None).await;
    let unchanged = again("\"1\"").await;
    assert_eq!(unchanged.short(), (304, ""));
    assert_eq!(
        (unchanged.header("etag"), unchanged.header("config-position")),
        ("\"1\"", first.header("config-position"))
    );
    assert_eq!(again("W/\"1\"").await.status, 304);
    client.put("a", "2").await;
    assert_eq!(again("\"1\"").await.short(), (200, "2"));
}

#[tokio::test]
async fn a_json_read_tells_who_when_and_why() {
    let standalone = Standalone::start(&Database::new().await).await;
    let client = &standalone.client;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [AS_JSON, ("x-request-id", "my-request"), ("traceparent", trace)];
    let written = client.put_with("a", r#"{"value":{"n":1.10},"reason":"because"}"#, &headers).await;
    assert_eq!(written.header("x-request-id"), "my-request");
    let read = client.get_json("/v1/config/a").await;
    assert!(read.body.contains(r#""value":{"n":1.10}"#), "numbers keep their digits: {}", read.body);
    let (read, written) = (read.json(), written.json());
    for member in ["name", "version", "position", "recorded_at"] {
        assert_eq!(read[member], written[member], "{member}");
    }
    assert_eq!((&read["actor"], &read["reason"]), (&json!("anonymous"), &json!("because")));
    let history = client.get("/v1/config/a/history").await.json();
    let metadata = &history[0]["metadata"];
    assert_eq!(metadata["request_id"], "my-request");
    assert_eq!(metadata["traceparent"], trace);
    let missing = client.get_json("/v1/config/b").await;
    assert_eq!((missing.status.as_u16(), missing.json()["status"].as_u64()), (404, Some(404)));
}

#[tokio::test]
async fn a_client_reads_what_it_wrote_on_any_replica() {
    let database = Database::new().await;
    let (command, replicas) = (
        CommandService::start(&database).await,
        [QueryService::start(&database).await, QueryService::start(&database).await],
    );
    for n in 0..50_usize {
        let written = command.client.put("a", n.to_string()).await;
        for replica in &replicas {
            assert_eq!(replica.client.value_after("a", &written).await.short(), (200, n.to_string().as_str()));
        }
    }
}

#[tokio::test]
async fn a_position_that_is_not_reached_in_time_is_told_and_not_ignored() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let written = command.client.put("a", "1").await;
    query.client.value_after("a", &written).await;
    let read = async |position: &str| {
        query.client.send(Method::GET, &format!("/v1/config/a?min_position={position}"), &[AS_JSON], None).await
    };
    let behind = read("2").await;
    assert_eq!((behind.status.as_u16(), behind.json()["position"].as_u64()), (503, Some(1)));
    assert!(!behind.header("retry-after").is_empty());
    let other_past = read("1.00000000").await;
    assert_eq!(other_past.status, 409, "{other_past:?}");
    assert_eq!(read("x").await.status, 400);
    assert_eq!(read("1").await.status, 200);
}
