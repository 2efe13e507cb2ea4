//! What a watch refuses, and that it says what would be right.

use std::time::Duration;

use end_to_end::{CommandService, Database, QueryService, until};

#[tokio::test]
async fn what_cannot_be_watched_is_refused_with_what_would_be_right() {
    let database = Database::new().await;
    let query = QueryService::start(&database).await;
    let names = vec!["name=a"; 101].join("&");
    let prefix = format!("prefix={}", "a".repeat(257));
    for (asked, hint) in [
        (names.as_str(), "given 100 times at most"),
        (prefix.as_str(), "up to 256 bytes"),
        ("prefix=%00", "without control characters"),
        ("name=", "The name is empty"),
        ("name=%20a", "begins or ends with a blank"),
        ("from=x", "such as 42.9f3a01bc"),
        ("from=", "such as 42.9f3a01bc"),
        ("from=-1", "such as 42.9f3a01bc"),
        ("from=99999999999999999999999", "such as 42.9f3a01bc"),
        ("initial=1", "true or false"),
        ("initial=true&from=1", "`from` and `initial` exclude each other"),
        ("prefix=a&prefix=b", "given twice"),
        ("prefiks=a", "known: prefix, name, from, initial, min_position"),
        ("prefix=%ff", "percent-encoded UTF-8"),
    ] {
        let refused = query.client.get(&format!("/v1/watch?{asked}")).await;
        assert_eq!(refused.status, 400, "{asked}: {refused:?}");
        assert!(refused.body.contains(hint), "{asked}: {refused:?}");
    }
    let last = query.client.watch("", Some("seven")).await;
    assert_eq!(last.status, 400);
    let all = names.rsplit_once('&').unwrap().0;
    assert_eq!(query.client.watch(all, None).await.status, 200, "a hundred are allowed");
    assert_eq!(query.client.send(reqwest::Method::POST, "/v1/watch", &[], None).await.status, 405);
    until("nobody is left behind", async || {
        (query.client.get("/v1/projection").await.json()["watchers"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_position_in_the_future_is_waited_for_and_then_refused_with_where_the_replica_is() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    let mut config = super::config(&database.url);
    config.min_position_wait = Duration::from_millis(300);
    let query = QueryService::start_with(config).await;
    query.until_ready().await;
    command.client.put("a", 1).await;
    for asked in ["from=2", "initial=true&min_position=2", "min_position=2"] {
        let refused = query.client.get_json(&format!("/v1/watch?{asked}")).await;
        assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "1"), "{asked}: {refused:?}");
        assert!(refused.json()["type"].as_str().unwrap().ends_with(":replica-behind"), "{refused:?}");
        assert!(refused.header("config-position").starts_with("1."), "{refused:?}");
    }
    for (asked, last) in [("from=1&min_position=2", None), ("min_position=2", Some("1"))] {
        assert_eq!(query.client.watch(asked, last).await.status, 503, "{asked} behind {last:?}");
    }
    // In time it is there.
    let (mut watcher, _) = tokio::join!(query.client.watch("from=2", None), command.client.put("a", 2));
    assert_eq!(watcher.status, 200);
    command.client.put("a", 3).await;
    assert_eq!(watcher.expect("change").await.changes(), ["a@3"]);
}

#[tokio::test]
async fn one_watcher_more_than_the_limit_is_told_to_come_back() {
    let database = Database::new().await;
    let mut config = super::config(&database.url);
    config.watching.watchers = 3;
    let query = QueryService::start_with(config).await;
    query.until_ready().await;
    let mut watchers = vec![];
    for _ in 0..3 {
        let mut watcher = query.client.watch("", None).await;
        watcher.expect("bookmark").await;
        watchers.push(watcher);
    }
    let refused = query.client.get_json("/v1/watch").await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "1"), "{refused:?}");
    assert!(refused.json()["type"].as_str().unwrap().ends_with(":too-many-watchers"), "{refused:?}");
    assert_eq!(query.client.value("a").await.status, 404, "reads go on");
    drop(watchers.pop());
    until("its place is free", async || (query.client.watch("", None).await.status == 200).then_some(())).await;
}
