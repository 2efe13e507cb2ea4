//! What `config-api` appends itself, which its own projection applies without reading it from the log.

use end_to_end::{
    CommandService, Database, HeldLog, LogLines, Page, Proxy, QueryService, Standalone, services::Running, until,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::append::group::{insert_stock, names};

const HANDED_OVER: &str = "config_projection_events_handed_over_total";

async fn handed_over(service: &Running) -> f64 {
    Page::of(&service.client).await.value(HANDED_OVER, &[])
}

#[tokio::test]
async fn its_own_writes_are_not_read_again() {
    let database = Database::new().await;
    let both = Standalone::start(&database).await;
    for value in 1..=30 {
        assert_eq!(both.client.put("a", value).await.status, 200);
        assert_eq!(both.client.value("a").await.short(), (200, value.to_string().as_str()));
    }
    // The first is read: until then the tail does not know whose hints say nothing new. It may come upon others when it looks.
    let handed = handed_over(&both).await;
    assert!((15.0..=30.0).contains(&handed), "{handed} of 30");
    let page = Page::of(&both.client).await;
    assert_eq!(page.value("config_projection_events_applied_total", &[]), 30.0);
    assert_eq!(page.value("config_projection_lag_events", &[]), 0.0);
}

/// The log would say the same: who, when and why, versions and places, also of what is deleted, a batch, a rollback.
#[tokio::test]
async fn what_was_handed_over_is_what_the_log_says() {
    let database = Database::new().await;
    what_it_hands_over_is_what_the_log_says(&database, Standalone::start(&database).await).await;
    let database = Database::new().await;
    what_it_hands_over_is_what_the_log_says(&database, Standalone::start_as_sole_writer(&database).await).await;
}

async fn what_it_hands_over_is_what_the_log_says(database: &Database, both: Running) {
    let mut watcher = both.client.watch("from=0", None).await;
    let post = async |path: &str, body: Value| {
        let headers = [("content-type", "application/json")];
        both.client.send(Method::POST, path, &headers, Some(body.to_string())).await
    };
    both.client.put_with("a", r#"{"value": {"b" : 1.50}, "reason": "ticket \"7\""}"#, &[]).await;
    both.client.put("ä/ö", "é\u{1F600}").await;
    both.client.put("gone", "1").await;
    both.client.delete("gone").await;
    both.client.put("a", "2").await;
    let operations = json!([
        {"op": "set", "name": "c", "value": [1, null]}, {"op": "delete", "name": "ä/ö"}, {"op": "check", "name": "a", "if_version": 2},
    ]);
    assert_eq!(post("/v1/batch", json!({"operations": operations, "reason": "together"})).await.status, 200);
    assert_eq!(post("/v1/config/a/rollback", json!({"version": 1})).await.status, 200);
    assert!(handed_over(&both).await > 0.0);

    let replica = QueryService::start(database).await;
    let mut other = replica.client.watch("from=0", None).await;
    for _ in 0..7 {
        assert_eq!(watcher.expect("change").await.data, other.expect("change").await.data);
    }
    for name in ["a", "ä/ö", "gone", "c"] {
        let path = format!("/v1/config/{}", end_to_end::Client::encode(name));
        let [handed, read] = [both.client.get_json(&path).await, replica.client.get_json(&path).await];
        assert_eq!((handed.status, handed.header("etag")), (read.status, read.header("etag")));
        if handed.status == 200 {
            assert_eq!(handed.body, read.body);
        }
    }
    let [handed, read] = [both.client.get("/v1/config").await, replica.client.get("/v1/config").await];
    assert_eq!((&handed.body, handed.header("config-position")), (&read.body, read.header("config-position")));
}

/// Others write as well: what is handed over then stands further on than what was read, or is read first.
#[tokio::test]
async fn writers_beside_it_are_heard_of_in_the_order_of_the_log() {
    let database = Database::new().await;
    it_hears_of_writers_beside_it(&database, Standalone::start(&database).await).await;
    let database = Database::new().await;
    it_hears_of_writers_beside_it(&database, Standalone::start_as_sole_writer(&database).await).await;
}

async fn it_hears_of_writers_beside_it(database: &Database, both: Running) {
    let other = CommandService::start(database).await;
    let mut watcher = both.client.watch("from=0", None).await;
    let writes = async |service: &Running, name: &str| {
        for value in 1..=60 {
            assert_eq!(service.client.put(name, value).await.status, 200);
        }
    };
    tokio::join!(writes(&both, "a"), writes(&both, "b"), writes(&other, "c"), writes(&other, "d"));
    for position in 1..=240 {
        assert_eq!(watcher.expect("change").await.data["position"], position);
    }
    for name in ["a", "b", "c", "d"] {
        assert_eq!(both.client.value(name).await.short(), (200, "60"));
    }
    assert!(handed_over(&both).await > 0.0);
    assert_eq!(both.client.get("/v1/projection").await.json()["divergences"], 0);
}

/// The log lost its end and goes on with another event, as behind a failover; no hint says so. What is appended then stands behind
/// an event that was never applied here, though at a place that fits.
#[tokio::test]
async fn what_stands_behind_another_event_than_was_applied_is_not_applied() {
    let database = Database::new().await;
    let both = Standalone::start(&database).await;
    for name in ["kept", "lost"] {
        both.client.put(name, "1").await;
    }
    database
        .execute(
            "begin;
             alter table events disable trigger events_append_only;
             delete from events where position = 2;
             alter table events enable trigger events_append_only;
             insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                                 position, recorded_at, command_id, part)
             values ('ConfigValue', 'instead', 1, 'ConfigValueSet', '1.0', '{\"value\":1}', '{}', 2, clock_timestamp(),
                     gen_random_uuid(), 0);
             commit",
        )
        .await;
    both.client.put("behind", "1").await;
    until("the log's own state is shown", async || (both.client.value("instead").await.status == 200).then_some(()))
        .await;
    assert_eq!(both.client.value("lost").await.status, 404);
    for name in ["kept", "behind"] {
        assert_eq!(both.client.value(name).await.short(), (200, "1"));
    }
    assert_eq!(both.client.get("/v1/projection").await.json()["divergences"], 1);
    // And it goes on as before.
    let before = handed_over(&both).await;
    for value in 2..=20 {
        both.client.put("behind", value).await;
    }
    assert!(handed_over(&both).await > before);
}

/// Nothing told it of the other's change, and its own stands behind that: what was handed over cannot be applied before the log was read.
#[tokio::test]
async fn a_write_is_answered_when_what_it_did_not_hear_of_is_visible_too() {
    let database = Database::new().await;
    let both = Standalone::start_as_sole_writer(&database).await;
    let mut connection = database.connect().await;
    for round in 1..=5_i64 {
        insert_stock(&mut connection, "theirs", round).await.unwrap();
        assert_eq!(both.client.put("ours", round).await.status, 200);
        // Not until: an answer says that all up to it is visible.
        let [ours, theirs] =
            [both.client.get_json("/v1/config/ours").await, both.client.get_json("/v1/config/theirs").await];
        let tag = format!("\"{round}\"");
        assert_eq!([ours.header("etag"), theirs.header("etag")], [&*tag; 2]);
    }
    // And it goes on with its own.
    let before = handed_over(&both).await;
    for value in 6..=25 {
        assert_eq!(both.client.put("ours", value).await.status, 200);
    }
    let handed = handed_over(&both).await - before;
    assert!((10.0..=20.0).contains(&handed), "{handed} of 20");
}

/// The commit succeeds and its answer is lost; the repeated append finds it in the log, and no hint came.
#[tokio::test]
async fn a_write_whose_answer_from_the_log_was_lost_is_visible_when_it_is_answered() {
    let log = LogLines::collect();
    let database = Database::new().await;
    let network = Proxy::to(&database).await;
    let both = Standalone::start_as_sole_writer(&network.database).await;
    both.client.put("a", 1).await;
    let mut connection = database.connect().await;
    for value in 2..=4 {
        let mut held = HeldLog::take(&database).await;
        let client = both.client.clone();
        let mut sending = tokio::task::JoinSet::new();
        sending.spawn(async move { client.put("a", value).await.status });
        held.until_waiting(1).await;
        network.lose_answers();
        held.release().await;
        until("it is in the log", async || (names(&mut connection).await.len() == value).then_some(())).await;
        network.down().await;
        network.up();
        assert_eq!(sending.join_next().await.unwrap().unwrap(), 200);
        assert_eq!(both.client.value("a").await.short(), (200, value.to_string().as_str()));
    }
    let late = log.lines().into_iter().find(|line| line.contains("before the projection applied it"));
    assert_eq!(late, None);
}
