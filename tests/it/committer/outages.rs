//! A write whose database goes away: it is repeated until its outcome is known, and failed is never mixed with unknown.

use std::time::Duration;

use embedded_postgres::StopMode;
use end_to_end::{CommandService, Database, HeldLog, LogLines, Proxy, cluster, until, wait::later};
use serde_json::json;
use sqlx::{Executor, PgConnection};
use tokio::task::JoinSet;

use super::{CommitterOptions, Running, place, put, set};
use crate::append::group::names;

const TRYING_AGAIN: &str = "[warning] An append did not get through; trying again";

const TERMINATE_SERVICE: &str = "
select pg_terminate_backend(pid) from pg_stat_activity
 where datname = current_database() and application_name = 'tests command'";

#[tokio::test]
async fn an_append_whose_session_is_ended_is_repeated_and_its_client_notices_nothing() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let mut log = HeldLog::take(&database).await;
    let mut writing = JoinSet::new();
    writing.spawn(put(service.client.clone(), "a"));
    let first = log.until_waiting(1).await[0];
    log.terminate(first).await;
    until_waiting_elsewhere(&mut log, first).await;
    log.release().await;

    let answer = writing.join_next().await.unwrap().unwrap();
    assert_eq!((answer.status.as_u16(), &answer.json()["changed"]), (200, &json!(true)), "{answer:?}");
    assert_eq!(names(&mut database.connect().await).await, ["a"]);
}

/// The commit succeeds and its answer is lost: the repetition finds the event, and must not take it for another's.
#[tokio::test]
async fn an_append_whose_answer_is_lost_gets_its_receipt_and_is_in_the_log_once() {
    let database = Database::new().await;
    let mut watcher = database.connect().await;
    let network = Proxy::to(&database).await;
    let service = CommandService::start(&network.database).await;
    let mut log = HeldLog::take(&database).await;
    let mut writing = JoinSet::new();
    writing.spawn(put(service.client.clone(), "a"));
    log.until_waiting(1).await;
    network.lose_answers();
    log.release().await;
    until_written(&mut watcher, "a").await;
    assert!(writing.try_join_next().is_none(), "nobody can know yet");
    network.down().await;
    network.up();

    let answer = writing.join_next().await.unwrap().unwrap();
    let told = answer.json();
    assert_eq!((answer.status.as_u16(), &told["changed"], &told["version"]), (200, &json!(true), &json!(1)), "{told}");
    assert_eq!(names(&mut watcher).await, ["a"]);
}

#[tokio::test]
async fn an_append_that_is_cut_off_to_its_end_is_unknown_and_may_be_written_all_the_same() {
    let database = Database::new().await;
    let mut watcher = database.connect().await;
    let network = Proxy::to(&database).await;
    let committer = Running::on(&network.database.url, CommitterOptions::default());
    let mut log = HeldLog::take(&database).await;
    let unit = set("a", 0);
    let cut = async {
        log.until_waiting(1).await;
        network.down().await;
    };
    let (cut_off, ()) = tokio::join!(committer.append_until_soon(unit.clone()), cut);
    assert_eq!(place(cut_off), Err("unknown"));
    assert_eq!(names(&mut watcher).await, [""; 0]);

    // Its session has not heard of the cut, and goes on when it gets the lock.
    log.release().await;
    until_written(&mut watcher, "a").await;
    network.up();
    assert_eq!(place(committer.append(unit).await), Ok(1), "the same command gets its receipt");
    assert_eq!(names(&mut watcher).await, ["a"]);
    let counted = ["unknown", "repeated", "appended"].map(|outcome| committer.counted(outcome));
    assert_eq!(counted, [1.0, 1.0, 0.0]);
}

/// The session that was lost may still carry the append out; only an answer to its very repetition settles it.
#[tokio::test]
async fn after_a_lost_session_a_refusal_or_a_cancel_does_not_say_that_nothing_was_written() {
    let database = Database::new().await;
    database.execute("alter table events add constraint poison check (aggregate_id <> 'poison')").await;
    let committer = Running::on(&database.url, CommitterOptions::default());
    for (name, cancelled, expected) in [("poison", false, Err("unknown")), ("a", true, Ok(1))] {
        let mut log = HeldLog::take(&database).await;
        let lost_and_repeated = async {
            let lost = log.until_waiting(1).await[0];
            log.terminate(lost).await;
            let again = until_waiting_elsewhere(&mut log, lost).await;
            if cancelled {
                log.cancel(again).await;
            }
            log.release().await;
        };
        let (appended, ()) = tokio::join!(committer.append(set(name, 0)), lost_and_repeated);
        assert_eq!(place(appended), expected, "{name}");
    }
    assert_eq!(names(&mut database.connect().await).await, ["a"]);
}

/// A connection is asked before anything is sent on it whose outcome would be unknown then.
#[tokio::test]
async fn an_append_that_finds_its_idle_connection_dead_is_unavailable_and_not_unknown() {
    let database = Database::new().await;
    let network = Proxy::to(&database).await;
    let committer = Running::on(&network.database.url, CommitterOptions::default());
    assert_eq!(place(committer.append(set("a", 0)).await), Ok(1));
    network.down().await;
    later(Duration::from_secs(1)).await;
    assert_eq!(place(committer.append_until_soon(set("b", 0)).await), Err("unavailable"));
    network.up();
    assert_eq!(place(committer.append(set("c", 0)).await), Ok(2));
    assert_eq!(names(&mut database.connect().await).await, ["a", "c"]);
}

/// Nobody says that the link is dead: the attempt has a limit of its own.
#[tokio::test]
async fn an_append_on_a_dead_link_is_given_up_as_unknown_and_repeated_when_the_network_is_back() {
    let database = Database::new().await;
    let network = Proxy::to(&database).await;
    let options = CommitterOptions { attempt_limit: Duration::from_secs(1), ..CommitterOptions::default() };
    let committer = Running::on(&network.database.url, options);
    assert_eq!(place(committer.append(set("a", 0)).await), Ok(1));
    network.lose_answers();
    assert_eq!(place(committer.append_until_soon(set("b", 0)).await), Err("unknown"));
    network.down().await;
    network.up();
    assert_eq!(place(committer.append(set("c", 0)).await), Ok(3));
    assert_eq!(names(&mut database.connect().await).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn an_append_to_a_stopped_postgres_is_unavailable_in_the_end_and_not_written() {
    let cluster = cluster::own().await;
    let database = Database::in_cluster(&cluster).await;
    let committer = Running::on(&database.url, CommitterOptions::default());
    cluster.stop(StopMode::Immediate).await.unwrap();
    assert_eq!(place(committer.append_until_soon(set("a", 0)).await), Err("unavailable"));
    cluster.start_again().await.unwrap();
    assert_eq!(place(committer.append(set("b", 0)).await), Ok(1));
    assert_eq!(names(&mut database.connect().await).await, ["b"]);
    assert_eq!(["failed", "appended"].map(|outcome| committer.counted(outcome)), [1.0, 1.0]);
}

#[tokio::test]
async fn an_append_that_somebody_cancels_is_unavailable_and_not_written() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let mut log = HeldLog::take(&database).await;
    let mut writing = JoinSet::new();
    writing.spawn(put(service.client.clone(), "a"));
    let append = log.until_waiting(1).await[0];
    log.cancel(append).await;
    let answer = writing.join_next().await.unwrap().unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["type"], "urn:config-api:problem:event-store-unavailable");
    log.release().await;
    assert_eq!(put(service.client.clone(), "b").await.status, 200);
    assert_eq!(names(&mut database.connect().await).await, ["b"]);
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_left_until_it_or_another_does() {
    let database = Database::new().await;
    let log = LogLines::collect();
    let mut admin = database.connect().await;
    set_read_only(&mut admin, "on").await;
    let committer = Running::on(&database.url, CommitterOptions::default());
    assert_eq!(place(committer.append_until_soon(set("a", 0)).await), Err("unavailable"));
    assert!(log.lines().iter().any(|line| line.starts_with(TRYING_AGAIN) && line.contains("read-only transaction")));

    let before = log.count(TRYING_AGAIN);
    let writable = async {
        until("it was tried", async || (log.count(TRYING_AGAIN) > before).then_some(())).await;
        set_read_only(&mut admin, "off").await;
    };
    let (appended, ()) = tokio::join!(committer.append(set("b", 0)), writable);
    assert_eq!(place(appended), Ok(1));
    assert_eq!(names(&mut admin).await, ["b"]);
}

#[tokio::test]
async fn a_write_waits_for_a_server_that_turned_read_only_while_it_was_connected() {
    let database = Database::new().await;
    let mut admin = database.connect().await;
    let service = CommandService::start(&database).await;
    service.client.put("before", 1).await;
    set_read_only(&mut admin, "on").await;
    admin.execute(TERMINATE_SERVICE).await.unwrap();
    let writable = async {
        until("health says why, and balancers hear it", async || {
            let health = service.client.get("/v1/health").await.json();
            let told = health["checks"]["eventstore"].as_str().is_some_and(|told| told.contains("read-only"));
            (told && service.client.get("/v1/ready").await.status == 503).then_some(())
        })
        .await;
        set_read_only(&mut admin, "off").await;
    };
    let (answer, ()) = tokio::join!(put(service.client.clone(), "a"), writable);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(names(&mut admin).await, ["before", "a"]);
}

/// Of sessions that begin later.
pub(crate) async fn set_read_only(admin: &mut PgConnection, on_or_off: &str) {
    let database: String =
        sqlx::query_scalar("select current_database()").fetch_one(&mut *admin).await.expect("it answers");
    let set = format!("alter database {database} set default_transaction_read_only = {on_or_off}");
    admin.execute(set.as_str()).await.expect("an owner may");
}

pub(super) async fn until_waiting_elsewhere(log: &mut HeldLog, before: i32) -> i32 {
    until("it waits in another session", async || {
        let now = log.until_waiting(1).await[0];
        (now != before).then_some(now)
    })
    .await
}

async fn until_written(watcher: &mut PgConnection, name: &str) {
    until("the event is in the log", async || (names(&mut *watcher).await == [name]).then_some(())).await;
}
