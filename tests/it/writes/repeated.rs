//! A write that is repeated with its Idempotency-Key gets its first answer, whatever that was and whoever is asked.

use end_to_end::{Client, CommandService, Database, HeldLog, LogLines, Proxy, until};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use tokio::task::JoinSet;

use super::{Write, batch, delete, is_replayed, put, rollback, told, written};
use crate::append::group::names;

/// Every kind of write with every kind of outcome, each with a key of its own; its status, and how many events it writes.
async fn every_write(client: &Client) -> Vec<(Write, u16, usize)> {
    for name in ["same", "stale", "there", "gone", "back", "still", "short", "b-there", "b-same"] {
        client.put(name, 1).await;
    }
    for name in ["stale", "back"] {
        client.put(name, 2).await;
    }
    client.delete("gone").await;
    let done = json!([
        {"op": "set", "name": "b-new", "value": 1}, {"op": "check", "name": "b-never", "if_version": 0},
        {"op": "delete", "name": "b-there"}
    ]);
    let nothing = json!([
        {"op": "set", "name": "b-same", "value": 1}, {"op": "delete", "name": "b-never", "missing_ok": true}
    ]);
    let refused =
        json!([{"op": "set", "name": "b-unwritten", "value": 1}, {"op": "check", "name": "b-same", "if_version": 9}]);
    let writes = [
        (put("new", 1), 200, 1),
        (put("same", 1), 200, 0),
        (put("stale", 3).with("if-match", "\"1\""), 412, 0),
        (delete("there"), 200, 1),
        (delete("never"), 404, 0),
        (delete("gone"), 410, 0),
        (rollback("back", json!({ "version": 1 })), 200, 1),
        (rollback("still", json!({ "version": 1 })), 200, 0),
        (rollback("short", json!({ "version": 7 })), 404, 0),
        (batch(done), 200, 2),
        (batch(nothing), 200, 0),
        (batch(refused), 412, 0),
    ];
    let keyed =
        |(n, (write, status, events)): (usize, (Write, u16, usize))| (write.keyed(&n.to_string()), status, events);
    writes.into_iter().enumerate().map(keyed).collect()
}

#[tokio::test]
async fn a_repeated_write_gets_its_first_answer_from_any_process_also_after_other_changes_and_a_restart() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    let (first, second) = (CommandService::start(&database).await, CommandService::start(&database).await);
    let mut answers = vec![];
    for (write, status, events) in every_write(&first.client).await {
        let before = names(&mut connection).await.len();
        let answer = write.send(&first.client).await;
        assert_eq!((answer.status.as_u16(), is_replayed(&answer)), (status, false), "{write:?}: {answer:?}");
        assert_eq!(names(&mut connection).await.len() - before, events, "{write:?}");
        answers.push((write, answer));
    }
    let repeat = async |client: &Client| {
        for (write, first) in &answers {
            let answer = write.send(client).await;
            assert_eq!((told(&answer), is_replayed(&answer)), (told(first), true), "{write:?}");
        }
    };
    let log = names(&mut connection).await;
    repeat(&first.client).await;
    repeat(&second.client).await;
    assert_eq!(names(&mut connection).await, log);

    let changed = ["new", "same", "stale", "there", "never", "gone", "back", "still", "short", "b-new", "b-same"];
    for name in changed {
        second.client.put(name, "changed by somebody else").await;
    }
    repeat(&first.client).await;
    repeat(&second.client).await;
    first.stop().await.unwrap();
    repeat(&CommandService::start(&database).await.client).await;
    assert_eq!(names(&mut connection).await, [log, changed.map(str::to_owned).to_vec()].concat());
}

#[tokio::test]
async fn a_write_that_is_repeated_while_the_first_attempt_runs_is_carried_out_once_and_answered_the_same() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    let (first, second) = (CommandService::start(&database).await, CommandService::start(&database).await);
    for (write, status, events) in every_write(&first.client).await {
        let before = names(&mut connection).await.len();
        let mut log = HeldLog::take(&database).await;
        let mut sending = JoinSet::new();
        sending.spawn(write.clone().sent_to(first.client.clone()));
        log.until_waiting(1).await;
        sending.spawn(write.clone().sent_to(first.client.clone()));
        sending.spawn(write.clone().sent_to(second.client.clone()));
        log.until_waiting(2).await;
        log.release().await;

        let answers = sending.join_all().await;
        for answer in &answers {
            assert_eq!((answer.status.as_u16(), told(answer)), (status, told(&answers[0])), "{write:?}");
        }
        let replayed = answers.iter().filter(|answer| is_replayed(answer)).count();
        assert_eq!(replayed, 2, "one of three was carried out: {write:?}");
        assert_eq!(names(&mut connection).await.len() - before, events, "{write:?}");
    }
}

/// The commit succeeds and its answer is lost: the service finds its own key, and must not take it for another's.
#[tokio::test]
async fn a_write_whose_service_lost_its_connection_to_the_log_is_not_answered_as_a_repeated_one() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    let network = Proxy::to(&database).await;
    let service = CommandService::start(&network.database).await;
    for (keys, (write, status, events)) in (1..).zip(every_write(&service.client).await) {
        let before = names(&mut connection).await.len();
        let mut log = HeldLog::take(&database).await;
        let mut sending = JoinSet::new();
        sending.spawn(write.clone().sent_to(service.client.clone()));
        log.until_waiting(1).await;
        network.lose_answers();
        log.release().await;
        until("its key is in the log", async || {
            let count: i64 =
                sqlx::query_scalar("select count(*) from idempotency_keys").fetch_one(&mut connection).await.unwrap();
            (count == keys).then_some(())
        })
        .await;
        assert!(sending.try_join_next().is_none(), "nobody can know yet");
        network.down().await;
        network.up();

        let first = sending.join_next().await.unwrap().unwrap();
        assert_eq!((first.status.as_u16(), is_replayed(&first)), (status, false), "{write:?}: {first:?}");
        let again = write.send(&service.client).await;
        assert_eq!((told(&again), is_replayed(&again)), (told(&first), true), "{write:?}");
        assert_eq!(names(&mut connection).await.len() - before, events, "{write:?}");
    }
}

#[tokio::test]
async fn a_write_repeated_on_the_unversioned_route_gets_its_first_answer() {
    let service = CommandService::start(&Database::new().await).await;
    for write in [put("a", 1).keyed("k"), delete("a").keyed("k")] {
        let first = write.send(&service.client).await;
        let twin = Write { path: "/config/a".to_owned(), ..write };
        let again = twin.send(&service.client).await;
        assert_eq!((told(&again), is_replayed(&again)), (told(&first), true), "{twin:?}");
        assert_eq!((first.status.as_u16(), is_replayed(&first)), (200, false));
    }
}

#[tokio::test]
async fn the_worker_is_not_told_again_of_a_repeated_write() {
    let log = LogLines::collect();
    let service = CommandService::start(&Database::new().await).await;
    let several = batch(json!([{"op": "set", "name": "b", "value": 1}, {"op": "set", "name": "c", "value": 1}]));
    for write in [put("a", 1).keyed("k"), several.keyed("k")] {
        for _ in 0..3 {
            assert_eq!(write.send(&service.client).await.status, 200);
        }
    }
    assert_eq!(written(&put("last", 1).send(&service.client).await), (200, 1, true));
    let told = until("the worker heard of the last one", async || {
        log.lines().into_iter().find(|line| line.starts_with("[info] Config updated") && line.contains("name=last,"))
    })
    .await;
    assert!(told.contains("[msg #4]"), "{told}");
}

/// The log can be appended to, and be read nowhere else: the write is done, and it must not sound as if it were not.
#[tokio::test]
async fn a_repeated_write_whose_place_cannot_be_read_is_not_said_to_be_unwritten() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let write = put("a", 1).keyed("k");
    let first = write.send(&service.client).await;
    assert_eq!(written(&first), (200, 1, true));
    // So that the repeated one is granted by memory, and nothing is loaded for it.
    service.client.put("a", 2).await;
    let mut admin = database.connect().await;
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&mut admin).await.unwrap();
    // Of the database that one is in, it is not allowed.
    let mut elsewhere = PgConnection::connect(&database.url.replace(&name, "postgres")).await.unwrap();
    let mut allow = async |allowed: bool| {
        let allow = format!("alter database {name} allow_connections {allowed}");
        elsewhere.execute(allow.as_str()).await.unwrap();
    };
    allow(false).await;
    let others = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                   where datname = current_database() and pid <> pg_backend_pid()
                     and query not like '%append_events%' and query not like '%wanted (name, index)%'";
    let _ended: i64 = sqlx::query_scalar(others).fetch_one(&mut admin).await.unwrap();
    let unread = write.send(&service.client).await;
    assert_eq!(unread.status, 503, "{unread:?}");
    assert_eq!(unread.json()["type"], "urn:config-api:problem:outcome-unknown");
    allow(true).await;
    let again = write.send(&service.client).await;
    assert_eq!((told(&again), is_replayed(&again)), (told(&first), true));
}
