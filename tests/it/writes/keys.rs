//! Idempotency keys: whose they are, how long they are kept, and what is none.

use std::time::Duration;

use command_service::store;
use end_to_end::{CommandService, Database, HeldLog, LogLines, until};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Write, batch, delete, is_replayed, put, rollback, told, written};
use crate::append::group::names;

#[tokio::test]
async fn a_key_that_comes_with_another_request_is_refused_also_while_the_first_is_running() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    let (first, second) = (CommandService::start(&database).await, CommandService::start(&database).await);
    for name in ["c", "d"] {
        first.client.put(name, 1).await;
        first.client.put(name, 2).await;
    }
    let set = |value: u32| batch(json!([{"op": "set", "name": "e", "value": value}]));
    let other_name = batch(json!([{"op": "set", "name": "f", "value": 1}]));
    for (n, (write, others)) in [
        (put("a", 1), vec![put("a", 2), put("a", 1).with("if-none-match", "*"), put("a", 1).with("if-match", "*")]),
        (put("b", 1).with("if-none-match", "*"), vec![put("b", 1)]),
        (delete("c"), vec![delete("c").with("if-match", "\"2\"")]),
        (rollback("d", json!({ "version": 1 })), vec![rollback("d", json!({ "version": 2 }))]),
        (set(1), vec![set(2), other_name]),
    ]
    .into_iter()
    .enumerate()
    {
        let key = n.to_string();
        let before = names(&mut connection).await.len();
        let mut log = HeldLog::take(&database).await;
        let (mut sending, mut refused) = (JoinSet::new(), JoinSet::new());
        sending.spawn(write.clone().keyed(&key).sent_to(first.client.clone()));
        log.until_waiting(1).await;
        refused.spawn(others[0].clone().keyed(&key).sent_to(first.client.clone()));
        refused.spawn(others[0].clone().keyed(&key).sent_to(second.client.clone()));
        // The lock is granted in the order of asking.
        log.until_waiting(2).await;
        log.release().await;
        let done = sending.join_next().await.unwrap().unwrap();
        assert_eq!((done.status.as_u16(), is_replayed(&done)), (200, false), "{write:?}: {done:?}");

        let mut answers = refused.join_all().await;
        for other in &others {
            for service in [&first, &second] {
                answers.push(other.clone().keyed(&key).send(&service.client).await);
            }
        }
        for answer in answers {
            assert_eq!(answer.status, 422, "{answer:?}");
            assert_eq!(answer.json()["type"], "urn:config-api:problem:idempotency-key-reused");
            assert!(!is_replayed(&answer));
        }
        let again = write.clone().keyed(&key).send(&second.client).await;
        assert_eq!((told(&again), is_replayed(&again)), (told(&done), true));
        assert_eq!(names(&mut connection).await.len(), before + 1, "{write:?}");
    }
}

#[tokio::test]
async fn a_key_is_one_of_its_route_and_name() {
    let service = CommandService::start(&Database::new().await).await;
    for name in ["a", "b"] {
        service.client.put(name, 0).await;
    }
    for (write, version) in [
        (put("a", 1), 2),
        (put("b", 1), 2),
        (delete("a"), 3),
        (delete("b"), 3),
        (rollback("a", json!({ "version": 1 })), 4),
        (rollback("b", json!({ "version": 1 })), 4),
    ] {
        let answer = write.keyed("k").send(&service.client).await;
        assert_eq!((written(&answer), is_replayed(&answer)), ((200, version, true), false));
    }
    let answer = batch(json!([{"op": "set", "name": "a", "value": 1}])).keyed("k").send(&service.client).await;
    assert_eq!((answer.json()["operations"][0]["version"].as_u64(), is_replayed(&answer)), (Some(5), false));
}

#[tokio::test]
async fn a_key_whose_time_is_up_is_new_again() {
    let database = Database::new().await;
    let shortly =
        command_service::Config { key_lifetime: Duration::from_micros(1), ..CommandService::config(&database.url) };
    let service = CommandService::start_with(shortly).await;
    let send = async |write: Write| {
        let answer = write.keyed("k").send(&service.client).await;
        (written(&answer), is_replayed(&answer))
    };
    assert_eq!(send(put("a", 1)).await, ((200, 1, true), false));
    assert_eq!(send(put("a", 2)).await, ((200, 2, true), false), "another request");
    assert_eq!(send(put("a", 1)).await, ((200, 3, true), false), "the first one again");
    assert_eq!(send(put("a", 1)).await, ((200, 3, false), false), "decided anew");

    // The last of them is kept as long as the next service says.
    let other = CommandService::start(&database).await;
    for (value, replayed) in [(2, false), (2, true)] {
        let answer = put("a", value).keyed("k").send(&other.client).await;
        assert_eq!((written(&answer), is_replayed(&answer)), ((200, 4, true), replayed));
    }
}

#[tokio::test]
async fn keys_whose_time_is_up_are_removed_and_no_others() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    let service = CommandService::start(&database).await;
    let kept = put("a", 1).keyed("k");
    let first = kept.send(&service.client).await;
    service.stop().await.unwrap();
    // More than one statement removes.
    database
        .execute(
            "insert into idempotency_keys (key_hash, request_hash, answer, expires_at)
             select sha256(n::text::bytea), sha256(''), '{}', now() - interval '1 second' from generate_series(1, 2500) n",
        )
        .await;
    let (stop, mut task) = (CancellationToken::new(), JoinSet::new());
    task.spawn(store::sweep(database.pool(1).await, stop.clone()));
    until("only one key is left", async || {
        let left: i64 =
            sqlx::query_scalar("select count(*) from idempotency_keys").fetch_one(&mut connection).await.unwrap();
        (left == 1).then_some(())
    })
    .await;
    stop.cancel();
    task.join_next().await.unwrap().unwrap().unwrap();

    let service = CommandService::start(&database).await;
    let again = kept.send(&service.client).await;
    assert_eq!((told(&again), is_replayed(&again)), (told(&first), true));
}

#[tokio::test]
async fn expired_keys_that_cannot_be_removed_stop_nobody() {
    let log = LogLines::collect();
    let database = Database::new().await;
    database.execute("alter table idempotency_keys rename to gone").await;
    let (stop, mut task) = (CancellationToken::new(), JoinSet::new());
    task.spawn(store::sweep(database.pool(1).await, stop.clone()));
    until("it is told", async || log.has("[warning] Expired idempotency keys could not be removed").then_some(()))
        .await;
    tokio::task::yield_now().await;
    assert!(task.try_join_next().is_none(), "it looks again later");
    stop.cancel();
    task.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_is_no_key_is_refused_on_every_route() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let long = "x".repeat(256);
    let operations = json!([{"op": "set", "name": "a", "value": 1}]);
    for write in [put("a", 1), delete("a"), rollback("a", json!({ "version": 1 })), batch(operations)] {
        for keys in [&[""][..], &["a b"], &["a\tb"], &[&long], &["k", "k"], &["k", "l"]] {
            let write = keys.iter().fold(write.clone(), |write, key| write.keyed(key));
            let answer = write.send(&service.client).await;
            assert_eq!(answer.status, 400, "{write:?}: {answer:?}");
            assert_eq!(answer.json()["type"], "urn:config-api:problem:invalid-idempotency-key");
        }
    }
    let not_ascii = "DELETE /config/a HTTP/1.1\r\nhost: x\r\nidempotency-key: ä\r\nconnection: close\r\n\r\n";
    assert!(service.client.raw(not_ascii).await.starts_with("HTTP/1.1 400 "));
    assert_eq!(names(&mut database.connect().await).await, [""; 0]);
    let just_fits = put("a", 1).keyed(&long[1..]).send(&service.client).await;
    assert_eq!(written(&just_fits), (200, 1, true));
}

/// It was not carried out, so nothing is kept: the corrected request may come with the same key.
#[tokio::test]
async fn a_request_that_is_no_request_uses_no_key_up() {
    let service = CommandService::start(&Database::new().await).await;
    let good = put("a", 1).keyed("k");
    for body in ["{", r#"{"valu":1}"#] {
        let malformed = Write { body: Some(body.to_owned()), ..good.clone() };
        assert_eq!(malformed.send(&service.client).await.status, 400, "{body}");
    }
    let answer = good.send(&service.client).await;
    assert_eq!((written(&answer), is_replayed(&answer)), ((200, 1, true), false));
}
