//! A name that somebody else changes after a batch has loaded it, and before it is written: the batch is decided again, on
//! what is there then.

use end_to_end::{Answer, CommandService, Database, HeldLog};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{batch, stock_write};
use crate::append::group::log;

/// Sends a batch, and changes `y` (which has version 1, its value `"1"`) once the batch is decided; the answer, and what is in
/// the log after that: name and version.
async fn between_load_and_append(operations: Value, changes: &[Option<&str>]) -> (Answer, Vec<(String, i64)>) {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    service.client.put("y", "1").await;
    let mut held = HeldLog::take(&database).await;
    let mut sending = JoinSet::new();
    sending.spawn(batch(operations).sent_to(service.client.clone()));
    held.until_waiting(1).await;
    let changed: Vec<_> = changes.iter().map(|value| stock_write("y", *value)).collect();
    held.write_and_release(&changed.join(";")).await;
    let answer = sending.join_next().await.expect("it was sent").expect("it is answered");
    let log = log(&mut database.connect().await).await;
    (answer, log.into_iter().skip(1 + changes.len()).map(|event| (event.name, event.sequence)).collect())
}

fn of(log: &[(String, i64)]) -> Vec<(&str, i64)> {
    log.iter().map(|(name, version)| (name.as_str(), *version)).collect()
}

#[tokio::test]
async fn a_check_that_no_longer_holds_refuses_the_batch() {
    for depends in [
        json!({"op": "check", "name": "y", "if_version": 1}),
        json!({"op": "set", "name": "y", "value": "3", "if_version": 1}),
        json!({"op": "set", "name": "y", "value": "1", "if_version": 1}),
        json!({"op": "delete", "name": "y", "if_version": 1}),
    ] {
        let operations = json!([{"op": "set", "name": "x", "value": 1}, depends]);
        let (answer, log) = between_load_and_append(operations, &[Some("2")]).await;
        let told = answer.json();
        assert_eq!((answer.status.as_u16(), &told["operation"]), (412, &json!(1)), "{depends}: {told}");
        assert_eq!((&told["name"], &told["current_version"]), (&json!("y"), &json!(2)));
        assert_eq!(of(&log), [], "{depends}");
    }
}

#[tokio::test]
async fn a_delete_of_what_is_gone_by_now_refuses_the_batch() {
    let operations = json!([{"op": "set", "name": "x", "value": 1}, {"op": "delete", "name": "y"}]);
    let (answer, log) = between_load_and_append(operations, &[None]).await;
    let told = answer.json();
    assert_eq!((answer.status.as_u16(), &told["operation"], &told["current_version"]), (412, &json!(1), &json!(0)));
    assert_eq!(of(&log), []);
}

#[tokio::test]
async fn what_asks_for_no_version_is_written_over_the_other_change() {
    let operations = json!([{"op": "set", "name": "x", "value": 1}, {"op": "set", "name": "y", "value": "3"}]);
    let (answer, log) = between_load_and_append(operations, &[Some("2")]).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["operations"][1]["version"]), (200, &json!(3)));
    assert_eq!(of(&log), [("x", 1), ("y", 3)]);
}

/// It would have changed nothing; it is only right to leave it out if that still holds when the others are written.
#[tokio::test]
async fn what_was_unchanged_is_written_when_it_is_changed_meanwhile() {
    let operations = json!([{"op": "set", "name": "x", "value": 1}, {"op": "set", "name": "y", "value": "1"}]);
    let (answer, log) = between_load_and_append(operations, &[Some("2")]).await;
    let told = answer.json();
    assert_eq!((&told["operations"][1]["changed"], &told["operations"][1]["version"]), (&json!(true), &json!(3)));
    assert_eq!(of(&log), [("x", 1), ("y", 3)]);
}

#[tokio::test]
async fn what_is_deleted_meanwhile_need_not_be_deleted_any_more() {
    let operations = json!([
        {"op": "set", "name": "x", "value": 1}, {"op": "delete", "name": "y", "missing_ok": true}
    ]);
    let (answer, log) = between_load_and_append(operations, &[None]).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["operations"][1]["changed"]), (200, &json!(false)));
    assert_eq!(of(&log), [("x", 1)]);
}

/// Another version than the one that was loaded, but the check asks for that one's absence only, which it still is.
#[tokio::test]
async fn a_check_that_holds_again_lets_the_batch_through() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let mut held = HeldLog::take(&database).await;
    let mut sending = JoinSet::new();
    let operations = json!([{"op": "set", "name": "x", "value": 1}, {"op": "check", "name": "y", "if_version": 0}]);
    sending.spawn(batch(operations).sent_to(service.client.clone()));
    held.until_waiting(1).await;
    held.write_and_release(&format!("{}; {}", stock_write("y", Some("1")), stock_write("y", None))).await;
    let answer = sending.join_next().await.unwrap().unwrap();
    assert_eq!((answer.status.as_u16(), &answer.json()["operations"][1]["version"]), (200, &json!(2)), "{answer:?}");
    let log = log(&mut database.connect().await).await;
    assert_eq!(log.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["y", "y", "x"]);
}
