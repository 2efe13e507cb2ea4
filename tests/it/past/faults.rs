//! The log out of reach while somebody reads it.

use std::cell::Cell;

use end_to_end::{CommandService, Database, Proxy, QueryService, until};
use futures_util::future::join_all;
use sqlx::Connection;

/// Connections of either pool of the query service.
const CONNECTIONS: i64 = 4;

/// Enough for all of them.
const READERS: usize = 8;

/// Answers that were lost never come: whoever waits for one without a limit waits for ever.
#[tokio::test]
async fn when_a_half_open_link_is_back_the_log_is_read_again() {
    let database = Database::new().await;
    let proxy = Proxy::to(&database).await;
    let command = CommandService::start(&database).await;
    command.client.put("a", 1).await;
    let query = QueryService::start(&proxy.database).await;
    let (mut holder, mut admin) = (database.connect().await, database.connect().await);
    let mut held = holder.begin().await.unwrap();
    sqlx::query("lock table events in access exclusive mode").execute(&mut *held).await.unwrap();
    let lost = Cell::new(false);
    let past = join_all((0..READERS).map(async |_| {
        loop {
            let answer = query.client.get("/v1/config/a/at/2099-01-01T00:00:00Z").await;
            assert_eq!(answer.status, 503, "{answer:?}");
            if lost.get() {
                return;
            }
        }
    }));
    let missed = join_all((0..READERS).map(async |_| {
        while !lost.get() {
            let mut watcher = query.client.watch("from=0", None).await;
            assert_eq!(watcher.expect("reset").await.data["reason"], "unavailable");
        }
    }));
    let health = query.client.get("/v1/health");
    let lose = async {
        let waiting = "select count(*) filter (where query like '%version_at%'),
                              count(*) filter (where query like '%position - part - 1%')
                         from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        until("all connections are read from", async || {
            let (past, missed): (i64, i64) = sqlx::query_as(waiting).fetch_one(&mut admin).await.unwrap();
            (past >= CONNECTIONS && missed >= CONNECTIONS).then_some(())
        })
        .await;
        proxy.lose_answers();
        lost.set(true);
        held.rollback().await.unwrap();
    };
    let (_, _, health, ()) = tokio::join!(past, missed, health, lose);
    assert_eq!(health.status, 503, "{health:?}");
    proxy.up();
    until("the past is told", async || (query.client.get("/v1/config/a/history").await.status == 200).then_some(()))
        .await;
    for check in ["database", "eventstore", "projection"] {
        until(&format!("the {check} is well"), async || {
            (query.client.get("/v1/health").await.json()["checks"][check] == "ok").then_some(())
        })
        .await;
    }
    until("watchers get what they missed", async || {
        let mut watcher = query.client.try_watch("from=0", None).await?;
        loop {
            let event = watcher.next().await?;
            if event.event != "bookmark" {
                return (event.changes() == ["a@1"]).then_some(());
            }
        }
    })
    .await;
}
