//! Rollbacks: a configuration becomes what it was, by a new event.

use end_to_end::{CommandService, Database, Standalone, until};
use serde_json::{Value, json};
use sqlx::Connection;

use super::{Write, put, refused, rollback, written};
use crate::{append::group::names, committer::outages::set_read_only};

/// Versions of `a`: 1 = "one", 2 = deleted, 3 = "three".
async fn with_history() -> (Database, end_to_end::services::Running) {
    let database = Database::new().await;
    let standalone = Standalone::start(&database).await;
    standalone.client.put("a", "one").await;
    standalone.client.delete("a").await;
    standalone.client.put("a", "three").await;
    (database, standalone)
}

#[tokio::test]
async fn a_rollback_goes_to_a_version_and_its_history_says_so() {
    let (_database, standalone) = with_history().await;
    let client = &standalone.client;
    for (body, version, value, reason) in [
        (json!({ "version": 1 }), 4, Some("one"), "rollback to version 1"),
        (json!({ "version": 2, "reason": "bad" }), 5, None, "rollback to version 2: bad"),
        (json!({ "version": 4 }), 6, Some("one"), "rollback to version 4"),
        (json!({ "version": 3, "reason": "" }), 7, Some("three"), "rollback to version 3: "),
    ] {
        let answer = rollback("a", body).send(client).await;
        assert_eq!(written(&answer), (200, version, true));
        let now = client.value("a").await;
        match value {
            Some(value) => {
                assert_eq!(now.short(), (200, value), "the next read shows it");
                assert_eq!(answer.header("etag"), format!("\"{version}\""));
            }
            None => assert_eq!((now.status.as_u16(), answer.header("etag")), (404, "")),
        }
        let history = client.get("/v1/config/a/history").await.json();
        let entry = history.as_array().unwrap().iter().find(|entry| entry["stream_version"] == version).unwrap();
        assert_eq!(entry["metadata"]["reason"], reason);
    }
}

#[tokio::test]
async fn a_rollback_goes_to_the_state_of_a_time() {
    let (_database, standalone) = with_history().await;
    let client = &standalone.client;
    let history = client.get("/v1/config/a/history").await.json();
    let at = |version: u64| {
        let entry = history.as_array().unwrap().iter().find(|entry| entry["stream_version"] == version);
        entry.unwrap()["created_at"].clone()
    };
    for (version, value) in [(1, Some("one")), (2, None), (3, Some("three"))] {
        client.put("a", "now").await;
        let answer = rollback("a", json!({ "at": at(version) })).send(client).await;
        assert!(written(&answer).2, "{answer:?}");
        let now = client.value("a").await;
        assert_eq!(value.map_or((404, "Not Found"), |value| (200, value)), now.short());
        let newest = client.get("/v1/config/a/history?limit=1").await.json();
        assert_eq!(newest[0]["metadata"]["reason"], format!("rollback to version {version}"));
    }
}

#[tokio::test]
async fn a_rollback_to_what_it_is_already_writes_nothing() {
    let (database, standalone) = with_history().await;
    let client = &standalone.client;
    let before = names(&mut database.connect().await).await;
    for to in [json!({ "version": 3 }), json!({ "at": "9999-01-01T00:00:00Z" })] {
        assert_eq!(written(&rollback("a", to).send(client).await), (200, 3, false));
    }
    client.delete("a").await;
    // Deleted then, and deleted now.
    let answer = rollback("a", json!({ "version": 2 })).send(client).await;
    assert_eq!((written(&answer), answer.header("etag")), ((200, 4, false), ""));
    assert_eq!(names(&mut database.connect().await).await.len(), before.len() + 1);
}

#[tokio::test]
async fn a_rollback_to_what_never_was_is_not_found() {
    let (database, standalone) = with_history().await;
    let before = names(&mut database.connect().await).await;
    for (name, to, last_version) in [
        ("a", json!({ "version": 4 }), 3),
        ("a", json!({ "version": u64::MAX }), 3),
        ("a", json!({ "at": "2001-01-01T00:00:00Z" }), 3),
        ("never", json!({ "version": 1 }), 0),
        ("never", json!({ "at": "9999-01-01T00:00:00Z" }), 0),
    ] {
        let answer = rollback(name, to.clone()).send(&standalone.client).await;
        let told = answer.json();
        assert_eq!((answer.status.as_u16(), &told["last_version"]), (404, &json!(last_version)), "{name} {to}: {told}");
        assert_eq!(told["type"], "urn:config-api:problem:not-found");
    }
    assert_eq!(names(&mut database.connect().await).await, before);
}

#[tokio::test]
async fn a_rollback_happens_only_if_its_precondition_holds() {
    let service = CommandService::start(&Database::new().await).await;
    let client = &service.client;
    for value in ["one", "two"] {
        client.put("a", value).await;
    }
    let to_first = || rollback("a", json!({ "version": 1 }));
    assert_eq!(refused(&to_first().with("if-match", "\"1\"").send(client).await), (412, Some(2)));
    assert_eq!(refused(&to_first().with("if-none-match", "*").send(client).await), (412, Some(2)));
    let to_current = rollback("a", json!({ "version": 2 })).with("if-match", "\"1\"");
    assert_eq!(refused(&to_current.send(client).await), (412, Some(2)), "also when nothing would change");
    assert_eq!(written(&to_first().with("if-match", "\"2\"").send(client).await), (200, 3, true));
    client.delete("a").await;
    assert_eq!(refused(&to_first().with("if-match", "*").send(client).await), (412, Some(0)));
    assert_eq!(written(&to_first().with("if-none-match", "*").send(client).await), (200, 5, true));
    assert_eq!(written(&put("a", "one").send(client).await), (200, 5, false), "it is the first value");
}

/// It may be a primary that was demoted, whose last versions nobody else has.
#[tokio::test]
async fn a_rollback_takes_nothing_from_a_server_that_takes_no_writes() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    for value in ["one", "two"] {
        service.client.put("a", value).await;
    }
    let mut admin = database.connect().await;
    set_read_only(&mut admin, "on").await;
    // The pool's sessions only: the others would be waited for.
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()
                  and query not like '%append_events%' and query not like '%wanted (name, index)%'";
    let _ended: i64 = sqlx::query_scalar(end).fetch_one(&mut admin).await.unwrap();
    let to_first = rollback("a", json!({ "version": 1 }));
    let answer = to_first.send(&service.client).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.json()["type"], "urn:config-api:problem:event-store-unavailable");
    assert_eq!(names(&mut admin).await, ["a", "a"]);
    set_read_only(&mut admin, "off").await;
    assert_eq!(written(&to_first.send(&service.client).await), (200, 3, true));
}

#[tokio::test]
async fn each_fault_of_a_rollback_is_named_and_nothing_is_written() {
    let (database, standalone) = with_history().await;
    let before = names(&mut database.connect().await).await;
    let long = format!(r#"{{"version":1,"reason":"{}"}}"#, "x".repeat(1025));
    for (body, status, code, sentence) in [
        ("", 400, "missing-body", "The body is missing"),
        ("{", 400, "malformed-json", "EOF"),
        ("{}", 400, "invalid-body", "Neither `version` nor `at`"),
        (r#"{"reason":"x"}"#, 400, "invalid-body", "Neither `version` nor `at`"),
        (r#"{"version":1,"at":"2024-01-15T10:30:00Z"}"#, 400, "invalid-body", "exclude each other"),
        (r#"{"version":0}"#, 400, "invalid-body", "no version 0"),
        (r#"{"version":-1}"#, 400, "invalid-body", "expected u64"),
        (r#"{"version":"1"}"#, 400, "invalid-body", "expected u64"),
        (r#"{"version":1.0}"#, 400, "invalid-body", "expected u64"),
        (r#"{"version":1,"value":2}"#, 400, "invalid-body", "unknown field `value`"),
        (r#"{"at":1705314600}"#, 400, "invalid-body", "expected a string"),
        (r#"{"at":"yesterday"}"#, 400, "invalid-timestamp", "ISO8601"),
        (r#"{"at":"2024-01-15"}"#, 400, "invalid-timestamp", "ISO8601"),
        (r#"{"at":"2024-01-15T10:30:00"}"#, 400, "invalid-timestamp", "ISO8601"),
        (r#"{"version":1,"reason":"\u0000"}"#, 422, "invalid-reason", "NUL"),
        (&long, 413, "too-large", "the limit is 1024 bytes"),
    ] {
        let answer = Write { body: Some(body.to_owned()), ..rollback("a", Value::Null) }.send(&standalone.client).await;
        let told = answer.json();
        assert_eq!(answer.status.as_u16(), status, "{body}: {told}");
        assert_eq!(told["type"], format!("urn:config-api:problem:{code}"), "{body}: {told}");
        assert!(told["detail"].as_str().unwrap().contains(sentence), "{sentence:?} is not in {told}");
    }
    assert_eq!(names(&mut database.connect().await).await, before);
}

/// What somebody else's tool cancelled may be asked for again, and is no fault of the service.
#[tokio::test]
async fn a_rollback_whose_look_back_is_cancelled_is_unavailable_and_nothing_is_written() {
    let (database, standalone) = with_history().await;
    let (mut holder, mut watcher) = (database.connect().await, database.connect().await);
    let mut holding = holder.begin().await.unwrap();
    sqlx::query("lock table events in access exclusive mode").execute(&mut *holding).await.unwrap();
    let cancelled = async {
        until("the look back waits", async || {
            let cancel = "select pg_cancel_backend(pid) from pg_stat_activity
                           where datname = current_database() and wait_event_type = 'Lock' and query like '%e.sequence = $3%'";
            sqlx::query_scalar::<_, bool>(cancel).fetch_optional(&mut watcher).await.expect("it answers")
        })
        .await;
        holding.rollback().await.unwrap();
    };
    let asked = rollback("a", json!({ "version": 1 }));
    let (answer, ()) = tokio::join!(asked.send(&standalone.client), cancelled);
    assert_eq!((answer.status.as_u16(), answer.header("retry-after").is_empty()), (503, false), "{answer:?}");
    assert_eq!(names(&mut database.connect().await).await.len(), 3);
}
