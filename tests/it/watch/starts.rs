//! From where a watch begins, and what its answer looks like.

use end_to_end::{CommandService, Database, QueryService, until};
use serde_json::json;

#[tokio::test]
async fn a_watch_tells_from_where_and_then_each_change_with_who_when_and_why() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    command.client.put("before", 1).await;
    let query = QueryService::start_with(super::config(&database.url)).await;
    query.until_ready().await;
    let mut watcher = query.client.watch("", None).await;
    let header = |name: &str| watcher.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!((header("cache-control"), header("x-accel-buffering")), ("no-store".to_owned(), "no".to_owned()));
    assert_eq!(header("content-encoding"), "");
    let start = header("config-position");
    let first = watcher.next().await.unwrap();
    assert_eq!((first.event.as_str(), first.id, first.data), ("bookmark", Some(start), json!({ "position": 1 })));
    assert!((1_000..10_000).contains(&watcher.retry.unwrap()), "{:?}", watcher.retry);
    let body = "{\"value\":[1,\n 1.10],\"reason\":\"ticket \\\"7\\\"\\nfor ann\"}";
    let written = command.client.put_with("a/b", body, &[]).await;
    let change = watcher.expect("change").await;
    assert_eq!(change.id.as_deref(), Some(written.header("config-position")));
    let recorded_at = change.data["recorded_at"].as_str().unwrap();
    assert!(recorded_at.ends_with('Z') && recorded_at.len() == 27, "{recorded_at}");
    let expected = json!({
        "position": 2, "recorded_at": recorded_at, "actor": "anonymous", "reason": "ticket \"7\"\nfor ann",
        "changes": [{ "name": "a/b", "version": 1, "value": [1, 1.1] }],
    });
    assert_eq!(change.data, expected);
    command.client.delete("a/b").await;
    let deleted = watcher.expect("change").await;
    assert_eq!(deleted.data["changes"], json!([{ "name": "a/b", "version": 2, "deleted": true }]));
    assert_eq!(watcher.expect("bookmark").await.position(), 3);
}

#[tokio::test]
async fn a_watch_may_begin_with_the_present_state_and_loses_nothing_behind_it() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    for name in ["a/1", "a/2", "b", "gone"] {
        command.client.put(name, name).await;
    }
    command.client.delete("gone").await;
    let query = QueryService::start_with(super::config(&database.url)).await;
    query.until_ready().await;
    let mut watcher = query.client.watch("prefix=a/&name=b&name=gone&name=later&initial=true", None).await;
    let mut items = vec![];
    let end = loop {
        let event = watcher.next().await.unwrap();
        if event.event == "initial-end" {
            break event;
        }
        assert_eq!((event.event.as_str(), &event.id), ("initial", &None), "who loses it under way begins anew");
        items.push(event.data);
    };
    let expected = ["b", "a/1", "a/2"].map(|name| json!({ "name": name, "version": 1, "value": name }));
    assert_eq!(items, expected);
    assert_eq!((end.data, end.id.is_some()), (json!({ "position": 5, "configurations": 3 }), true));
    for name in ["c", "later", "a/3"] {
        command.client.put(name, 1).await;
    }
    assert_eq!(watcher.expect("change").await.changes(), ["later@1"]);
    assert_eq!(watcher.expect("change").await.changes(), ["a/3@1"]);
    let empty = query.client.watch("prefix=x&initial=true", None).await.next().await.unwrap();
    assert_eq!((empty.event.as_str(), &empty.data["configurations"]), ("initial-end", &json!(0)));
}

/// While it is written to; a million bytes, so that the state is sent in many pieces.
#[tokio::test]
async fn between_the_state_and_the_changes_nothing_is_lost() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let filling = "x".repeat(10_000);
    for n in 0..100 {
        command.client.put(&format!("n{n}"), filling.as_str()).await;
    }
    let writes = async {
        for n in 0..300 {
            command.client.put(&format!("n{}", n % 100), n).await;
        }
        command.client.put("last", 1).await
    };
    let watches = async {
        let mut states = vec![];
        for _ in 0..10 {
            let mut watcher = query.client.watch("initial=true", None).await;
            let mut state = std::collections::BTreeMap::new();
            let mut complete = false;
            while !(complete && state.contains_key("last")) {
                let event = watcher.next().await.unwrap();
                complete |= event.event == "initial-end";
                let changes = match event.event.as_str() {
                    "initial" => vec![event.data],
                    "change" => event.data["changes"].as_array().unwrap().clone(),
                    _ => continue,
                };
                for change in changes {
                    let version = change["version"].as_u64().unwrap();
                    let old = state.insert(change["name"].as_str().unwrap().to_owned(), version);
                    assert!(old.is_none_or(|old| event.event == "change" && old + 1 == version), "{change}");
                }
            }
            states.push(state);
        }
        states
    };
    let (_, states) = tokio::join!(writes, watches);
    for state in states {
        assert!((0..100).all(|n| state[&format!("n{n}")] == 4), "{state:?}");
    }
}

#[tokio::test]
async fn behind_any_position_the_log_is_told_from_there_and_in_whole_commands() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    command.client.put("a", 1).await;
    let batch = json!({ "operations": [
        { "op": "set", "name": "b", "value": 1 }, { "op": "set", "name": "c", "value": 1 }, { "op": "set", "name": "d", "value": 1 },
    ] });
    let batch = command.client.send(reqwest::Method::POST, "/v1/batch", &[], Some(batch.to_string())).await;
    assert_eq!(batch.status, 200, "{batch:?}");
    command.client.put("e", 1).await;
    let write = async |client: &end_to_end::Client, from: u64| {
        let mut watcher = client.watch(&format!("from={from}"), None).await;
        let mut told = vec![];
        while told.last() != Some(&"e@1".to_owned()) {
            told.extend(watcher.expect("change").await.changes());
        }
        told.join(" ")
    };
    // From the log: this process was started later.
    let query = QueryService::start(&database).await;
    for (from, expected) in [(0, "a@1 b@1 c@1 d@1 e@1"), (1, "b@1 c@1 d@1 e@1"), (4, "e@1")] {
        assert_eq!(write(&query.client, from).await, expected, "behind {from}");
    }
    // Within a command it is told whole.
    for from in [2, 3] {
        assert_eq!(write(&query.client, from).await, "b@1 c@1 d@1 e@1", "behind {from}");
    }
}

/// In the log, many times what a page of it has, and more than the process remembers.
const FAR_BEHIND: u64 = 3_500;

#[tokio::test]
async fn whoever_is_many_pages_of_the_log_behind_misses_nothing_and_hears_how_far_it_is() {
    let database = Database::new().await;
    database
        .execute(&format!(
            "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
             select 'ConfigValue', 'n' || i % 7, (i - 1) / 7 + 1, 'ConfigValueSet', '1.0', '{{\"value\":1}}', '{{}}'
               from generate_series(1, {FAR_BEHIND}) i"
        ))
        .await;
    let mut config = super::config(&database.url);
    config.watching.bookmark_interval = std::time::Duration::from_secs(60);
    let query = QueryService::start_with(config).await;
    query.until_ready().await;
    let mut all = query.client.watch("from=0", None).await;
    for position in 1..=FAR_BEHIND {
        let change = all.expect("change").await;
        assert_eq!(change.position(), position);
    }
    // Should it be cut, it need not look through all of that again.
    let mut none = query.client.watch("from=0&prefix=none", None).await;
    let mut told = vec![];
    while told.last() != Some(&FAR_BEHIND) {
        told.push(none.expect("bookmark").await.position());
    }
    assert!(told.is_sorted() && told.len() > 3, "{told:?}");
}

#[tokio::test]
async fn a_state_at_first_that_was_waited_for_is_not_told_again_as_changes() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    command.client.put("a", 1).await;
    let query = QueryService::start_with(super::config(&database.url)).await;
    query.until_ready().await;
    let watching = query.client.watch("initial=true&min_position=3", None);
    let (mut watcher, _) = tokio::join!(watching, async {
        until("it waits", async || (query.client.get("/v1/projection").await.json()["watchers"] == 1).then_some(()))
            .await;
        command.client.put("a", 2).await;
        command.client.put("a", 3).await
    });
    assert_eq!(watcher.expect("initial").await.data["version"], 3);
    assert_eq!(watcher.expect("initial-end").await.position(), 3);
    command.client.put("a", 4).await;
    assert_eq!(watcher.expect("change").await.changes(), ["a@4"]);
}
