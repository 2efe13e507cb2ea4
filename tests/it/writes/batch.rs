//! Batches: all of their operations or none, in one place of the log.

use std::collections::HashSet;

use end_to_end::{CommandService, Database, LogLines, Standalone, until};
use serde_json::{Value, json};

use super::{batch, put, written};
use crate::append::group::{log, names};

/// Largest value, by default.
const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn all_operations_are_one_command_in_their_order() {
    let log_lines = LogLines::collect();
    let database = Database::new().await;
    let standalone = Standalone::start(&database).await;
    let client = &standalone.client;
    for name in ["old", "gone", "checked", "same"] {
        client.put(name, 1).await;
    }
    client.delete("gone").await;
    let mut write = batch(json!([
        {"op": "set", "name": "z", "value": {"n": 1}},
        {"op": "check", "name": "checked", "if_version": 1},
        {"op": "delete", "name": "old", "if_version": 1},
        {"op": "set", "name": "same", "value": 1},
        {"op": "set", "name": "gone", "value": null, "if_version": 0},
        {"op": "delete", "name": "never", "missing_ok": true},
        {"op": "check", "name": "never too", "if_version": 0},
        {"op": "set", "name": "a", "value": 1, "if_version": 0},
    ]));
    write.body = Some(write.body.unwrap().replacen('{', r#"{"reason":"why","#, 1));
    let answer = write.send(client).await;
    assert_eq!(answer.status, 200, "{answer:?}");

    let log = log(&mut database.connect().await).await;
    let (before, new) = log.split_at(5);
    let places: Vec<_> = new.iter().map(|event| (event.position, event.name.as_str(), event.sequence)).collect();
    assert_eq!(places, [(6, "z", 1), (7, "old", 2), (8, "gone", 3), (9, "a", 1)]);
    assert_eq!(new.iter().map(|event| event.part).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let commands: HashSet<_> = new.iter().map(|event| (event.command_id, event.recorded_at)).collect();
    assert_eq!(commands.len(), 1, "one command, at one time");

    let told = answer.json();
    let operations: Vec<_> = told["operations"].as_array().unwrap().iter().map(told_of).collect();
    let position = |name| before.iter().find(|event| event.name == name).map(|event| event.position);
    assert_eq!(
        operations,
        [
            ("z", Some(1), Some(6), true),
            ("checked", Some(1), position("checked"), false),
            ("old", Some(2), Some(7), true),
            ("same", Some(1), position("same"), false),
            ("gone", Some(3), Some(8), true),
            ("never", Some(0), Some(0), false),
            ("never too", Some(0), Some(0), false),
            ("a", Some(1), Some(9), true),
        ]
    );
    assert_eq!((&told["position"], &told["changed"]), (&json!(9), &json!(true)));
    assert_eq!(answer.header("config-position").split('.').next(), Some("9"));

    assert_eq!(client.value("z").await.short(), (200, r#"{"n":1}"#), "the next read shows it");
    assert_eq!(client.value("old").await.status, 404);
    assert_eq!(client.value("gone").await.short(), (200, "null"));
    for (name, entries) in [("z", 1), ("old", 2), ("gone", 3), ("a", 1)] {
        let history = client.get(&format!("/v1/config/{name}/history")).await.json();
        let history = history.as_array().unwrap();
        assert_eq!(history.len(), entries, "{name}");
        let newest = history.iter().max_by_key(|entry| entry["stream_version"].as_u64()).unwrap();
        assert_eq!(
            (&newest["metadata"]["reason"], &newest["metadata"]["request_id"]),
            (&json!("why"), &json!("fixed"))
        );
    }
    let counted = until("the worker heard of the last operation", async || {
        let told = |line: &String| line.starts_with("[info] Config updated") && line.contains("name=a,");
        log_lines.lines().into_iter().find(told)
    })
    .await;
    assert!(counted.contains("[msg #9]"), "{counted}");
}

/// Name, version, position, and whether it was changed.
fn told_of(operation: &Value) -> (&str, Option<u64>, Option<i64>, bool) {
    (
        operation["name"].as_str().expect("a name"),
        operation["version"].as_u64(),
        operation["position"].as_i64(),
        operation["changed"].as_bool().expect("whether it changed"),
    )
}

#[tokio::test]
async fn a_batch_that_changes_nothing_writes_nothing() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    for name in ["a", "b"] {
        service.client.put(name, 1).await;
    }
    let nothing = json!([
        {"op": "set", "name": "b", "value": 1},
        {"op": "check", "name": "a", "if_version": 1},
        {"op": "delete", "name": "never", "missing_ok": true}
    ]);
    let answer = batch(nothing).send(&service.client).await;
    let told = answer.json();
    assert_eq!((answer.status.as_u16(), &told["changed"], &told["position"]), (200, &json!(false), &json!(2)));
    assert_eq!(told["recorded_at"], told["operations"][0]["recorded_at"]);

    let never = json!([{"op": "check", "name": "never", "if_version": 0}]);
    let told = batch(never).send(&service.client).await.json();
    assert_eq!((&told["changed"], &told["position"], &told["recorded_at"]), (&json!(false), &json!(0), &Value::Null));
    assert_eq!(names(&mut database.connect().await).await, ["a", "b"]);
}

#[tokio::test]
async fn the_first_operation_that_is_refused_is_named_and_nothing_is_written() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    for name in ["one", "two", "gone"] {
        service.client.put(name, 1).await;
    }
    service.client.put("two", 2).await;
    service.client.delete("gone").await;
    let before = names(&mut database.connect().await).await;
    for (refused, current_version) in [
        (json!({"op": "set", "name": "two", "value": 3, "if_version": 1}), 2),
        (json!({"op": "set", "name": "two", "value": 2, "if_version": 1}), 2),
        (json!({"op": "set", "name": "two", "value": 3, "if_version": 0}), 2),
        (json!({"op": "set", "name": "never", "value": 3, "if_version": 1}), 0),
        (json!({"op": "set", "name": "gone", "value": 3, "if_version": 2}), 0),
        (json!({"op": "delete", "name": "two", "if_version": 1}), 2),
        (json!({"op": "delete", "name": "two", "if_version": 1, "missing_ok": true}), 2),
        (json!({"op": "delete", "name": "two", "if_version": 0, "missing_ok": true}), 2),
        (json!({"op": "delete", "name": "gone", "if_version": 1, "missing_ok": true}), 0),
        (json!({"op": "delete", "name": "never"}), 0),
        (json!({"op": "delete", "name": "never", "missing_ok": false}), 0),
        (json!({"op": "delete", "name": "gone"}), 0),
        (json!({"op": "check", "name": "two", "if_version": 1}), 2),
        (json!({"op": "check", "name": "two", "if_version": 0}), 2),
        (json!({"op": "check", "name": "gone", "if_version": 2}), 0),
        (json!({"op": "check", "name": "never", "if_version": 1}), 0),
    ] {
        let write = batch(json!([
            {"op": "set", "name": "new", "value": 1}, {"op": "delete", "name": "one"}, refused,
            {"op": "check", "name": "refused too", "if_version": 9}
        ]));
        let answer = write.send(&service.client).await;
        let told = answer.json();
        assert_eq!(answer.status, 412, "{refused}: {told}");
        assert_eq!(told["type"], "urn:config-api:problem:precondition-failed");
        assert_eq!((&told["operation"], &told["name"]), (&json!(2), &refused["name"]), "{refused}");
        assert_eq!(told["current_version"], current_version, "{refused}");
        assert!(told["detail"].as_str().unwrap().contains("operations[2]"), "{told}");
    }
    assert_eq!(names(&mut database.connect().await).await, before);
    assert_eq!(written(&put("new", 1).send(&service.client).await), (200, 1, true), "it was never set");
}

/// Values of 64 KiB, so that it is quick: 128 of them are just what a batch may weigh.
#[tokio::test]
async fn a_batch_has_128_operations_at_most() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let mut connection = database.connect().await;
    let value = "x".repeat(64 * 1024 - 2);
    let sets = |count| (0..count).map(|n| json!({"op": "set", "name": n.to_string(), "value": value})).collect();
    let deletes = |count| (0..count).map(|n| json!({"op": "delete", "name": n.to_string()})).collect();
    let operations: [&dyn Fn(usize) -> Value; 2] = [&sets, &deletes];
    for (round, of_count) in operations.into_iter().enumerate() {
        let too_many = batch(of_count(129)).send(&service.client).await;
        assert_eq!(too_many.status, 413, "{too_many:?}");
        assert!(too_many.json()["detail"].as_str().unwrap().contains("129 operations; the limit is 128"));
        assert_eq!(names(&mut connection).await.len(), 128 * round);
        let answer = batch(of_count(128)).send(&service.client).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(names(&mut connection).await.len(), 128 * (round + 1));
    }
}

#[tokio::test]
async fn the_values_of_a_batch_have_8_mib_at_most() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    // As JSON it has its quotes too.
    let value = "x".repeat(MIB - 2);
    let mut operations: Vec<_> = (0..8).map(|n| json!({"op": "set", "name": n.to_string(), "value": value})).collect();
    let full = batch(Value::from(operations.clone()));
    operations.push(json!({"op": "set", "name": "one byte more", "value": 1}));
    let over = batch(Value::from(operations)).send(&service.client).await;
    assert_eq!(over.status, 413, "{over:?}");
    assert!(over.json()["detail"].as_str().unwrap().contains("8388609 bytes of values; the limit is 8388608 bytes"));
    assert_eq!(names(&mut database.connect().await).await, [""; 0]);

    let answer = full.send(&service.client).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["position"]), (200, &json!(8)));
    assert_eq!(names(&mut database.connect().await).await.len(), 8);
}
