//! What is answered is durable. A standby that must have it, and is not there, stands for a disk that is slow: commits wait
//! for it, and so must their answers.

use std::pin::pin;

use command_service::store::{IdempotencyKey, Keyed};
use end_to_end::{Database, cluster, until};
use futures_util::FutureExt;
use sqlx::{Executor, PgConnection};
use tokio::task::JoinSet;

use super::{CommitterOptions, Running, Unit, place, set};
use crate::append::group::names;

#[tokio::test]
async fn an_answer_waits_until_it_is_durable_also_one_that_repeats_what_others_wrote() {
    let cluster = cluster::own().await;
    let database = Database::in_cluster(&cluster).await;
    let mut admin = database.connect().await;
    let committer = Running::on(&database.url, CommitterOptions::default());
    let key = IdempotencyKey { hash: [1; 32], request: [2; 32] };
    let keyed = |unit| Unit { keyed: Some(Keyed { key, answer: "1".to_owned() }), ..unit };
    take_standby(&database, &mut admin).await;

    let mut first = pin!(committer.append(keyed(set("a", 0))));
    assert!(first.as_mut().now_or_never().is_none());
    let pid = until_one_waits_for_the_standby(&mut admin, 0).await;
    assert!(first.as_mut().now_or_never().is_none(), "it is written, and may yet be lost");
    // It is carried out all the same, and no longer waits. Its repetition finds it.
    let ended = sqlx::query("select pg_terminate_backend($1)").bind(pid);
    ended.execute(&mut admin).await.unwrap();
    until_one_waits_for_the_standby(&mut admin, pid).await;
    assert_eq!(names(&mut admin).await, ["a"]);
    assert!(first.as_mut().now_or_never().is_none(), "what it repeats may yet be lost");

    set_standby(&mut admin, "default").await;
    assert_eq!(place(first.await), Ok(1));

    // What was answered under a key may be told again only when it is durable, too.
    take_standby(&database, &mut admin).await;
    let mut again = pin!(committer.append(keyed(set("b", 0))));
    assert!(again.as_mut().now_or_never().is_none());
    until_one_waits_for_the_standby(&mut admin, 0).await;
    assert!(again.as_mut().now_or_never().is_none(), "what it was told may yet be lost");
    set_standby(&mut admin, "default").await;
    assert_eq!(place(again.await), Err("answered"));
    assert_eq!(names(&mut admin).await, ["a"]);
}

/// Waits until one append waits for the standby, in another session than this; in which.
async fn until_one_waits_for_the_standby(admin: &mut PgConnection, before: i32) -> i32 {
    until("an append waits for the standby", async || {
        waiting(admin, "append_events").await.into_iter().find(|pid| *pid != before)
    })
    .await
}

/// The sessions that wait for the standby with a statement like this.
async fn waiting(admin: &mut PgConnection, statement: &str) -> Vec<i32> {
    let waiting = "select pid from pg_stat_activity where wait_event = 'SyncRep' and query like '%' || $1 || '%'";
    sqlx::query_scalar(waiting).bind(statement).fetch_all(admin).await.expect("it answers")
}

/// From now on no commit comes through. A session that has read the new setting says nothing of the others: so commits
/// are tried until one waits.
async fn take_standby(database: &Database, admin: &mut PgConnection) {
    set_standby(admin, "'absent'").await;
    let (mut session, mut trying) = (database.connect().await, JoinSet::new());
    let commit = "select pg_logical_emit_message(true, '', '')";
    trying.spawn(async move { while session.execute(commit).await.is_ok() {} });
    until("commits wait", async || (!waiting(admin, "emit_message(true").await.is_empty()).then_some(())).await;
}

async fn set_standby(admin: &mut PgConnection, name: &str) {
    let set = format!("alter system set synchronous_standby_names to {name}");
    admin.execute(set.as_str()).await.expect("a superuser may");
    admin.execute("select pg_reload_conf()").await.expect("a superuser may");
}
