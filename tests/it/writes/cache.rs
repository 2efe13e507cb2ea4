//! What a command service remembers and somebody else changed behind its back: it may not refuse, nor answer that nothing
//! changes, by memory; and what it grants by memory is verified.

use end_to_end::{Answer, CommandService, Database, services::Running};
use serde_json::json;

use super::{Write, batch, delete, put, refused, rollback, stock_write, written};
use crate::append::group::names;

/// Who changes names behind the service's back.
#[derive(Clone, Copy, Debug)]
enum Other {
    /// Another command service.
    Process,
    /// A writer by `postgres-es`.
    Stock,
}

/// What the service remembers of a name: its values, `None` being a deletion. What others make of it, likewise.
type History<'a> = &'a [Option<&'a str>];

/// What comes of each of these writes after the service knew `known` and others wrote `behind`.
async fn after<T>(known: History<'_>, behind: History<'_>, write: Write, seen: impl Fn(&Answer) -> T) -> [T; 2] {
    let mut outcomes = Vec::new();
    for other in [Other::Process, Other::Stock] {
        let database = Database::new().await;
        let service = CommandService::start(&database).await;
        // It remembers also that there is nothing.
        assert_eq!(service.client.delete("a").await.status, 404);
        for value in known {
            match value {
                Some(value) => assert_eq!(put("a", *value).send(&service.client).await.status, 200),
                None => assert_eq!(service.client.delete("a").await.status, 200),
            }
        }
        match other {
            Other::Stock => {
                for value in behind {
                    database.execute(&stock_write("a", *value)).await;
                }
            }
            Other::Process => {
                let other = CommandService::start(&database).await;
                for value in behind {
                    let write = value.map_or_else(|| delete("a"), |value| put("a", value));
                    assert_eq!(write.send(&other.client).await.status, 200);
                }
            }
        }
        let before = names(&mut database.connect().await).await.len();
        let answer = write.send(&service.client).await;
        let events = names(&mut database.connect().await).await.len() - before;
        let changed = answer.status == 200 && answer.json()["changed"] == true;
        assert_eq!(events, usize::from(changed), "{other:?} {write:?}: {answer:?}");
        outcomes.push(seen(&answer));
    }
    outcomes.try_into().unwrap_or_else(|_| unreachable!("two others"))
}

const ONE: History<'_> = &[Some("1")];
const TWO: History<'_> = &[Some("2")];
const DELETED: History<'_> = &[None];

#[tokio::test]
async fn the_remembered_value_is_not_taken_for_unchanged() {
    assert_eq!(after(ONE, TWO, put("a", "1"), written).await, [(200, 3, true); 2]);
    assert_eq!(after(ONE, DELETED, put("a", "1"), written).await, [(200, 3, true); 2]);
    let back = rollback("a", json!({ "version": 1 }));
    assert_eq!(after(ONE, TWO, back, written).await, [(200, 3, true); 2]);
    let clear = || batch(json!([{"op": "delete", "name": "a", "missing_ok": true}]));
    assert_eq!(after(&[], ONE, clear(), written_first).await, [(200, 2, true); 2]);
    let set = || batch(json!([{"op": "set", "name": "a", "value": "1"}]));
    assert_eq!(after(ONE, TWO, set(), written_first).await, [(200, 3, true); 2]);
}

#[tokio::test]
async fn a_precondition_is_not_refused_by_memory() {
    let set = || put("a", "3");
    assert_eq!(after(ONE, TWO, set().with("if-match", "\"2\""), written).await, [(200, 3, true); 2]);
    assert_eq!(after(&[], ONE, set().with("if-match", "*"), written).await, [(200, 2, true); 2]);
    assert_eq!(after(&[], ONE, delete("a").with("if-match", "\"1\""), written).await, [(200, 2, true); 2]);
    assert_eq!(after(ONE, DELETED, set().with("if-none-match", "*"), written).await, [(200, 3, true); 2]);
    let back = rollback("a", json!({ "version": 1 })).with("if-match", "\"2\"");
    assert_eq!(after(ONE, TWO, back, written).await, [(200, 3, true); 2]);
    let set = batch(json!([{"op": "set", "name": "a", "value": "3", "if_version": 2}]));
    assert_eq!(after(ONE, TWO, set, written_first).await, [(200, 3, true); 2]);
    let check = batch(json!([{"op": "check", "name": "a", "if_version": 2}]));
    assert_eq!(after(ONE, TWO, check, written_first).await, [(200, 2, false); 2]);
}

#[tokio::test]
async fn nothing_is_missing_or_gone_by_memory() {
    assert_eq!(after(&[], ONE, delete("a"), written).await, [(200, 2, true); 2]);
    assert_eq!(after(&[Some("1"), None], TWO, delete("a"), written).await, [(200, 4, true); 2]);
    let back = rollback("a", json!({ "version": 2 }));
    assert_eq!(after(ONE, &[Some("2"), Some("3")], back, written).await, [(200, 4, true); 2]);
    let delete = batch(json!([{"op": "delete", "name": "a"}]));
    assert_eq!(after(&[], ONE, delete, written_first).await, [(200, 2, true); 2]);
}

#[tokio::test]
async fn what_memory_grants_is_verified() {
    assert_eq!(after(ONE, TWO, put("a", "3"), written).await, [(200, 3, true); 2], "unconditional");
    assert_eq!(after(ONE, TWO, put("a", "2"), written).await, [(200, 2, false); 2], "it has that value by now");
    assert_eq!(after(ONE, TWO, put("a", "3").with("if-match", "\"1\""), refused).await, [(412, Some(2)); 2]);
    assert_eq!(after(&[], ONE, put("a", "3").with("if-none-match", "*"), refused).await, [(412, Some(1)); 2]);
    assert_eq!(after(ONE, DELETED, put("a", "3").with("if-match", "*"), refused).await, [(412, Some(0)); 2]);
    assert_eq!(after(ONE, DELETED, delete("a"), refused).await, [(410, None); 2]);
    let checked = || batch(json!([{"op": "set", "name": "a", "value": "3", "if_version": 1}]));
    assert_eq!(after(ONE, TWO, checked(), refused).await, [(412, Some(2)); 2]);
}

/// Behind a new connection there may be a server that has lost the last versions, and has given them to others since.
#[tokio::test]
async fn what_is_remembered_of_a_server_before_a_failover_decides_nothing() {
    let (database, service) = failed_over().await;
    assert_eq!(written(&put("b", 1).send(&service.client).await), (200, 1, true), "over a new connection");
    assert_eq!(refused(&delete("a").send(&service.client).await), (410, None));
    assert_eq!(names(&mut database.connect().await).await, ["a", "a", "b"]);
}

/// The first write behind a failover is decided before anybody knows of it.
#[tokio::test]
async fn what_was_decided_before_a_failover_was_noticed_is_decided_anew() {
    for (write, outcome) in [
        (delete("a"), (410, None)),
        (put("a", "3").with("if-match", "\"2\""), (412, Some(0))),
        (batch(json!([{"op": "set", "name": "a", "value": "3", "if_version": 2}])), (412, Some(0))),
    ] {
        let (database, service) = failed_over().await;
        assert_eq!(refused(&write.send(&service.client).await), outcome, "{write:?}");
        assert_eq!(names(&mut database.connect().await).await, ["a", "a"]);
        // Nothing of it is left behind.
        assert_eq!(written(&put("a", "4").send(&service.client).await), (200, 3, true));
    }
}

#[tokio::test]
async fn a_version_that_a_failover_lost_never_was_whatever_is_remembered() {
    let (database, service) = with_a_version_lost().await;
    assert_eq!(refused(&rollback("a", json!({ "version": 2 })).send(&service.client).await), (404, None));
    assert_eq!(names(&mut database.connect().await).await, ["a"]);
}

/// A service that knows `a` as `"2"`, its second version, which its server has lost.
async fn with_a_version_lost() -> (Database, Running) {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    for value in ["1", "2"] {
        service.client.put("a", value).await;
    }
    database.rewrite_from(2, &[]).await;
    (database, service)
}

/// The same, and its server has given that version to a deletion, behind a new connection.
async fn failed_over() -> (Database, Running) {
    let (database, service) = with_a_version_lost().await;
    database.execute(&stock_write("a", None)).await;
    database
        .execute(
            "select pg_terminate_backend(pid) from pg_stat_activity
              where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await;
    (database, service)
}

/// Of a batch of one operation.
fn written_first(answer: &Answer) -> (u16, u64, bool) {
    let first = &answer.json()["operations"][0];
    let version = first["version"].as_u64().expect("a version");
    (answer.status.as_u16(), version, first["changed"].as_bool().expect("whether it changed"))
}
